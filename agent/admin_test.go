package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func (s *stage) admin() *control.Client { return control.NewClient(s.config.Agent.Control) }

func (s *stage) pause(f control.Filter, why string) {
	s.t.Helper()
	if err := s.admin().Pause(s.t.Context(), control.Pause{Filter: f, Reason: why}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) resume(f control.Filter) {
	s.t.Helper()
	if _, err := s.admin().Resume(s.t.Context(), f); err != nil {
		s.t.Fatal(err)
	}
}

// act gives an order and returns how many recipients it was about.
func (s *stage) act(v control.Verb, f control.Filter) int {
	s.t.Helper()
	done, err := s.admin().Act(s.t.Context(), control.Action{Verb: v, Filter: f}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return done.Recipients
}

func TestMailOfACompromisedAccountIsCancelled(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	for _, stream := range []string{"one", "two"} {
		s.pause(control.Filter{Stream: stream}, "wait for the test")
	}
	for i := range 200 {
		e := spool.Envelope{Sender: "n@news.test", Stream: []string{"one", "two"}[i%2], AuthUser: []string{"good", "hacked"}[i/2%2]}
		s.send(e, letter, fmt.Sprintf("%s%d@far.test", e.AuthUser, i), fmt.Sprintf("%s%d@elsewhere.test", e.AuthUser, i))
	}
	s.until("all are held", func() bool { return s.status().Waiting == 400 })

	if _, err := s.admin().Act(t.Context(), control.Action{Verb: control.VerbCancel}, nil); err == nil {
		t.Error("an empty filter was taken")
	}
	done, err := s.admin().Act(t.Context(), control.Action{Verb: control.VerbCancel, Filter: control.Filter{User: "hacked", Domain: "FAR.test"}}, nil)
	if err != nil || done.Recipients != 100 || done.Active != 0 {
		t.Errorf("cancelled %+v, %v", done, err)
	}
	done, err = s.admin().Act(t.Context(), control.Action{Verb: control.VerbCancel, Filter: control.Filter{User: "hacked"}}, nil)
	if err != nil || done.Recipients != 100 {
		t.Errorf("cancelled %+v, %v", done, err)
	}
	if done, err = s.admin().Act(t.Context(), control.Action{Verb: control.VerbCancel, Filter: control.Filter{Domain: "elsewhere.test"}}, nil); err != nil || done.Recipients != 100 {
		t.Errorf("cancelled %+v, %v", done, err)
	}
	// It stays so over a restart.
	s.stop()
	s.start()
	for _, stream := range []string{"one", "two"} {
		s.resume(control.Filter{Stream: stream})
	}
	s.until("the rest is delivered", func() bool { return len(s.at("far")) >= 100 && s.empty() })
	for _, a := range s.at("far") {
		if strings.HasPrefix(a.recipient, "hacked") {
			t.Errorf("%s got mail that was cancelled", a.recipient)
		}
	}
	if n := len(s.at("far")); n != 100 {
		t.Errorf("%d delivered, want 100", n)
	}
	if n := len(s.at("host")); n != 0 {
		t.Errorf("%d reports about cancelled mail", n)
	}
	if n := strings.Count(s.log.String(), "status=cancelled"); n != 300 {
		t.Errorf("%d lines about cancelled recipients, want 300", n)
	}
}

func TestSiteIsExplained(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered, and the reply read", func() bool { return len(s.at("far")) == 1 && s.empty() })
	for _, site := range s.status().Sites {
		changes, err := s.admin().Why(t.Context(), site.Name)
		if err != nil || len(changes) == 0 || changes[0].Cause == "" {
			t.Errorf("%s: %+v, %v", site.Name, changes, err)
			continue
		}
		now := changes[len(changes)-1].Now
		if now == nil || now.Name != site.Name || now.State != "growing" || now.Want == 0 || now.HeldBack != nil || now.LimitsBy != "the configuration" ||
			len(now.Addresses) != 1 || now.Addresses[0].Accepted == 0 || now.Addresses[0].Limited {
			t.Errorf("%s stands so: %+v", site.Name, now)
		}
		if len(changes) > 1 && changes[0].Now != nil {
			t.Errorf("an older change of %s says how it stands now", site.Name)
		}
	}
	if _, err := s.admin().Why(t.Context(), "nobody"); !errors.Is(err, control.ErrUnknown) {
		t.Errorf("unknown site: %v", err)
	}
}

func TestPauseOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	why := "wrong price"
	s.pause(control.Filter{Stream: "sale"}, why)
	if err := s.admin().Prioritize(t.Context(), control.Priority{Stream: "sale", Priority: 4}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "a@far.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, "b@far.test")
	s.start()
	s.until("the other stream's mail is delivered", func() bool { return len(s.at("far")) == 1 && s.status().Active == 0 })
	list, err := s.admin().Streams(t.Context())
	if err != nil || len(list) != 1 || list[0].Paused != why || list[0].Priority != 4 || list[0].Waiting != 1 {
		t.Errorf("after the restart: %+v, %v", list, err)
	}
	s.resume(control.Filter{Stream: "sale"})
	s.until("delivered", func() bool { return len(s.at("far")) == 2 })
	s.stop()

	// A file that cannot be read stops the start: mail that is held must not go out.
	if err := os.WriteFile(filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(s.config, s.log.Logger(), "test"); err == nil || !strings.Contains(err.Error(), "remedy") {
		t.Errorf("an unreadable file: %v", err)
	}
}
