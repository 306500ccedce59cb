package agent

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// What a rule does to a site is listed, holds over a restart from the first connect on,
// and an admin lifts it; the receiver's next word may bring it back.
func TestEffectOfARuleIsListedKeptAndLifted(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Replies = []config.Reply{{Name: "come-back", Text: "come back", Action: config.ReplySuspend, For: time.Hour, After: 1, Within: time.Hour}}
	}, sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{
		TempShare: 1, Say: map[sink.Cause]string{sink.CauseTemp: "451 4.7.1 come back"}}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@busy.test")
	effects := func() []control.Effect {
		st, err := s.admin().Standing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Effects
	}
	s.until("the effect is listed", func() bool { return len(effects()) == 1 })
	e := effects()[0]
	if e.Rule != "come-back" || e.Action != "suspend" || e.Site == "" || !strings.Contains(e.Reason, "451 4.7.1 come back") || time.Until(e.Until) < 50*time.Minute {
		t.Fatalf("%+v", e)
	}
	suspended := func() bool {
		return slices.ContainsFunc(s.status().Sites, func(x control.Site) bool {
			return x.Name == e.Site && x.Target == 0 && strings.Contains(x.Cause, "come back")
		})
	}
	s.stop()

	before := s.admitted("busy")
	a := s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@busy.test")
	s.until("the site is suspended again", suspended)
	if now := s.admitted("busy"); now != before {
		t.Errorf("%d connections to a site that was suspended before the restart", now-before)
	}
	if list := effects(); len(list) != 1 || list[0].Site != e.Site {
		t.Errorf("after a restart: %+v", list)
	}
	if n := len(a.orders.Standing().Pauses); n != 0 {
		t.Errorf("%d pauses", n)
	}

	if _, err := s.admin().Resume(t.Context(), control.Filter{Site: e.Site}); err != nil {
		t.Fatal(err)
	}
	s.until("it connects, and the rule takes hold again", func() bool {
		return len(effects()) == 1 && suspended() && s.admitted("busy") > before
	})
	if _, err := s.admin().Resume(t.Context(), control.Filter{Site: "none"}); !errors.Is(err, control.ErrUnknown) {
		t.Errorf("a site without any: %v", err)
	}
}

// Whatever file refers to a site, the file of names has it before: a kill between the two
// leaves no suspension to a site that gets the name after it.
func TestNamesAreWrittenBeforeWhatRefersToThem(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(*Agent) error{
		"orders":  func(a *Agent) error { a.orders.SaveRulePauses(time.Now(), true); return nil },
		"learned": func(a *Agent) error { return a.saveLearned(time.Now(), false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, func(c *config.Config) {
				c.Replies = []config.Reply{{Name: "come-back", Text: "come back", Action: config.ReplySuspend, For: time.Hour, After: 1, Within: time.Hour}}
			}, sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{
				TempShare: 1, Say: map[sink.Cause]string{sink.CauseTemp: "451 4.7.1 come back"}}})
			a := s.start()
			s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@busy.test")
			s.until("the effect is listed", func() bool { return len(a.orders.Standing().Effects) == 1 })
			if err := write(a); err != nil {
				t.Fatal(err)
			}
			site := a.orders.Standing().Effects[0].Site
			if !sites.Open(filepath.Join(s.config.Agent.StateDirectory, sitesFile), slog.New(slog.DiscardHandler), time.Now()).Has(site) {
				t.Errorf("the file of names has no %s yet", site)
			}
		})
	}
}

