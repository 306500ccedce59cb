package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// deferring is a stage whose receiver defers, with a retry far away.
func deferring(t *testing.T) *stage {
	return newStage(t, func(c *config.Config) { c.General.Retry = []time.Duration{time.Hour} },
		sink.Provider{Name: "far", Domains: []string{"far.test", "farther.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
}

func (s *stage) accept() {
	s.t.Helper()
	if err := s.net.Change("far", func(b *sink.Behaviour) { b.TempShare = 0 }); err != nil {
		s.t.Fatal(err)
	}
}

func TestHoldOutlivesTheAgentAndKeepsWhatIsKnown(t *testing.T) {
	t.Parallel()
	s := deferring(t)
	s.start()
	id := s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@far.test")
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "c@far.test")
	s.until("deferred", func() bool { return s.status().Deferred == 3 })
	if n := s.act(control.VerbHold, control.Filter{ID: id.String()}); n != 2 {
		t.Errorf("%d held, want 2", n)
	}
	if n := s.act(control.VerbHold, control.Filter{All: true}); n != 1 {
		t.Errorf("%d more held, want 1", n)
	}
	s.stop()
	s.accept()
	s.start()
	if st := s.status(); st.Held != 3 || st.Deferred != 0 {
		t.Errorf("after a restart: %+v", st)
	}
	if n := s.act(control.VerbFlush, control.Filter{All: true}); n != 0 {
		t.Errorf("flush was about %d on hold", n)
	}
	if n := s.act(control.VerbRelease, control.Filter{Recipient: "a@far.test"}); n != 1 {
		t.Errorf("%d released, want 1", n)
	}
	if got := s.listed(control.Filter{State: "deferred"}); got != "a" {
		t.Errorf("deferred: %s, and not tried before its time", got)
	}
	if n := s.act(control.VerbFlush, control.Filter{All: true}); n != 1 {
		t.Errorf("%d flushed, want 1", n)
	}
	s.until("a's is delivered", func() bool { return s.arrivals("far") == "a" })
	if n := s.act(control.VerbRelease, control.Filter{All: true}); n != 2 {
		t.Errorf("%d released, want 2", n)
	}
	s.act(control.VerbFlush, control.Filter{All: true})
	s.until("all are delivered", func() bool { return s.arrivals("far") == "a b c" && s.empty() })
}

func TestFlushIsAboutWhatItSelects(t *testing.T) {
	t.Parallel()
	s := deferring(t)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@farther.test")
	s.until("deferred", func() bool { return s.status().Deferred == 2 })
	s.accept()
	if n := s.act(control.VerbFlush, control.Filter{Domain: "farther.test"}); n != 1 {
		t.Errorf("%d flushed", n)
	}
	s.until("b's is delivered, and the reply read", func() bool { return s.arrivals("far") == "b" && s.status().Active == 0 })
	if got := s.listed(control.Filter{}); got != "a" {
		t.Errorf("%q still queued", got)
	}
}

// TestFlushWakesAReceiverThatWasDown has its connects refused first, so that it is
// left alone for a while.
func TestFlushWakesAReceiverThatWasDown(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{Down: true}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("a connect failed", func() bool {
		var reason string
		if err := s.admin().Messages(t.Context(), control.Filter{}, func(m *control.Message) error {
			reason = m.Recipients[0].Reason
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(reason, "refused")
	})
	if err := s.net.Change("far", func(b *sink.Behaviour) { b.Down = false }); err != nil {
		t.Fatal(err)
	}
	if n := s.act(control.VerbFlush, control.Filter{All: true}); n != 1 {
		t.Errorf("%d flushed", n)
	}
	s.until("delivered", func() bool { return s.arrivals("far") == "a" })
}

func TestExpireTellsTheSenderAndLeavesHeldMail(t *testing.T) {
	t.Parallel()
	s := deferring(t)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@farther.test")
	s.send(spool.Envelope{}, letter, "c@far.test")
	s.until("deferred", func() bool { return s.status().Deferred == 3 })
	s.act(control.VerbHold, control.Filter{Recipient: "b@farther.test"})
	s.pause(control.Filter{Domain: "far.test"}, "for a moment")
	for _, v := range []control.Verb{control.VerbExpire, control.VerbFlush} {
		if n := s.act(v, control.Filter{All: true}); n != 0 {
			t.Errorf("%s was about %d that are deferred and paused", v, n)
		}
	}
	s.resume(control.Filter{Domain: "far.test"})
	if n := s.act(control.VerbExpire, control.Filter{All: true}); n != 2 {
		t.Errorf("%d expired, want 2", n)
	}
	s.until("reported", func() bool { return len(s.at("host")) == 1 && s.listed(control.Filter{}) == "b" })
	r := s.at("host")[0]
	if r.recipient != "n@news.test" || !strings.Contains(r.content, "Final-Recipient: rfc822; a@far.test") ||
		!strings.Contains(r.content, "message expired by the admin: host ") || strings.Contains(r.content, "b@farther") {
		t.Errorf("report to %s:\n%s", r.recipient, r.content)
	}
}

// TestRequeueForgetsTriesAndTheWayHome has mail of a queue that is handed back, to a
// host that does not take it, and then has that queue sent directly.
func TestRequeueForgetsTriesAndTheWayHome(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{DNS: "no-address"}})
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.TempShare = 1 }); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@far.test")
	s.until("it is on its way home", func() bool {
		tries := 0
		if err := s.admin().Messages(t.Context(), control.Filter{Queue: settings.HandbackQueue}, func(m *control.Message) error {
			for _, r := range m.Recipients {
				tries += r.Tries
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return tries >= 2
	})
	s.act(control.VerbHold, control.Filter{Recipient: "b@far.test"})
	if err := s.net.Change("far", func(b *sink.Behaviour) { b.DNS, b.TempShare = "", 1 }); err != nil {
		t.Fatal(err)
	}
	s.stop() // a resolver remembers
	s.start()
	if n := s.act(control.VerbRequeue, control.Filter{All: true}); n != 2 {
		t.Errorf("%d requeued, want 2", n)
	}
	s.until("it is tried at its own receiver", func() bool {
		tried := 0
		if err := s.admin().Messages(t.Context(), control.Filter{Domain: "far.test"}, func(m *control.Message) error {
			for _, r := range m.Recipients {
				if strings.Contains(r.Reason, "450") {
					tried++
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return tried == 2
	})
	s.accept()
	s.act(control.VerbFlush, control.Filter{All: true})
	s.until("delivered", func() bool { return s.arrivals("far") == "a b" && s.empty() })
	if n := len(s.at("host")); n != 0 {
		t.Errorf("%d handed back", n)
	}
}

func TestDryOrderCountsAndDoesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	s.pause(control.Filter{All: true}, "for the count")
	for i := range 10 {
		s.send(spool.Envelope{Sender: "n@news.test", AuthUser: "joe"}, letter, fmt.Sprintf("a%d@far.test", i))
		s.send(spool.Envelope{Sender: "n@news.test", AuthUser: "joe"}, letter, fmt.Sprintf("b%d@far.test", i), fmt.Sprintf("c%d@near.test", i))
	}
	s.until("queued", func() bool { return s.status().Waiting == 30 })
	done, err := s.admin().Act(t.Context(), control.Action{Verb: control.VerbCancel, Filter: control.Filter{User: "joe"}, Dry: true}, nil)
	if err != nil || done != (control.Selected{Recipients: 30, Messages: 20}) {
		t.Errorf("counted %+v, %v", done, err)
	}
	if n := s.status().Waiting; n != 30 {
		t.Errorf("%d left", n)
	}
	if _, err := s.admin().Act(t.Context(), control.Action{Verb: "melt", Filter: control.Filter{All: true}}, nil); err == nil {
		t.Error("no error for a verb that is none")
	}
}
