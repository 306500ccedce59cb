package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/sink"
)

func (s *stage) admin() *control.Client { return control.NewClient(s.config.Agent.Control) }

func TestMailOfACompromisedAccountIsCancelled(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	why := "wait for the test"
	for _, stream := range []string{"one", "two"} {
		if err := s.admin().Set(t.Context(), control.Setting{Stream: stream, Paused: &why}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		e := spool.Envelope{Sender: "n@news.test", Stream: []string{"one", "two"}[i%2], AuthUser: []string{"good", "hacked"}[i/2%2]}
		s.send(e, letter, fmt.Sprintf("%s%d@far.test", e.AuthUser, i), fmt.Sprintf("%s%d@elsewhere.test", e.AuthUser, i))
	}
	s.until("all are held", func() bool { return s.status().Waiting == 400 })

	if _, err := s.admin().Cancel(t.Context(), control.Filter{}); err == nil {
		t.Error("an empty filter was taken")
	}
	done, err := s.admin().Cancel(t.Context(), control.Filter{User: "hacked", Domain: "FAR.test"})
	if err != nil || done.Recipients != 100 || done.Active != 0 {
		t.Errorf("cancelled %+v, %v", done, err)
	}
	done, err = s.admin().Cancel(t.Context(), control.Filter{User: "hacked"})
	if err != nil || done.Recipients != 100 {
		t.Errorf("cancelled %+v, %v", done, err)
	}
	if done, err = s.admin().Cancel(t.Context(), control.Filter{Domain: "elsewhere.test"}); err != nil || done.Recipients != 100 {
		t.Errorf("cancelled %+v, %v", done, err)
	}
	// It stays so over a restart, which forgets the pause.
	s.stop()
	s.start()
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
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	for _, site := range s.status().Sites {
		changes, err := s.admin().Why(t.Context(), site.Name)
		if err != nil || len(changes) == 0 || changes[0].Cause == "" {
			t.Errorf("%s: %+v, %v", site.Name, changes, err)
		}
	}
	if _, err := s.admin().Why(t.Context(), "nobody"); !errors.Is(err, control.ErrUnknown) {
		t.Errorf("unknown site: %v", err)
	}
}
