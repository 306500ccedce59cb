package agent

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func (s *stage) orders() control.StandingOrders {
	s.t.Helper()
	st, err := s.admin().Standing(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// A stream whose addresses are gone is held at that provider; the same stream elsewhere and
// another stream there go on. The admin is told by a mail through the host, and everywhere else
// where he may look. It is held over a restart, and what he has resumed is not held again.
func TestBreakerHoldsAStreamAtOneProvider(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
		c.Breaker = config.Breaker{HardBounces: 0.05, Complaints: 0.003, Notify: "postmaster"}
		q := c.General
		q.Name, q.MX = "gone", []string{"*.gone.test"}
		c.Queues = append(c.Queues, q)
	}, gone, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	news := spool.Envelope{Sender: "n@news.test", Stream: "news"}
	filter := control.Filter{Queue: "gone", Stream: "news"}
	held := func() bool {
		return slices.ContainsFunc(s.orders().Pauses, func(p control.Pause) bool { return p.Filter == filter && p.Who == control.Breaker })
	}
	for i := 0; !held(); i++ {
		if i == 20 {
			t.Fatal("20 hard bounces of 20, and not held")
		}
		s.until("bounced", s.outcome(s.send(news, letter, fmt.Sprintf("x%d@gone.test", i))))
	}
	waits := s.send(news, letter, "late@gone.test")
	s.send(news, letter, "a@far.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, "y@gone.test")
	s.until("others go on", func() bool { return len(s.statuses("y@gone.test")) == 1 })
	s.until("so it does elsewhere", func() bool { return s.arrivals("far") == "a" })
	s.until("the admin's mail", func() bool {
		return slices.ContainsFunc(s.at("host"), func(a accepted) bool { return a.recipient == "postmaster" })
	})
	for _, a := range s.at("host") {
		if a.recipient == "postmaster" && (!strings.Contains(a.content, "Auto-Submitted: auto-generated\r\n") || !strings.Contains(a.content, "millrace resume --queue gone")) {
			t.Errorf("the mail: %s", a.content)
		}
	}
	if list, err := s.admin().Streams(t.Context()); err != nil || !slices.ContainsFunc(list, func(x control.Stream) bool {
		return x.Name == "news" && strings.HasPrefix(x.Waits, "held at gone, breaker: ")
	}) {
		t.Errorf("streams: %+v", list)
	}
	if code, body := s.ready(); code != http.StatusOK || !strings.Contains(body, "warning: 1 stream is held by the breaker") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if body := s.exposition(); !strings.Contains(body, `millrace_breaker_streams_held{queue="gone"} 1`) {
		t.Error("no metric tells of it")
	}
	why, err := s.admin().Why(t.Context(), "gone.test")
	if err != nil || !strings.Contains(why[len(why)-1].Now.Breaker, "no complaint was ever reported by this provider") {
		t.Errorf("why: %+v, %v", why, err)
	}

	s.stop()
	s.start()
	if !held() {
		t.Fatal("not held after a restart")
	}
	s.resume(filter)
	s.until("resumed", s.outcome(waits))
	for i := range 5 {
		s.until("bounced", s.outcome(s.send(news, letter, fmt.Sprintf("z%d@gone.test", i))))
	}
	if held() || len(s.orders().Released) != 1 {
		t.Errorf("held again: %+v", s.orders())
	}
	s.stop()
	s.start()
	s.until("bounced", s.outcome(s.send(news, letter, "last@gone.test")))
	if held() {
		t.Error("a restart forgot what was resumed")
	}
}
