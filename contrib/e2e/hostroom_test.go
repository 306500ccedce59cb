package e2e

import (
	"strings"
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
	// One is done in half the time to the next, so on a slow machine, too, one place is enough.
	const own, each = 30, 3
	var sent ledger.Ledger
	var work sync.WaitGroup
	run := func(g *inject.Generator, in inject.Injector, n int) {
		in.Addr, in.Ledger = r.Host.SMTPAddr(), &sent
		res, err := in.Run(r.ctx, n, g.Message)
		if err != nil || res.Messages != n {
			t.Errorf("%d of %d sent: %v, %v", res.Messages, n, res.Err, err)
		}
	}
	work.Go(func() {
		g := &inject.Generator{Seed: 1, Domains: []string{"limited.test"}, Transactional: 1}
		run(g, inject.Injector{Rate: each}, own)
	})
	r.until("the host sends", func() bool { return r.Internet.Ledger().Len() > 5 })
	work.Go(func() {
		g := &inject.Generator{Seed: 2, Domains: []string{"limited.test"}}
		run(g, inject.Injector{Connections: 5}, 500)
	})
	work.Wait()
	if t.Failed() {
		return
	}
	r.exact(&sent)
	refused := 0
	for line := range strings.Lines(read(t, r.Host.Log())) {
		if strings.Contains(line, "to=<") && strings.Contains(line, "status=deferred") {
			refused++
		}
	}
	t.Logf("%d of the host's own %d messages were put off", refused, own)
	if refused > own/10 {
		t.Errorf("%d of the host's own %d messages were put off", refused, own)
	}
}
