package queue

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/slots"
	"github.com/millrace/millrace/agent/spool"
)

func TestPausedStreamWaitsAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 1 })
		w.SetPauses([]Pause{{Stream: "held", Reason: "by test"}})
		for i := range 50 {
			w.add(spool.ID(i+1), "held", fmt.Sprintf("d%d.example", i%3))
			w.add(spool.ID(i+1001), "other", fmt.Sprintf("d%d.example", i%3))
		}
		pass(time.Hour)
		for _, id := range w.delivered() {
			if id < 1000 {
				t.Fatalf("message %d of the paused stream was sent", id)
			}
		}
		if n := len(w.delivered()); n != 50 {
			t.Fatalf("%d of the other stream's 50 were sent", n)
		}
		w.List(func(page []Entry) bool {
			for _, e := range page {
				if e.State != "held" || e.Reason != "by test" {
					t.Errorf("listed as %s: %q", e.State, e.Reason)
				}
			}
			return true
		})
		// Neither age nor a domain without a route ends what an admin holds.
		pass(10 * 24 * time.Hour)
		w.Overdue(func(string) *config.Queue { return &w.policy }, func(j Job, _ *config.Queue, _ string) {
			t.Errorf("%v is overdue while it is held", j.ID)
		})
		if job, ok := w.Claim("d0.example", 10); ok {
			t.Errorf("claimed %v while it is held", job.ID)
		}
		w.SetPauses(nil)
		pass(time.Hour)
		if n := len(w.delivered()); n != 100 {
			t.Errorf("%d of 100 sent after the pause", n)
		}
	})
}

func TestPauseLetsOpenSessionsIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		for i := range 500 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(2 * time.Second)
		w.SetPauses([]Pause{{Stream: "s", Reason: "by test"}})
		pass(time.Second) // what is in flight finishes
		n := len(w.delivered())
		pass(time.Minute)
		if m := len(w.delivered()); m != n {
			t.Errorf("%d more were sent after the pause", m-n)
		}
		if _, _, _, sessions := w.Counts(); sessions != 0 {
			t.Errorf("%d sessions stay for mail that is held", sessions)
		}
	})
}

// TestPausesStopWhatTheyName puts mail before each kind of pause; the way home
// stays open to all but those that name it.
func TestPausesStopWhatTheyName(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		pause Pause
		sent  []spool.ID
	}{
		"all":             {Pause{}, []spool.ID{9}},
		"queue":           {Pause{Queue: "general"}, []spool.ID{9}},
		"other queue":     {Pause{Queue: "google"}, []spool.ID{1, 2, 3, 9}},
		"site":            {Pause{Site: "a.example"}, []spool.ID{2, 9}},
		"stream":          {Pause{Stream: "s"}, []spool.ID{3, 9}},
		"domain":          {Pause{Domain: "b.example"}, []spool.ID{1, 3, 9}},
		"stream and site": {Pause{Stream: "s", Site: "a.example"}, []spool.ID{2, 3, 9}},
		"way home":        {Pause{Queue: "handback"}, []spool.ID{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				home := w.policy
				home.Name = "handback"
				w.way = func(domain string) (Route, bool) {
					way := w.to(domain)
					if domain == w.o.Relay {
						way.Queue = &home
					}
					return way, true
				}
				add := func() {
					w.add(1, "s", "a.example")
					w.add(2, "s", "b.example")
					w.add(3, "t", "a.example")
					w.add(9, "s", "")
				}
				x.pause.Reason = "by test"
				w.SetPauses([]Pause{x.pause})
				add() // it meets the pause on its way in
				pass(time.Minute)
				got := w.delivered()
				slices.Sort(got)
				if !slices.Equal(got, x.sent) {
					t.Errorf("sent %v, want %v", got, x.sent)
				}
				w.SetPauses(nil)
				pass(time.Minute)
				if n := len(w.delivered()); n != 4 {
					t.Errorf("%d of 4 sent without the brake", n)
				}
			})
		})
	}
}

