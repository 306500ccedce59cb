package agent

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// pauses are what is paused.
func (s *stage) pauses() []control.Pause {
	s.t.Helper()
	st, err := s.admin().Standing(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st.Pauses
}

// saying is how a receiver behaves who says so of every recipient.
func saying(reply string) sink.Behaviour {
	if reply[0] == '5' {
		return sink.Behaviour{PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: reply}}
	}
	return sink.Behaviour{TempShare: 1, Say: map[sink.Cause]string{sink.CauseTemp: reply}}
}

// TestOneReceiverHoldsAStreamAtMostAtItself has one operator say what holds a stream,
// again and again, with all the sites and words that he can have.
func TestOneReceiverHoldsAStreamAtMostAtItself(t *testing.T) {
	t.Parallel()
	const unauthenticated5, unauthenticated4 = "550 5.7.26 not authenticated", "450 4.7.26 not authenticated"
	own := func(c *config.Config) { c.Replies = shippedReplies(t) }
	for name, x := range map[string]struct {
		host   string
		reply  string
		sites  int
		change func(*config.Config)
	}{
		"4xx":                {"mx.small.test", unauthenticated4, 1, own},
		"5xx":                {"mx.small.test", unauthenticated5, 1, own},
		"5xx, many sites":    {"mx%d.small.test", unauthenticated5, 20, own},
		"the provider's 4xx": {"aspmx.l.google.com", "421 4.7.27 SPF authentication didn't pass", 1, own},
		"a provider's name in his own": {"aspmx.l.google.com.small.test", unauthenticated5, 1, func(c *config.Config) {
			own(c)
			q := c.General
			q.Name, q.MX = "google", []string{"*.google.com"}
			c.Queues = append(c.Queues, q)
		}},
		"pause": {"mx.small.test", "450 4.1.0 too many of this sender", 1, func(c *config.Config) {
			c.Replies = []config.Reply{{Name: "p", Text: "too many", Action: config.ReplyPause, For: time.Hour, After: 3, Within: time.Hour}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providers := []sink.Provider{{Name: "far", Domains: []string{"far.test"}}}
			for i := range x.sites {
				host := x.host
				if x.sites > 1 {
					host = fmt.Sprintf(x.host, i)
				}
				providers = append(providers, provider(fmt.Sprint("small", i), host, byte(i+1), saying(x.reply)))
			}
			s := newStage(t, x.change, providers...)
			s.start()
			for n := range 30 {
				for i := range x.sites {
					s.send(spool.Envelope{Stream: "news"}, letter, fmt.Sprintf("u%d@small%d.test", n, i))
				}
			}
			if x.sites == 1 {
				s.until("it is held there", func() bool { return len(s.pauses()) > 0 })
				b := s.pauses()[0]
				if b.Filter.Stream != "news" || b.Filter.Site == "" || b.Until.Before(time.Now().Add(50*time.Minute)) || b.Until.After(time.Now().Add(time.Hour)) {
					t.Errorf("brake %+v", b)
				}
			}
			s.until("nothing is under way", func() bool { return s.status().Active == 0 })
			s.send(spool.Envelope{Stream: "news"}, letter, "a@far.test")
			s.send(spool.Envelope{Stream: "other"}, letter, "b@far.test", "other@small0.test")
			s.until("the others get theirs", func() bool { return s.arrivals("far") == "a b" })
			s.until("other streams go there", func() bool { return strings.Contains(s.log.String(), "<other@small0.test>") })
			for _, b := range s.pauses() {
				if b.Filter.Site == "" {
					t.Errorf("brake %+v", b)
					continue
				}
				s.resume(b.Filter)
			}
		})
	}
}

// TestStreamThatManyRefuseIsHeldEverywhere has a stream refused in several networks, or by
// a listed provider. That lasts, over restarts, until an admin comes.
func TestStreamThatManyRefuseIsHeldEverywhere(t *testing.T) {
	for name, x := range map[string]struct {
		providers []sink.Provider
		each      int  // messages to each
		queue     bool // the provider is listed by its queue alone
	}{
		"networks": {providers: networks(10), each: 1},
		"rule":     {providers: []sink.Provider{provider("r0", "aspmx.l.google.com", 1, saying("550 5.7.26 not authenticated"))}, each: 3},
		"queue":    {providers: []sink.Provider{provider("r0", "mx1.partner.test", 1, saying("550 5.7.26 not authenticated"))}, each: 10, queue: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, func(c *config.Config) {
				c.Replies = shippedReplies(t)
				c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
				if x.queue {
					q := c.General
					q.Name, q.MX = "partner", []string{"mx?.partner.test"}
					c.Queues = append(c.Queues, q)
				}
			}, append(x.providers, sink.Provider{Name: "far", Domains: []string{"far.test"}})...)
			s.start()
			for n := range x.each {
				for i := range x.providers {
					s.send(spool.Envelope{Stream: "news"}, letter, fmt.Sprintf("u%d@r%d.test", n, i))
				}
			}
			everywhere := func(b control.Pause) bool { return b.Filter == control.Filter{Stream: "news"} }
			s.until("it is held", func() bool { return slices.ContainsFunc(s.pauses(), everywhere) })
			s.stop()
			s.send(spool.Envelope{Stream: "news"}, letter, "a@far.test")
			s.start()
			s.until("it waits", func() bool { return strings.Contains(s.listed(control.Filter{State: "held"}), "a") })
			if code, body := s.ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "1 stream is held for reply rule") {
				t.Errorf("/readyz %d: %s", code, body)
			}
			if b := s.pauses(); !b[slices.IndexFunc(b, everywhere)].Until.IsZero() {
				t.Errorf("brakes %+v", b)
			}
			s.resume(control.Filter{Stream: "news"})
			s.until("it goes on", func() bool { return s.arrivals("far") == "a" })
			if code, body := s.ready(); code != http.StatusOK {
				t.Errorf("/readyz %d: %s", code, body)
			}
		})
	}
}