// Who has what was learned forgotten ends what rules have done, too: it is not listed any more,
// and does not come back with a restart.
func TestForgetEndsEffectsOfRules(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "busy.test", "general"} {
		s := newStage(t, func(c *config.Config) {
			c.Replies = []config.Reply{{Name: "come-back", Text: "come back", Action: config.ReplySuspend, For: time.Hour, After: 1, Within: time.Hour}}
		}, sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{
			TempShare: 1, Say: map[sink.Cause]string{sink.CauseTemp: "451 4.7.1 come back"}}})
		a := s.start()
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@busy.test")
		effects := func() int { return len(a.orders.Standing().Effects) }
		s.until("the effect is listed", func() bool { return effects() == 1 })
		// From here on the receiver takes mail: else its next reply rightly has the rule take
		// hold again, and that may be before the test looks.
		if err := s.net.Change("busy", func(b *sink.Behaviour) { b.TempShare = 0 }); err != nil {
			t.Fatal(err)
		}
		if n, err := s.admin().Forget(t.Context(), name); err != nil || n != 1 || effects() != 0 {
			t.Errorf("forget %q: %d sites, %d effects are left, %v", name, n, effects(), err)
		}
		s.stop()
		a = s.start()
		if n := effects(); n != 0 {
			t.Errorf("%d effects after a restart", n)
		}
		if n, err := s.admin().Forget(t.Context(), "busy.test"); err != nil {
			t.Errorf("nothing is known of the site: %d, %v", n, err)
		}
		s.stop()
	}
}

// What is remembered of a relay, and of the sites of a queue, is forgotten too before mail has come for
// it again: no file of names has the relay. It is durable then.
func TestForgetReachesWhatIsRemembered(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	a := s.start()
	const relay = "relay:192.0.2.9:2525"
	now := time.Now()
	l := queue.LearnedSite{Learned: elastic.Learned{At: now, Want: 6, Bound: true}}
	ofGeneral := l
	ofGeneral.Queue = "general"
	a.queue.Recall(now, queue.Learned{At: now, Stopped: true, Sites: map[string]queue.LearnedSite{relay: l, "old.test": ofGeneral, "other.test": l}})
	if err := a.saveLearned(now, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{relay: 1, "general": 1} {
		if n, err := s.admin().Forget(t.Context(), name); err != nil || n != want {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	var kept queue.Learned
	if b, err := os.ReadFile(a.learnedPath()); err != nil || json.Unmarshal(b, &kept) != nil || len(kept.Sites) != 1 || kept.Sites["other.test"].Want != 6 {
		t.Errorf("the file has %+v, %v", kept.Sites, err)
	}
	if _, err := s.admin().Forget(t.Context(), relay); err == nil {
		t.Error("what nobody knows is forgotten once more")
	}
}

// Replies that nothing knew are counted, with an example that names no address to
// everybody.
func TestRepliesThatNothingKnewAreShown(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} },
		sink.Provider{Name: "odd", Domains: []string{"odd.test"}, Behaviour: sink.Behaviour{
			PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 Xyzzy 17 plugh"}}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@odd.test", "b@odd.test")
	var totals control.Totals
	s.until("both are counted", func() bool {
		var err error
		totals, err = s.admin().Totals(t.Context())
		return err == nil && totals.Unknown == 2
	})
	if x := totals.UnknownReplies; len(x) != 1 || x[0].Count != 2 || !strings.Contains(x[0].Example, "550 Xyzzy 17 plugh") || x[0].Site == "" {
		t.Errorf("%+v", x)
	}
	for path, want := range map[string]string{"/metrics": "millrace_replies_unknown_total 2", "/": "Xyzzy 17 plugh"} {
		if code, body := s.page(s.config.Agent.HTTP.Listen[0], path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d without %q", path, code, want)
		}
	}
}

// What is listed as an effect of a rule on a site is in force there, whatever was forgotten
// while it took hold.
func TestEffectThatTakesHoldWhileItsSiteIsForgotten(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "busy", Domains: []string{"busy.test"}})
	a := s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@busy.test")
	s.until("delivered", func() bool { return len(s.at("busy")) == 1 && s.empty() })
	reply := orders.Reply{Decision: outcome.Decision{Rule: "r", Effect: &outcome.Effect{Rule: "r", Kind: outcome.Bound, Sessions: 1, For: time.Hour, After: 1, Within: time.Hour}}}
	reply.Route.Site = "busy.test"
	for range 300 {
		var both sync.WaitGroup
		both.Go(func() { a.orders.ApplyRule(reply) })
		both.Go(func() {
			if _, err := a.backend().Forget(t.Context(), "busy.test"); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		_, clamped := a.queue.Clamped("busy.test")
		if listed := len(a.orders.Standing().Effects) > 0; listed != clamped {
			t.Fatalf("listed %v, in force %v", listed, clamped)
		}
	}
}
