package agent

import (
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestSendingStopsWithTheHost has the host stopped at the start, started, and stopped
// again; an agent that is not asked to does not care.
func TestSendingStopsWithTheHost(t *testing.T) {
	t.Parallel()
	far := sink.Provider{Name: "far", Domains: []string{"far.test"}}
	s := newStage(t, func(c *config.Config) { c.Agent.StopWithHost = true }, far)
	careless := newStage(t, nil, far)
	host := func(down bool) {
		for _, s := range []*stage{s, careless} {
			if err := s.net.Change("host", func(b *sink.Behaviour) { b.Down = down }); err != nil {
				t.Fatal(err)
			}
		}
	}
	paused := func() bool {
		st, err := s.admin().Standing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(st.Pauses) == 1 && st.Pauses[0].Reason == "the host MTA is stopped"
	}
	host(true)
	s.start()
	careless.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	careless.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	careless.until("delivered", func() bool { return len(careless.at("far")) == 1 })
	s.until("held", func() bool { return s.listed(control.Filter{State: "held"}) == "a" })
	if !paused() || len(s.at("far")) != 0 {
		t.Errorf("%d sent while the host is stopped", len(s.at("far")))
	}
	host(false)
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	host(true)
	s.until("stopped again", paused)
}
