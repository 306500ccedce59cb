package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestMailIsTriedAfterAWeekDown starts on mail that is past its age, with slow look-ups
// and connects and one session for all.
func TestMailIsTriedAfterAWeekDown(t *testing.T) {
	t.Parallel()
	slow := sink.Behaviour{DNSDelay: 200 * time.Millisecond, GreetingDelay: 200 * time.Millisecond}
	s := newStage(t, func(c *config.Config) { c.Agent.MaxSessions = 1 },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: slow},
		sink.Provider{Name: "farther", Domains: []string{"farther.test"}, Behaviour: slow})
	for i := range 3 {
		e := spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}
		s.send(e, letter, fmt.Sprintf("u%d@far.test", i))
		s.send(e, letter, fmt.Sprintf("u%d@farther.test", i))
	}
	s.start()
	s.until("all is settled", func() bool {
		s.agent.expireOverdue()
		return s.empty()
	})
	if far, farther, host := len(s.at("far")), len(s.at("farther")), len(s.at("host")); far != 3 || farther != 3 || host != 0 {
		t.Errorf("%d and %d of 3 delivered, %d reports", far, farther, host)
	}
}

// TestMailWaitsForOurResolver starts before the resolver does.
func TestMailWaitsForOurResolver(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	late := *s.config
	late.Agent.Resolvers = []string{freePort(t)}
	runs := s.config
	s.config = &late
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "a@far.test")
	s.start()
	s.until("it is asked", func() bool { return s.agent.queue.Reason("far.test") != "" })
	began := time.Now().Unix()
	s.until("a failure would count, as they do from the next second on", func() bool {
		s.agent.queue.Reroute("far.test")
		s.agent.expireOverdue()
		return time.Now().Unix() >= began+2
	})
	if err := s.agent.Reload(runs); err != nil {
		t.Fatal(err)
	}
	s.until("it is settled", func() bool {
		s.agent.queue.Reroute("far.test") // one that was under way had the old resolver
		return s.empty()
	})
	if far, host := len(s.at("far")), len(s.at("host")); far != 1 || host != 0 {
		t.Errorf("%d delivered, %d reports", far, host)
	}
}

// TestMailToADeadHostExpires has no session that ever comes up.
func TestMailToADeadHostExpires(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{Down: true}})
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "old@far.test")
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "new@far.test")
	s.start()
	s.until("the old message is returned", func() bool {
		s.agent.expireOverdue()
		return len(s.at("host")) == 1
	})
	s.until("the other one waits", func() bool { return s.listed(control.Filter{}) == "new" })
}

// TestMailForTheHostWaitsForIt has a queue whose mail the host MTA is to send, and the
// host away.
func TestMailForTheHostWaitsForIt(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Route = config.Route{Kind: config.RouteHandback} })
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.Down = true }); err != nil {
		t.Fatal(err)
	}
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "a@far.test")
	s.start()
	down := func() bool { return s.agent.queue.Reason("far.test") != "" }
	s.until("the host is found to be away", down)
	s.agent.queue.Overdue(func(string) *config.Queue { return &s.config.General }, func(job queue.Job, _ *config.Queue, reason string) {
		t.Errorf("%v is overdue: %s", job.ID, reason)
	})
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.Down = false }); err != nil {
		t.Fatal(err)
	}
	s.until("the host has it", func() bool {
		s.act(control.VerbFlush, control.Filter{All: true})
		return len(s.at("host")) == 1
	})
	if got := s.at("host")[0]; got.recipient != "a@far.test" {
		t.Errorf("the host got mail to %s:\n%s", got.recipient, got.content)
	}
}

// TestAReadErrorEndsNoMail has the two ways in which mail ends without a session, while the
// spool cannot be read: that may pass, and the mail waits for it.
func TestAReadErrorEndsNoMail(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(a *Agent){
		"a domain that does not exist": func(a *Agent) {
			a.resolver.unroutable(a.settings.Now(), "gone.test", quick, &route.Error{Domain: "gone.test", Reason: route.NXDomain})
		},
		"past its age, and no route": func(a *Agent) {
			a.queue.Unrouted("gone.test", "no answer", time.Now().Add(time.Hour))
			a.expireOverdue()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, nil)
			s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "a@gone.test", "b@gone.test")
			a, err := New(s.config, s.log.Logger(), "test")
			if err != nil {
				t.Fatal(err)
			}
			defer a.closeEvents()
			defer a.writer.Close()
			defer a.lookups.close()
			if err := a.load(); err != nil {
				t.Fatal(err)
			}
			if err := a.store.Close(); err != nil { // from now on every reading fails
				t.Fatal(err)
			}
			a.cut() // nothing waits for a journal that is closed
			var left []queue.Entry
			s.until("its end has come", func() bool {
				end(a)
				left = nil
				a.queue.List(func(page []queue.Entry) bool { left = append(left, page...); return true })
				return len(left) == 0 || left[0].Tries > 0
			})
			if len(left) != 2 {
				t.Errorf("%d of 2 recipients are left", len(left))
			}
			for _, e := range left {
				if e.State != "deferred" || !strings.HasPrefix(e.Reason, "spool: ") {
					t.Errorf("%s: %s", e.State, e.Reason)
				}
			}
		})
	}
}
