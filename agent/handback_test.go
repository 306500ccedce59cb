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

func TestWhatIsHandedBackGoesToTheHostAndNowhereElse(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := newStage(t, func(c *config.Config) { c.Agent.StateDirectory = state }, // which keeps the pause
		sink.Provider{Name: "far", Domains: []string{"far.test"}}, sink.Provider{Name: "home", Domains: []string{"home.test"}})
	// The host is away at first: what is on its way there outlives the agent.
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.TempShare = 1 }); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.pause(control.Filter{Stream: "one"}, "wait")
	for i := range 40 {
		e := spool.Envelope{Sender: "n@news.test", Stream: "one", AuthUser: []string{"joe", "ann"}[i%2], Args: []string{"ENVID=e7", "RET=HDRS"}}
		s.send(e, letter, fmt.Sprintf("%s%d@far.test", e.AuthUser, i), fmt.Sprintf("%s%d@home.test", e.AuthUser, i))
	}
	s.until("all are held", func() bool { return s.status().Waiting == 80 })
	if _, err := s.admin().HandBack(t.Context(), control.Filter{}); err == nil {
		t.Error("an empty filter was taken")
	}
	done, err := s.admin().HandBack(t.Context(), control.Filter{User: "joe", Domain: "far.test"})
	if err != nil || done.Recipients != 20 || done.Active != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	s.until("the host has said to come later", func() bool { return strings.Count(s.log.String(), "status=deferred") == 20 })
	// What is on its route is not taken again, whatever is asked for.
	if done, err = s.admin().HandBack(t.Context(), control.Filter{User: "joe", Stream: "one"}); err != nil || done.Recipients != 20 {
		t.Fatalf("%+v, %v", done, err)
	}
	s.until("of all of them", func() bool { return strings.Count(s.log.String(), "status=deferred") == 40 })
	if back, err := s.admin().HandbackStatus(t.Context()); err != nil || back.Left() != 40 || back.Done != 0 || back.HostQueue != -1 || back.Relay != s.config.Handback.Relay {
		t.Errorf("%+v, %v", back, err)
	}
	s.stop()
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.TempShare = 0 }); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.until("all of joe's mail is with the host", func() bool {
		back, err := s.admin().HandbackStatus(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return back.Left() == 0 && back.Done == 40
	})
	seen := map[string]int{}
	for _, a := range s.at("host") {
		seen[a.recipient]++
		if a.sender != "n@news.test" || !strings.HasPrefix(a.recipient, "joe") || !strings.HasSuffix(a.content, letter) {
			t.Errorf("handed back: %+v", a)
		}
	}
	if len(seen) != 40 || len(s.at("host")) != 40 {
		t.Errorf("%d copies for %d recipients with the host", len(s.at("host")), len(seen))
	}
	if st := s.status(); st.Waiting != 40 {
		t.Errorf("%d still wait, want ann's 40", st.Waiting)
	}
	s.resume(control.Filter{Stream: "one"})
	s.until("the others are delivered", func() bool { return len(s.at("far")) == 20 && len(s.at("home")) == 20 && s.empty() })
}

func TestDeferredMailReturnsByItself(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.HandbackAfter = config.Age(4 * time.Hour) },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-5 * time.Hour)}, letter, "old@far.test")
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "young@far.test")
	s.until("the old one is with the host, and the reply read", func() bool {
		return len(s.at("host")) == 1 && strings.Contains(s.log.String(), "status=\"handed back\"")
	})
	s.until("the young one is tried again", func() bool {
		return strings.Count(s.log.String(), "to=<young@far.test>") > 3
	})
	if got := s.at("host"); len(got) != 1 || got[0].recipient != "old@far.test" || got[0].sender != "n@news.test" {
		t.Errorf("with the host: %+v", got)
	}
	if want := "status=\"returning to host\" reply=\"deferred for 4h0m0s: "; !strings.Contains(s.log.String(), want) {
		t.Errorf("log has no %s:\n%s", want, s.log)
	}
}

func TestWhatTheHostRefusesStaysWithUs(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Route = config.Route{Kind: config.RouteHandback} })
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.PermShare = 1 }); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@far.test")
	stuck := func() bool { return strings.Count(s.log.String(), "status=stuck") >= 2 && s.status().Active == 0 }
	s.until("both are stuck", stuck)
	check := func(when string) {
		t.Helper()
		n := 0
		err := s.admin().Messages(t.Context(), control.Filter{}, func(m *control.Message) error {
			for _, r := range m.Recipients {
				n++
				if !strings.Contains(r.Reason, "550") || r.State == "active" || m.Sender != "n@news.test" {
					t.Errorf("%s: %+v", when, r)
				}
			}
			return nil
		})
		if err != nil || n != 2 {
			t.Errorf("%s: %d listed, %v", when, n, err)
		}
	}
	check("refused")
	s.stop()
	s.start()
	check("after a restart")
	if back, err := s.admin().HandbackStatus(t.Context()); err != nil || back.Left() != 2 || back.Stuck != 2 || back.Done != 0 {
		t.Errorf("%+v, %v", back, err)
	}
	if n := len(s.at("host")); n != 0 {
		t.Errorf("%d messages at the host: there must be no report", n)
	}
}

func TestTheWayBackHasAPaceOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Handback.MaxMessageRate = 1000 })
	s.config.General.Route = config.Route{Kind: config.RouteHandback}
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("handed back", func() bool { return len(s.at("host")) == 1 && s.empty() })
	for _, site := range s.status().Sites {
		if site.Queue != "handback" || site.Pace != 1000 {
			t.Errorf("%+v", site)
		}
	}
}

// TestHostQueueThatIsNotKnownIsToldOnce: the rate alone bounds what goes back then.
func TestHostQueueThatIsNotKnownIsToldOnce(t *testing.T) {
	t.Setenv("MAIL_CONFIG", t.TempDir()) // no Postfix was ever set up there
	s := newStage(t, func(c *config.Config) {
		c.Handback.MaxHostQueue, c.Handback.MaxMessageRate = 1, 5
		c.General.Route = config.Route{Kind: config.RouteHandback}
	})
	s.start()
	const n = 15 // which takes two or three looks
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("r%d@far.test", i))
	}
	s.until("all are with the host", func() bool { return len(s.at("host")) == n && s.empty() })
	if told := strings.Count(s.log.String(), "max_host_queue is not kept"); told != 1 {
		t.Errorf("told %d times:\n%s", told, s.log)
	}
}
