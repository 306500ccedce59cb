package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// While the host has enough to do nothing goes back to it; when it has room again,
// all does. This Postfix keeps mail in its active queue until it is told otherwise.
func TestHandBackWaitsForTheHost(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		postfix: lab.PostfixOptions{Extra: map[string]string{"default_destination_rate_delay": "1h"}},
		millrace: lab.MillraceOptions{Set: map[string]string{
			"handback.max_message_rate": `"10/s"`, "handback.max_host_queue": "5",
		}},
	})
	admin := control.NewClient(r.Millrace.Control())
	why := "until it is handed back"
	if err := admin.Pause(r.ctx, control.Pause{Filter: control.Filter{Stream: "weekly.news.sender.test"}, Reason: why}); err != nil {
		t.Fatal(err)
	}
	const n = 120 // twelve seconds' worth: on a busy machine the host is looked at every few
	g := &inject.Generator{Seed: 23, Domains: []string{"far.test"}, MinSize: 1 << 10}
	in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 2}
	sent, err := in.Run(r.ctx, n, g.Message)
	if err != nil || sent.Messages != n {
		t.Fatalf("%d of %d messages taken: %v %v", sent.Messages, n, sent.Err, err)
	}
	r.until("all wait in Millrace", func() bool { return r.left() == n })
	if said := r.verb("handback", "--all", "--yes"); !strings.Contains(said, fmt.Sprint(n, " recipients on the way")) {
		t.Errorf("millrace handback said: %s", said)
	}
	state := func() control.HandbackStatus {
		back, err := admin.HandbackStatus(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return back
	}
	// held counts the times that the agent found too much.
	held := func() (times int) {
		changes, err := admin.Why(r.ctx, "relay:"+r.Host.HandbackAddr())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if strings.Contains(c.Cause, "max_host_queue is 5") {
				times++
			}
		}
		return times
	}
	r.until("it is held", func() bool { return held() > 0 })
	// An agent that has to wait for the machine looks late, and some goes on until then: what
	// counts is that between two looks nothing does.
	first, times := state(), held()
	r.until("it is held on, and nothing went on meanwhile", func() bool {
		now, more := state(), held()
		if more == times {
			return false
		}
		same := now.Done == first.Done && now.Waiting == first.Waiting && now.Held != "" && now.HostQueue > 5 && now.Waiting > 0 && now.Later == 0
		first, times = now, more
		return same
	})
	if err := r.Postfix.Set(r.ctx, "default_destination_rate_delay", "0"); err != nil {
		t.Fatal(err)
	}
	r.reloadPostfix()
	r.exact(sent.Ledger)
	if now := state(); now.Left() != 0 || now.Done != n || now.Held != "" && now.HostQueue > 5 {
		t.Errorf("in the end: %+v", now)
	}
}

// A drain needs no reload and no configuration, outlives the daemons, and ends when
// an admin says so.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{{Name: "far", Domains: farDomains, Behaviour: sink.Behaviour{TempShare: 1}}},
		millrace:  lab.MillraceOptions{Set: map[string]string{"general.retry": `["1s"]`}},
	})
	p := &post{room: r}
	before, line := p.send(0)
	if !strings.Contains(line, "verdict=delrcpt") {
		t.Fatalf("not diverted: %s", line)
	}
	r.until("it waits", func() bool { return r.left() == 1 })
	r.verb("drain")
	during, _ := p.diverts(false, 0)
	r.stop(r.Millrace.Milter, r.Millrace.Agent)
	r.start(r.Millrace.Agent, r.Millrace.Milter)
	after, line := p.send(0)
	if !strings.Contains(line, "verdict=observe") {
		t.Errorf("after a restart: %s", line)
	}
	if err := r.Internet.Change("far", func(b *sink.Behaviour) { b.TempShare = 0 }); err != nil {
		t.Fatal(err)
	}
	r.until("Postfix has delivered what stayed", func() bool {
		if err := r.Postfix.Flush(r.ctx); err != nil {
			t.Fatal(err)
		}
		n, err := r.Postfix.QueueLength(r.ctx)
		return err == nil && n == 0
	})
	if said := r.verb("drain", "--wait"); !strings.HasSuffix(said, "no recipients left: 0 waiting, 0 deferred, 0 under way\n") || r.left() != 0 {
		t.Errorf("with %d left, millrace drain said:\n%s", r.left(), said)
	}
	p.way(before, true)
	p.way(during, false)
	p.way(after, false)
	r.verb("drain", "--end")
	again, _ := p.diverts(true, 0)
	p.way(again, true)
	r.exact(&p.sent)
}
