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
// while the host sends it mail of its own: that finds a free one. Without the
// milter's word of it to the agent, a third and more of it is refused.
func TestHostKeepsItsRoom(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{{Name: "limited", Domains: []string{"limited.test"}, Behaviour: sink.Behaviour{
			RTT: 10 * time.Millisecond, AcceptTime: 100 * time.Millisecond, HostConnections: 8,
		}}},
		postfix:  lab.PostfixOptions{Extra: map[string]string{"minimal_backoff_time": "5s", "queue_run_delay": "5s", "smtp_connection_cache_on_demand": "no"}},
		millrace: lab.MillraceOptions{Extra: "[[queue]]\nname = \"limited\"\ndomains = [\"limited.test\"]\nmax_sessions = 40\n"},
	})
	const own = 30
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
	// hostTried are the host's messages that it has tried to deliver, with what became of
	// the first try. Later ones say nothing: what was put off is tried again all at once, for
	// which one place is not enough.
	hostTried := func() map[string]string {
		first := map[string]string{}
		for _, m := range tried.FindAllStringSubmatch(read(t, r.Host.Log()), -1) {
			if _, ok := first[m[1]]; !ok {
				first[m[1]] = m[2]
			}
		}
		return first
	}
	work.Go(func() {
		g := &inject.Generator{Seed: 1, Domains: []string{"limited.test"}, Transactional: 1}
		for i := range own {
			run(inject.Injector{}, 1, func(int) *inject.Message { return g.Message(i) })
			// One after the other: so one place is enough, however slow the machine is.
			if err := lab.Until(r.ctx, func() (bool, error) { return len(hostTried()) > i, nil }); err != nil {
				t.Errorf("the host has not tried %d: %v", i, err)
				return
			}
		}
	})
	r.until("the host sends", func() bool { return r.Internet.Ledger().Len() > 5 })
	work.Go(func() {
		g := &inject.Generator{Seed: 2, Domains: []string{"limited.test"}}
		run(inject.Injector{Connections: 5}, 500, g.Message)
	})
	work.Wait()
	if t.Failed() {
		return
	}
	r.exact(&sent)
	refused := 0
	for _, status := range hostTried() {
		if status == "deferred" {
			refused++
		}
	}
	t.Logf("%d of the host's own %d messages were put off", refused, own)
	if refused > own/6 {
		t.Errorf("%d of the host's own %d messages were put off", refused, own)
	}
}
