package orders

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// open returns the Orders of a state directory.
func open(t *testing.T, dir string, log *logbuf.Buffer) *Orders {
	t.Helper()
	source := settings.NewSource(&settings.Settings{Config: &config.Config{Agent: config.Agent{StateDirectory: dir}}, Sites: sites.New()})
	o, err := New(Options{Log: log.Logger(), Settings: source, Queue: queue.New(queue.Options{}), Stop: t.Context()})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *Orders) resumes(t *testing.T, f control.Filter) {
	t.Helper()
	if err := o.Change(func(s *control.StandingOrders) error {
		p := pauseWith(s, f)
		if p == nil {
			return control.ErrUnknown
		}
		*p = s.Pauses[len(s.Pauses)-1]
		s.Pauses = s.Pauses[:len(s.Pauses)-1]
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// What the breaker holds is paused there alone, for good, over a restart; what an admin resumed
// is left alone for seven days, over a restart too, and not a moment longer.
func TestBreakerLeavesAloneWhatWasResumed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log logbuf.Buffer
		o := open(t, dir, &log)
		if err := o.Change(func(s *control.StandingOrders) error {
			s.Priorities = map[string]int{"news": 2, "other": 2} // to be listed
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !o.Hold("news", "google", "many") || o.Hold("news", "google", "many") {
			t.Error("not held, or held twice")
		}
		time.Sleep(time.Second)
		if !o.Hold("news", "yahoo", "more") {
			t.Error("not held elsewhere")
		}
		list := o.HeldByBreaker()
		if len(list) != 2 || list[0].Who != control.Breaker || !list[1].Since.After(list[0].Since) || list[1].Since != time.Now() ||
			list[0].Filter != (control.Filter{Queue: "google", Stream: "news"}) || !list[0].Until.IsZero() {
			t.Errorf("held: %+v", list)
		}
		for _, s := range o.Streams() {
			want := ""
			if s.Name == "news" {
				want = "held at google, many; held at yahoo, more"
			}
			if s.Waits != want {
				t.Errorf("stream %s waits: %q", s.Name, s.Waits)
			}
		}
		if got := o.BreakerTrouble(); !strings.HasPrefix(got, "2 streams are held by the breaker") {
			t.Error(got)
		}
		o.SaveRulePauses(time.Now(), true)

		o = open(t, dir, &log)
		if len(o.HeldByBreaker()) != 2 {
			t.Errorf("after a restart: %+v", o.Standing())
		}
		o.resumes(t, list[0].Filter)
		resumed := time.Now()
		o = open(t, dir, &log)
		if o.Hold("news", "google", "many") || len(o.HeldByBreaker()) != 1 {
			t.Errorf("held again: %+v", o.Standing())
		}
		if !o.Hold("other", "google", "many") {
			t.Error("the resume of one stream is taken for that of others")
		}
		time.Sleep(ReleasedFor - time.Since(resumed) - time.Second)
		o.Expire(time.Now())
		if o.Hold("news", "google", "many") || len(o.Standing().Released) != 1 {
			t.Errorf("held again within seven days: %+v", o.Standing())
		}
		time.Sleep(time.Second)
		o.Expire(time.Now())
		if st := o.Standing(); len(st.Released) != 0 || !o.Hold("news", "google", "many") {
			t.Errorf("after seven days: %+v", st)
		}
	})
}

// An admin's own pause in place of the breaker's is his decision as a resume is; a stream that
// he has paused everywhere is not held beside that; what he resumes of his own, or what ends by
// itself, is nothing to the breaker.
func TestBreakerMindsTheAdminsPauses(t *testing.T) {
	t.Parallel()
	var log logbuf.Buffer
	o := open(t, "", &log)
	f := control.Filter{Queue: "google", Stream: "news"}
	o.Hold("news", "google", "many")
	his := func(p control.Pause) {
		if err := o.Change(func(s *control.StandingOrders) error {
			if x := pauseWith(s, p.Filter); x != nil {
				*x = p
			} else {
				s.Pauses = append(s.Pauses, p)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	his(control.Pause{Filter: f, Who: "ann"})
	o.resumes(t, f)
	if o.Hold("news", "google", "many") || len(o.Standing().Released) != 1 {
		t.Errorf("%+v", o.Standing())
	}
	everywhere := control.Filter{Stream: "sale"}
	his(control.Pause{Filter: everywhere, Who: "ann", Until: time.Now().Add(-time.Second)})
	if o.Hold("sale", "google", "many") {
		t.Error("held, although it is paused everywhere")
	}
	o.Expire(time.Now())
	if !o.Hold("sale", "google", "many") || len(o.Standing().Released) != 1 {
		t.Errorf("%+v", o.Standing())
	}
}

// Senders decide how many streams there are: the breaker holds a hundred, and what rules about
// replies may pause stays theirs.
func TestHoldsOfTheBreakerAreBounded(t *testing.T) {
	t.Parallel()
	var log logbuf.Buffer
	o := open(t, "", &log)
	for i := range maxRulePauses + 5 {
		if got := o.Hold(fmt.Sprint(i), "google", strings.Repeat("word ", 200)); got != (i < maxRulePauses) {
			t.Errorf("hold %d: %v", i, got)
		}
	}
	if n := strings.Count(log.String(), "no more is paused by the breaker"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
	if p := o.HeldByBreaker()[0]; len(p.Reason) > MaxPauseReason {
		t.Errorf("a reason of %d octets", len(p.Reason))
	}
	if !o.PauseForRule("rule", control.Filter{Stream: "another"}, "x", time.Time{}) {
		t.Error("rules have no room")
	}
	if n := len(o.HeldByBreaker()); n != maxRulePauses {
		t.Errorf("the breaker holds %d", n)
	}
}