// entries are all that is listed and fits.
func (w *world) entries(fits func(*Entry) bool) (list []Entry) {
	w.List(func(page []Entry) bool {
		for i := range page {
			if fits(&page[i]) {
				list = append(list, page[i])
			}
		}
		return true
	})
	return list
}

func anyEntry(*Entry) bool { return true }

func (w *world) states() string {
	var list []string
	for _, e := range w.entries(anyEntry) {
		list = append(list, fmt.Sprint(e.ID, " ", e.State))
	}
	slices.Sort(list)
	return fmt.Sprint(list)
}

// TestPauseReachesMailInEveryState parks messages that wait, are deferred, are in a
// transaction, and come later; a deferred one keeps its due time.
func TestPauseReachesMailInEveryState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.service, w.policy.MaxSessions = time.Minute, 1
		})
		w.addPaused(4, "s", "a.example")
		w.add(1, "s", "a.example")
		w.add(5, "s", "")      // on its way home
		pass(90 * time.Second) // a connect takes a minute, too
		w.add(2, "s", "a.example")
		w.Add(3, &spool.Envelope{Stream: "s", Recipients: make([]spool.Recipient, 1), Arrived: time.Now()},
			[]string{"a.example"}, []spool.State{{Due: time.Now().Add(time.Hour)}}, false)
		if got, want := w.states(), "[M0-1 active M0-2 waiting M0-3 deferred M0-4 held M0-5 active]"; got != want {
			t.Fatalf("before: %s, want %s", got, want)
		}
		w.Pause(w.entries(anyEntry))
		if got, want := w.states(), "[M0-1 active M0-2 held M0-3 held M0-4 held M0-5 active]"; got != want {
			t.Errorf("halted: %s, want %s", got, want)
		}
		if w.Held() != 3 || w.Queued() != 5 {
			t.Errorf("%d held of %d", w.Held(), w.Queued())
		}
		pass(100 * 24 * time.Hour)
		w.Overdue(func(string) *config.Queue { return &w.policy }, func(j Job, _ *config.Queue, _ string) {
			t.Errorf("%v is overdue while it is halted", j.ID)
		})
		if got := w.delivered(); len(got) != 2 {
			t.Errorf("sent %v", got)
		}
		w.Resume(w.entries(anyEntry))
		pass(time.Hour)
		if n := len(w.delivered()); n != 5 || w.Held() != 0 {
			t.Errorf("%d of 5 sent at last, %d held", n, w.Held())
		}
	})
}

// TestRefusedMailOfAHaltedMessageStaysAside defers a transaction during which its
// message is paused.
func TestRefusedMailOfAHaltedMessageStaysAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.way = func(string) (Route, bool) { return Route{}, false } })
		w.add(1, "s", "a.example", "b.example", "c.example")
		jobs := w.take(func(Entry) bool { return true })
		w.Pause(w.entries(anyEntry))
		w.Settle([]Settled{
			{Handle: jobs[0].Items[0].Handle, State: spool.State{Due: time.Now().Add(time.Hour), Reply: "450 later"}},
			{Handle: jobs[1].Items[0].Handle, How: Untried},
			{Handle: jobs[2].Items[0].Handle, How: ToHost},
		})
		if got, want := w.states(), "[M0-1 held M0-1 held M0-1 waiting]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		w.Resume(w.entries(anyEntry))
		if got, want := w.states(), "[M0-1 deferred M0-1 waiting M0-1 waiting]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestHoldIsApartFromPause holds a recipient of a paused message: each of the two has
