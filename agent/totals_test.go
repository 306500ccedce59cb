package agent

import (
	"maps"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func TestTotalsCountWhatBecameOfMail(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Retry = []time.Duration{time.Hour} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
		sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
		sink.Provider{Name: "grey", Domains: []string{"grey.test"}, Behaviour: sink.Behaviour{TempShare: 1}},
	)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@far.test", "c@far.test", "a@strict.test", "b@strict.test", "a@grey.test")
	s.until("tried, and reported", func() bool { return s.status().Deferred == 1 && s.status().Active == 0 && len(s.at("host")) == 1 })
	s.act(control.VerbCancel, control.Filter{Domain: "grey.test"})
	s.until("the report is settled", s.empty)
	got, err := s.admin().Totals(t.Context())
	if err != nil || len(got.Queues) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if want := (control.QueueTotals{Name: "general", Sent: 3, Deferred: 1, Bounced: 2, Cancelled: 1}); got.Queues[0] != want {
		t.Errorf("%+v, want %+v", got.Queues[0], want)
	}
	if want := (control.QueueTotals{Name: "handback", HandedBack: 1}); got.Queues[1] != want {
		t.Errorf("%+v, want %+v", got.Queues[1], want)
	}
	sum := func(m map[string]int) (n int) {
		for c := range maps.Values(m) {
			n += c
		}
		return n
	}
	if sum(got.Bounces) != 2 || sum(got.Deferrals) != 1 || got.Since.IsZero() {
		t.Errorf("%+v", got)
	}
}
