package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func TestShapeCountsByAge(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Retry = []time.Duration{time.Hour} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
	s.start()
	s.pause(control.Filter{Domain: "else.test"}, "wait for the test")
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	s.send(spool.Envelope{Sender: "a@One.test", Stream: "one", Arrived: ago(time.Minute)}, letter, "a@far.test", "b@far.test", "c@else.test")
	s.send(spool.Envelope{Sender: "b@one.test", Stream: "two", Arrived: ago(15 * time.Minute)}, letter, "a@far.test")
	s.send(spool.Envelope{Stream: "two", Arrived: ago(48 * time.Hour)}, letter, "a@else.test")
	s.until("all tried", func() bool { return s.status().Deferred == 3 && s.status().Waiting == 2 })
	for _, x := range []struct {
		by     string
		filter control.Filter
		want   string
	}{
		{"destination", control.Filter{}, "far.test [2 0 1 0 0 0 0 0 0 0], else.test [1 0 0 0 0 0 0 0 0 1]"},
		{"destination", control.Filter{State: "deferred"}, "far.test [2 0 1 0 0 0 0 0 0 0]"},
		{"stream", control.Filter{}, "one [3 0 0 0 0 0 0 0 0 0], two [0 0 1 0 0 0 0 0 0 1]"},
		{"sender", control.Filter{}, "one.test [3 0 1 0 0 0 0 0 0 0], MAILER-DAEMON [0 0 0 0 0 0 0 0 0 1]"},
		{"queue", control.Filter{Domain: "far.test"}, "general [2 0 1 0 0 0 0 0 0 0]"},
		{"site", control.Filter{Queue: "none"}, ""},
	} {
		list, err := s.admin().Shape(t.Context(), x.by, x.filter)
		var got []string
		for _, row := range list {
			got = append(got, fmt.Sprint(row.Name, " ", row.ByAge))
		}
		if err != nil || strings.Join(got, ", ") != x.want {
			t.Errorf("by %s of %s: %v, %v", x.by, x.filter, got, err)
		}
	}
}

// TestSiteTellsHowItGoes wants what a listing of sites shows of transactions.
func TestSiteTellsHowItGoes(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{
		AcceptTime: 20 * time.Millisecond, HostConnections: 1,
	}})
	s.start()
	for i := range 50 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
	}
	s.until("all delivered", func() bool { return len(s.at("far")) == 50 })
	s.until("it is told", func() bool { // the last replies are read after that
		x := s.status().Sites[0]
		return x.Rate > 0 && x.Latency >= 0.02 && x.Refused > 0
	})
}
