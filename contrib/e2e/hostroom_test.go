package e2e

import (
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestHostKeepsItsRoom drains a blast to a receiver that allows few connections,
// while the host sends it mail of its own, one message after the other. From when the receiver
// has refused somebody, so that its limit is known, the host finds a free place. Without the
// milter's word of it to the agent, most of it is refused.
func TestHostKeepsItsRoom(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{{Name: "limited", Domains: []string{"limited.test"}, Behaviour: sink.Behaviour{
			RTT: 10 * time.Millisecond, AcceptTime: 100 * time.Millisecond, HostConnections: 8,
		}}},
		postfix: lab.PostfixOptions{Extra: map[string]string{
			"minimal_backoff_time": "5s", "queue_run_delay": "5s", "smtp_connection_cache_on_demand": "no",
			"default_destination_concurrency_failed_cohort_limit": "0", // each message is tried, whatever became of the last one
		}},
		millrace: lab.MillraceOptions{Extra: "[[queue]]\nname = \"limited\"\ndomains = [\"limited.test\"]\nmax_sessions = 40\n"},
	})
	const blast, least = 800, 15
	var sent ledger.Ledger
	var work sync.WaitGroup
	run := func(in inject.Injector, n int, message func(int) *inject.Message) {
		in.Addr, in.Ledger = r.Host.SMTPAddr(), &sent
		res, err := in.Run(r.ctx, n, message)
		if err != nil || res.Messages != n {
			t.Errorf("%d of %d sent: %v, %v", res.Messages, n, res.Err, err)
		}
	}
	tried := regexp.MustCompile(`: (\w+): to=<.* status=(\w+)`)
	// firstTries are how the first tries of the host's messages ended, in their order. Later
	// ones say nothing: what was put off is tried again all at once, for which one place is
	// not enough.
	firstTries := func() (list []string) {
		seen := map[string]bool{}
		for _, m := range tried.FindAllStringSubmatch(read(t, r.Host.Log()), -1) {
			if !seen[m[1]] {
				seen[m[1]] = true
				list = append(list, m[2])
			}
		}
		return list
	}
	arrived := func() int { return r.Internet.Ledger().Len() }
	known := -1 // how many the host had tried when somebody had been refused
	work.Go(func() {
		g := &inject.Generator{Seed: 1, Domains: []string{"limited.test"}, Transactional: 1}
		for i := 0; arrived() < blast; i++ {
			if known < 0 && r.Internet.Stats().Hosts[0].RefusedConnections() > 0 {
				known = i
			}
			run(inject.Injector{}, 1, func(int) *inject.Message { return g.Message(i) })
			// One after the other: so one place is enough, however slow the machine is.
			if err := lab.Until(r.ctx, func() (bool, error) { return len(firstTries()) > i, nil }); err != nil {
				t.Errorf("the host has not tried %d: %v", i, err)
				return
			}
		}
	})
	r.until("the host sends", func() bool { return arrived() > 5 })
	work.Go(func() {
		g := &inject.Generator{Seed: 2, Domains: []string{"limited.test"}}
		run(inject.Injector{Connections: 5}, blast, g.Message)
	})
	work.Wait()
	if t.Failed() {
		return
	}
	list := firstTries()
	r.exact(&sent)
	if known < 0 || len(list)-known < least {
		t.Fatalf("the receiver's limit was known from the host's message %d of %d on", known, len(list))
	}
	refused := 0
	for _, status := range list[known:] {
		if status == "deferred" {
			refused++
		}
	}
	t.Logf("%d of the host's own %d messages were put off", refused, len(list)-known)
	if refused > (len(list)-known)/4 {
		t.Errorf("%d of the host's own %d messages were put off; why the agent left no room:\n%s", refused, len(list)-known, r.verb("why", "limited.test"))
	}
}
