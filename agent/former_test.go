package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// A stream that was paused, put on hold by a reply rule, given a priority or suppressed
// for under a name that the milter gives no more (an id of a recipient) stays so after the
// upgrade: mail that has the name as its former one is held by it, and what was spooled
// under it too.
func TestOrdersOnAFormerNameOfAStreamHold(t *testing.T) {
	t.Parallel()
	const kept = `{
	"brakes": [
		{"filter": {"stream": "r-77:acme"}, "reason": "wrong price", "since": "2026-11-20T03:00:00Z", "who": "root"},
		{"filter": {"stream": "u-5.list-id.esp.test"}, "reason": "x", "since": "2026-11-20T03:00:00Z", "who": "reply rule unauthenticated"}
	],
	"priorities": {"r-80:acme": 4}
}
`
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	if err := os.MkdirAll(s.config.Agent.StateDirectory, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile), []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	s.send(spool.Envelope{Stream: "r-77:acme"}, letter, "before@far.test") // by the milter of before
	s.start()
	s.send(spool.Envelope{Stream: "acme", Formerly: "r-77:acme"}, letter, "after@far.test")
	s.send(spool.Envelope{Stream: "esp.test", Formerly: "u-5.list-id.esp.test"}, letter, "rule@far.test")
	s.send(spool.Envelope{Stream: "acme", Formerly: "r-78:acme"}, letter, "other@far.test")
	s.send(spool.Envelope{Stream: "acme", Formerly: "r-80:acme"}, letter, "first@far.test")
	s.until("the rest goes", func() bool { return s.arrivals("far") == "first other" })
	if got := s.listed(control.Filter{State: "held"}); got != "after before rule" {
		t.Errorf("held: %s", got)
	}
	s.stop() // and over a restart of the new agent
	s.start()
	s.until("loaded", func() bool { return s.listed(control.Filter{State: "held"}) == "after before rule" })
	s.resume(control.Filter{Stream: "r-77:acme"})
	s.until("it goes", func() bool { return s.arrivals("far") == "after before first other" })
	s.resume(control.Filter{Stream: "u-5.list-id.esp.test"})
	s.until("all goes", func() bool { return s.arrivals("far") == "after before first other rule" && s.empty() })
}

func TestSuppressionUnderAFormerNameHolds(t *testing.T) {
	t.Parallel()
	s := newStage(t, dropping(1), gone)
	s.start()
	s.until("bounced", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "r-77:acme"}, letter, "x@gone.test")))
	s.until("suppressed", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "acme", Formerly: "r-77:acme"}, letter, "x@gone.test")))
	if got := s.statuses("x@gone.test"); len(got) != 2 || got[1] != "suppressed" {
		t.Errorf("outcomes %q", got)
	}
}