// to end.
func TestHoldIsApartFromPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.Add(1, &spool.Envelope{Stream: "s", Recipients: make([]spool.Recipient, 2), Arrived: time.Now()},
			[]string{"a.example", "a.example"}, []spool.State{{Held: true}, {Due: time.Now().Add(time.Hour)}}, false)
		w.Pause(w.entries(anyEntry))
		w.Resume(w.entries(anyEntry))
		if got, want := w.states(), "[M0-1 deferred M0-1 held]"; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		w.Pause(w.entries(anyEntry))
		settle := func(s Settled, fits func(*Entry) bool) {
			for _, job := range w.Take(w.entries(fits)) {
				for _, it := range job.Items {
					s.Handle = it.Handle
					w.Settle([]Settled{s})
				}
			}
		}
		settle(Settled{How: Released}, func(e *Entry) bool { return e.OnHold })
		if got, want := w.states(), "[M0-1 held M0-1 held]"; got != want {
			t.Errorf("released while halted: %s, want %s", got, want)
		}
		w.Resume(w.entries(anyEntry))
		pass(2 * time.Hour)
		if n := len(w.delivered()); n != 2 {
			t.Errorf("%d of 2 sent", n)
		}
	})
}

func TestHastenTriesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.refuse = true })
		noWay := true
		w.way = func(domain string) (Route, bool) {
			if domain == "lost.example" && noWay {
				w.Unrouted(domain, "SERVFAIL", time.Now().Add(24*time.Hour))
				return Route{}, false
			}
			return w.to(domain), true
		}
		w.add(1, "s", "down.example")
		w.add(2, "s", "lost.example")
		w.Add(3, &spool.Envelope{Stream: "s", Recipients: make([]spool.Recipient, 1), Arrived: time.Now()},
			[]string{"far.example"}, []spool.State{{Due: time.Now().Add(24 * time.Hour)}}, false)
		w.Add(4, &spool.Envelope{Stream: "s", Recipients: make([]spool.Recipient, 1), Arrived: time.Now()},
			[]string{"far.example"}, []spool.State{{Held: true}}, false)
		pass(time.Hour)
		w.set(func() { w.refuse = false })
		noWay = false
		if n := w.Hasten(w.entries(anyEntry)); n != 3 {
			t.Errorf("%d hastened, want 3: what is held is not", n)
		}
		pass(time.Second)
		got := w.delivered()
		slices.Sort(got)
		if !slices.Equal(got, []spool.ID{1, 2, 3}) {
			t.Errorf("sent %v within a second", got)
		}
	})
}

// An address that was down, and answers again, is called at once, whether the site's other
// address takes no more or was down as well; and where that has all the sessions that are
// allowed, with the next that begins.
func TestHastenCallsAddressesThatWereDown(t *testing.T) {
	t.Parallel()
	for name, other := range map[string]receiver{"busy": {messages: 5}, "at its limit": {limit: 4}, "down as well": {silent: time.Second}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := receiversAt(receiver{silent: time.Second}, other)
				w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0), spot(2, 0)) }, func(w *world) { w.service, w.policy.MaxSessions = time.Second, 50 })
				for i := range 20_000 {
					w.add(spool.ID(i+1), "s", "a.example")
				}
				pass(3 * time.Minute)
				for !w.passedBy(1, 20*time.Second) {
					pass(time.Second)
				}
				if n := x.met(1).taken; n != 0 {
					t.Fatalf("%d taken while it was down", n)
				}
				x.mu.Lock()
				for _, r := range x.at {
					r.silent = 0
				}
				x.mu.Unlock()
				w.Hasten(w.entries(anyEntry))
				pass(3 * time.Second) // a second to connect, a second for a message
				if n := x.met(1).taken; n == 0 {
					t.Error("the address that answers again was not called")
				}
				if n := x.met(2).taken; n == 0 {
					t.Error("the other was not called")
				}
			})
		})
	}
}

// passedBy says whether the address is passed by for so long from now on.
func (w *world) passedBy(n int, d time.Duration) bool {
	w.Queue.mu.Lock()
	defer w.Queue.mu.Unlock()
	l, _ := w.table.Known(slots.Key{Host: spot(n, 0).Addr}).Learned()
	return time.Now().Add(d).Before(l.Off)
}

func TestLimitsOfAnAdminCountForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 4 })
		for i := range 10_000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		sent := func(d time.Duration) int {
			n := len(w.delivered())
			pass(d)
			return len(w.delivered()) - n
		}
		sent(time.Minute)
		if n := sent(10 * time.Second); n < 350 {
			t.Errorf("%d sent in 10 s over 4 sessions", n)
		}
		w.SetLimits([]Limit{{Name: "general", Sessions: 1, Reason: "set by test"}, {Name: "b.example", Sessions: 9}})
		sent(time.Second)
		if n := sent(10 * time.Second); n < 90 || n > 110 {
			t.Errorf("%d sent in 10 s over one session", n)
		}
		if h := w.changes("a.example"); h[len(h)-1].To != 1 || h[len(h)-1].Cause != "max_sessions is 1: set by test" {
			t.Errorf("the history ends with %+v", h[len(h)-1])
		}
		w.SetLimits([]Limit{{Name: "general", Sessions: 1}, {Name: "a.example", Rate: 2}}) // its rate from one, its sessions from the other
		sent(5 * time.Second)
		if n := sent(10 * time.Second); n < 15 || n > 25 {
			t.Errorf("%d sent in 10 s at 2/s", n)
		}
		w.SetLimits(nil)
		sent(time.Minute)
		if n := sent(10 * time.Second); n < 350 {
			t.Errorf("%d sent in 10 s without the limit", n)
		}
	})
}

// Whoever sends mail of thousands of streams does not get an admin's pause of another
// one ignored.
func TestPauseHoldsStreamsPastTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.streams.limit = 10
		for i := range 20 {
			w.add(spool.ID(i+1), fmt.Sprintf("flood%d", i), "flood.example")
		}
		w.SetPauses([]Pause{{Stream: "flood0"}, {Stream: "newsletter", Reason: "by test"}})
		w.add(1000, "newsletter", "d.example")
		pass(time.Hour)
		if slices.Contains(w.delivered(), 1000) {
			t.Error("a message of the paused stream was sent")
		}
		w.SetPauses(nil)
		pass(time.Hour)
		if !slices.Contains(w.delivered(), 1000) {
			t.Error("it was not sent after the pause")
		}
	})
}

// Listings and the account of a site tell how much of its mail is paused, and by which pauses.
func TestSiteTellsWhatIsPaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		pauses := []Pause{{Domain: "d.example", Reason: "by domain"}, {Stream: "news", Reason: "by stream"}, {Site: "nobody", Reason: "by site"}}
		w.SetPauses(pauses)
		for i := range 10 {
			w.add(spool.ID(i+1), "news", "d.example")
			w.add(spool.ID(i+101), "other", "d.example")
			w.add(spool.ID(i+201), "other", "free.example")
		}
		pass(time.Minute)
		name := w.SitesOf("d.example")[0]
		for _, s := range w.Sites() {
			switch want := pauses[:1]; {
			case s.Name == name && (s.Paused != 20 || s.Waiting != 0 || !slices.Equal(s.PausedBy, want)):
				t.Errorf("%s is listed with %d paused by %+v, %d waiting", s.Name, s.Paused, s.PausedBy, s.Waiting)
			case s.Name != name && (s.Paused != 0 || s.PausedBy != nil):
				t.Errorf("%s: %d paused by %+v", s.Name, s.Paused, s.PausedBy)
			}
		}
		if a, ok := w.Explain(name); !ok || a.Paused != 20 || !slices.Equal(a.PausedBy, pauses[:2]) || len(a.Changes) != 0 || a.Snapshot.Want == 0 { // and asking makes no change
			t.Errorf("%v: %d paused by %+v", ok, a.Paused, a.PausedBy)
		}
		w.SetPauses(nil)
		pass(time.Minute)
		if a, ok := w.Explain(name); !ok || a.Paused != 0 || a.PausedBy != nil {
			t.Errorf("%v: %d paused by %+v", ok, a.Paused, a.PausedBy)
		}
	})
}