// networks are so many small receivers, each in a network of its own.
func networks(n int) (list []sink.Provider) {
	for i := range n {
		list = append(list, sink.Provider{
			Name: fmt.Sprint("r", i), Domains: []string{fmt.Sprintf("r%d.test", i)}, Behaviour: saying("550 5.7.26 not authenticated"),
		})
	}
	return list
}

// TestPausesOfAnEarlierAgentStayInForce has what the agent before this rule kept.
func TestPausesOfAnEarlierAgentStayInForce(t *testing.T) {
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} }, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	const kept = `{
	"brakes": [
		{
			"filter": {"stream": "news"},
			"reason": "unauthenticated: host mx.small.test[192.0.2.1] said: 450 4.7.26 no (in reply to RCPT TO command)",
			"since": "2026-11-20T03:00:00Z",
			"who": "reply rule unauthenticated"
		},
		{"filter": {"user": "joe"}, "reason": "by the admin", "since": "2026-11-20T03:00:00Z", "who": "root"}
	],
	"priorities": {"news": 4}
}
`
	if err := os.MkdirAll(s.config.Agent.StateDirectory, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile), []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.send(spool.Envelope{Stream: "news"}, letter, "a@far.test")
	s.send(spool.Envelope{AuthUser: "joe"}, letter, "b@far.test")
	s.send(spool.Envelope{}, letter, "c@far.test")
	s.until("the rest goes", func() bool { return s.arrivals("far") == "c" })
	if got := s.listed(control.Filter{State: "held"}); got != "a b" {
		t.Errorf("held: %s", got)
	}
	if _, body := s.ready(); !strings.Contains(body, "1 stream is held for reply rule") || strings.Contains(body, "joe") {
		t.Errorf("/readyz: %s", body)
	}
	s.resume(control.Filter{Stream: "news"})
	s.resume(control.Filter{User: "joe"})
	s.until("all goes", func() bool { return s.arrivals("far") == "a b c" })
	if _, body := s.ready(); body != "ok\n" {
		t.Errorf("/readyz: %s", body)
	}
}
