package queue

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/windows"
)

func only(names ...string) func(string) bool {
	return func(s string) bool {
		for _, name := range names {
			if s == name {
				return true
			}
		}
		return false
	}
}

// counts of a test's quotas.
func counts(t *testing.T, list map[quotas.Key]quotas.Quota) *quotas.Book {
	t.Helper()
	b := quotas.Open(quotas.Options{Log: slog.New(slog.DiscardHandler)}, time.Now())
	b.Use(list)
	return b
}

// of counts the messages of a stream that were sent, by the hundreds of their ids.
func (w *world) of(hundreds spool.ID) (n int) {
	for _, id := range w.delivered() {
		if id/1000 == hundreds {
			n++
		}
	}
	return n
}

// settledGates checks that nothing is left of what was counted behind gates.
func (w *world) settledGates() {
	w.t.Helper()
	w.Queue.mu.Lock()
	defer w.Queue.mu.Unlock()
	for _, s := range w.sites {
		if s.waiting != 0 || s.gated != 0 || s.permits != 0 {
			w.t.Errorf("site %s: %d waiting, %d behind gates, %d permits", s.key, s.waiting, s.gated, s.permits)
		}
	}
	for _, l := range w.limited {
		if l.open.n != 0 {
			w.t.Errorf("%s: %d gates wait", l.Name, l.open.n)
		}
	}
}

// A stream with a rate keeps to it, uses all of it, and costs the others nothing.
func TestCappedStreamCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	others := make(map[bool]time.Duration) // how long they took, beside one that is capped and alone
	for _, capped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(w *world) { w.policy.MaxSessions = 5 })
			w.SetStreams([]StreamLimits{{Name: "capped", Fits: only("capped"), Rate: 10}})
			began := time.Now()
			if capped {
				for i := range 600 {
					w.add(spool.ID(1000+i), "capped", fmt.Sprintf("d%d.example", i%10))
				}
			}
			for i := range 9000 {
				w.add(spool.ID(10_000+i), "other", fmt.Sprintf("d%d.example", i%10))
			}
			for w.Queued() > 0 {
				pass(time.Second)
				n := w.of(1)
				if n > 10*int(time.Since(began)/time.Second)+11 { // a second's worth may go at once
					t.Fatalf("%d of the capped stream after %v", n, time.Since(began))
				}
				if others[capped] == 0 && len(w.delivered())-n == 9000 {
					others[capped] = time.Since(began)
				}
			}
			if took := time.Since(began); capped && took > 62*time.Second {
				t.Errorf("600 at 10/s took %v", took)
			}
			w.settledGates()
		})
	}
	if with, without := others[true], others[false]; with > without*102/100+time.Second {
		t.Errorf("the others took %v, and %v without", with, without)
	}
}

// A quota lets as much go as it says, by the hour and by the day; what was not accepted does not
// count.
func TestQuotaHoldsBackWhatIsBeyondIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hour, day := quotas.Key{Stream: "news"}, quotas.Key{Stream: "news", Day: true}
		book := counts(t, map[quotas.Key]quotas.Quota{hour: {Limit: 100}, day: {Limit: 250, Zone: time.UTC}})
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Quotas: []*quotas.Counter{book.Counter(hour), book.Counter(day)}}})
		for i := range 400 {
			w.add(spool.ID(1000+i), "news", fmt.Sprintf("d%d.example", i%7))
		}
		w.add(5000, "other", "d1.example")
		for _, want := range []int{100, 200, 250, 250} {
			pass(time.Minute)
			if n := w.of(1); n != want {
				t.Fatalf("%d after %v, want %d", n, time.Now(), want)
			}
			pass(time.Hour)
		}
		if n := w.of(5); n != 1 {
			t.Error("another stream was held back")
		}
		pass(24 * time.Hour)
		if n := w.Queued(); n != 0 {
			t.Errorf("%d are left", n)
		}
		w.settledGates()
	})
}

// A quota of each queue bounds that queue's mail alone.
func TestQuotaOfAProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := quotas.Key{Stream: "news", Provider: "big"}
		book := counts(t, map[quotas.Key]quotas.Quota{k: {Limit: 10}})
		w := newWorld(t, nil)
		big := w.policy
		big.Name = "big"
		w.way = func(domain string) (Route, bool) {
			rt := w.to(domain)
			if domain == "big.example" {
				rt.Queue = &big
			}
			return rt, true
		}
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), ByQueue: map[string][]*quotas.Counter{"big": {book.Counter(k)}}}})
		for i := range 100 {
			w.add(spool.ID(1000+i), "news", "big.example")
			w.add(spool.ID(2000+i), "news", "small.example")
		}
		pass(time.Minute)
		if a, b := w.of(1), w.of(2); a != 10 || b != 100 {
			t.Errorf("%d to the big one, %d to the small one", a, b)
		}
		pass(12 * time.Hour)
		w.settledGates()
	})
}

// Recipients of a message go together, through a gate too, and a quota that has room for some of
// them takes these.
func TestMessageGoesThroughAGateTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := quotas.Key{Stream: "news"}
		book := counts(t, map[quotas.Key]quotas.Quota{k: {Limit: 500}}) // blocks of 5
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Rate: 100, Quotas: []*quotas.Counter{book.Counter(k)}}})
		w.add(1, "news", "a.example", "a.example", "a.example", "b.example", "b.example")
		pass(time.Minute)
		jobs := w.transactions()
		if len(jobs) > 3 {
			t.Errorf("%d transactions", len(jobs))
		}
		n := 0
		for _, j := range jobs {
			n += len(j.Items)
		}
		if n != 5 || book.List(time.Now())[0].Used != 5 {
			t.Errorf("%d recipients sent, %+v", n, book.List(time.Now()))
		}
		w.settledGates()
	})
}

// Outside its window a stream waits; what others have goes on.
func TestStreamWaitsForItsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it begins on 2000-01-01 00:00 UTC, a Saturday
		open, err := windows.Parse("Mon-Fri 08:00-09:00", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Window: open}})
		for i := range 200 {
			w.add(spool.ID(1000+i), "news", fmt.Sprintf("d%d.example", i%7))
			w.add(spool.ID(2000+i), "other", fmt.Sprintf("d%d.example", i%7))
		}
		pass(2*24*time.Hour + 8*time.Hour - time.Second)
		if a, b := w.of(1), w.of(2); a != 0 || b != 200 {
			t.Fatalf("%d before the window, %d of the others", a, b)
		}
		pass(time.Minute)
		if n := w.of(1); n != 200 {
			t.Errorf("%d when it is open", n)
		}
		pass(time.Hour)
		w.add(1500, "news", "d1.example")
		pass(time.Minute)
		if n := w.of(1); n != 200 {
			t.Error("sent after it closed")
		}
		if n := w.Limited(); n != 1 {
			t.Errorf("%d wait for the window, of 1", n)
		}
		pass(24 * time.Hour)
		if n := w.of(1); n != 201 {
			t.Errorf("%d on the next day", n)
		}
		w.settledGates()
	})
}

// Whoever sets the host's clock moves windows and days: no look at them is further away than a
// minute, however long the window is closed or the quota used up.
func TestClockThatIsSetIsNoticedInAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // from a Saturday on
		closed, err := windows.Parse("Wed 08:00-09:00", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		k := quotas.Key{Stream: "few", Day: true}
		few := map[quotas.Key]quotas.Quota{k: {Limit: 10, Zone: time.UTC}}
		book := counts(t, few)
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Window: closed}, {Name: "few", Fits: only("few"), Quotas: []*quotas.Counter{book.Counter(k)}}})
		for i := range 20 {
			w.add(spool.ID(1000+i), "news", "a.example")
			w.add(spool.ID(2000+i), "few", "a.example")
		}
		pass(3 * time.Hour)
		if a, b := w.of(1), w.of(2); a != 0 || b != 10 {
			t.Fatalf("%d outside the window, %d of a quota of 10", a, b)
		}
		// What a clock that is set would change at once: the window is open, it is another day.
		w.Queue.mu.Lock()
		w.limited[0].Window = windows.Window{}
		w.Queue.mu.Unlock()
		few[k] = quotas.Quota{Limit: 20, Zone: time.UTC}
		book.Use(few)
		pass(2 * time.Minute)
		if a, b := w.of(1), w.of(2); a != 20 || b != 20 {
			t.Errorf("%d and %d of 20 two minutes later", a, b)
		}
		if n := w.Limited(); n != 0 {
			t.Errorf("%d still wait for a limit", n)
		}
		w.settledGates()
	})
}

// Receivers that are down, or hang, keep no permit from those that are up.
func TestDeadReceiversHoldNoPermits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			live := w.server
			w.server = func(w *world, s *Session) {
				if s.Route().Site[0] != 'x' {
					live(w, s)
					return
				}
				time.Sleep(time.Minute)
				w.Leave(s, nil, nil, "no answer")
			}
		})
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Rate: 2}})
		for i := range 300 {
			w.add(spool.ID(1000+i), "news", fmt.Sprintf("x%d.example", i))
			w.add(spool.ID(2000+i), "news", "alive.example")
		}
		pass(20 * time.Minute)
		if n := w.of(2); n != 300 {
			t.Errorf("%d of 300 in 20 minutes at 2/s, beside 300 that are dead", n)
		}
	})
}

// A reload changes, lifts and sets limits for what is queued already.
func TestLimitsChangeForWhatIsQueued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.SetPauses([]Pause{{Reason: "until all is there"}})
		for i := range 1000 {
			w.add(spool.ID(1000+i), "news", fmt.Sprintf("d%d.example", i%7))
		}
		pass(time.Second)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Rate: 1}})
		w.SetPauses(nil)
		pass(100 * time.Second)
		if n := w.of(1); n < 99 || n > 102 {
			t.Errorf("%d at 1/s", n)
		}
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Rate: 5}})
		pass(20 * time.Second)
		if n := w.of(1); n < 195 || n > 210 {
			t.Errorf("%d after 20 s at 5/s", n)
		}
		w.SetStreams(nil)
		pass(time.Minute)
		if n := w.Queued(); n != 0 {
			t.Errorf("%d are left without a limit", n)
		}
		w.settledGates()
	})
}

// A listing knows all mail of a site, also what is behind a gate.
func TestListingKnowsWhatIsBehindAGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Rate: 0.001}})
		for i := range 100 {
			w.add(spool.ID(1000+i), "news", "a.example")
		}
		pass(time.Minute)
		sites := w.Sites()
		if len(sites) != 1 || sites[0].Waiting != 99 || sites[0].Sessions > 1 {
			t.Errorf("%+v", sites)
		}
		if top := w.most(); top > 2 {
			t.Errorf("%d sessions for one message", top)
		}
	})
}

// On days of 23 and 25 hours a stream has its quota of the day, and sends within its window by
// the clock on the wall; a crash of the counts' owner in the middle of a day is the quotas' affair.
func TestWindowAndQuotaOnDaysOf23And25Hours(t *testing.T) {
	t.Parallel()
	for _, from := range []time.Time{ // clocks were set on 26 March and 29 October of 2000, when bubbles begin
		time.Date(2000, 3, 24, 11, 0, 0, 0, time.UTC), time.Date(2000, 10, 27, 10, 0, 0, 0, time.UTC),
	} {
		synctest.Test(t, func(t *testing.T) {
			night, err := windows.Parse("22:00-06:00 Europe/Berlin", time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			berlin := night.Zone()
			k := quotas.Key{Stream: "news", Day: true}
			book := counts(t, map[quotas.Key]quotas.Quota{k: {Limit: 100, Zone: berlin}})
			sent := make(map[string]int) // by the day
			w := newWorld(t, nil)
			pass(time.Until(from))
			w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Window: night, Quotas: []*quotas.Counter{book.Counter(k)}}})
			for i := range 1000 {
				w.add(spool.ID(1000+i), "news", "a.example")
			}
			last := 0
			for range 5 * 24 * 60 {
				pass(time.Minute)
				n := w.of(1)
				now := time.Now().In(berlin)
				if n > last {
					if h := now.Add(-time.Second).Hour(); h >= 6 && h < 22 {
						t.Fatalf("sent at %v", now)
					}
					sent[now.Add(-time.Second).Format(time.DateOnly)] += n - last
				}
				last = n
			}
			days := 0
			for day, n := range sent {
				if n > 100 {
					t.Errorf("%d on %s", n, day)
				}
				if n == 100 {
					days++
				}
			}
			if days < 4 { // the first and the last are half
				t.Errorf("%v", sent)
			}
			w.SetStreams(nil)
			pass(time.Hour)
		})
	}
}

// The time outside of its window does not spend a stream's expire, unless asked; and nothing
// ends while it is closed.
func TestTimeOutsideTheWindowDoesNotSpendExpire(t *testing.T) {
	t.Parallel()
	for _, always := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { // from a Saturday on
			open, err := windows.Parse("00:00-01:00", time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, func(w *world) { w.refuse = true })
			w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Window: open, Expire: 150 * time.Minute, ExpireAlways: always}})
			w.add(1000, "news", "a.example")
			ended := time.Time{}
			for range 5 * 24 * 60 {
				pass(time.Minute)
				if list := w.overdue(); len(list) > 0 {
					ended = time.Now().UTC()
					break
				}
			}
			// Two and a half hours of three windows, or the first look in the second one.
			want := time.Date(2000, 1, 3, 0, 30, 0, 0, time.UTC)
			if always {
				want = time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)
			}
			if ended.Before(want) || ended.After(want.Add(20*time.Minute)) {
				t.Errorf("expire_always %v: ended at %v, want %v", always, ended, want)
			}
		})
	}
}

// A limit holds for streams past the number of distinct ones, too, and so does a pause of one of
// them.
func TestLimitHoldsHoweverManyStreamsThereAre(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: func(s string) bool { return strings.HasPrefix(s, "news-") }, Rate: 1}})
		w.SetPauses([]Pause{{Domain: "a.example", Reason: "until all is there"}})
		for i := range maxStreams {
			w.add(spool.ID(100_000+i), fmt.Sprintf("other-%d", i), "a.example")
		}
		for i := range 300 {
			w.add(spool.ID(1000+i), fmt.Sprintf("news-%d", i), "b.example")
			w.add(spool.ID(2000+i), fmt.Sprintf("more-%d", i), "b.example")
		}
		pass(100 * time.Second)
		if n := w.of(1); n < 95 || n > 103 {
			t.Errorf("%d at 1/s", n)
		}
		if n := w.of(2); n != 300 {
			t.Errorf("%d without a limit", n)
		}
		w.SetPauses([]Pause{{Domain: "a.example", Reason: "until all is there"}, {Stream: "news-299", Reason: "by test"}})
		before := w.of(1)
		pass(100 * time.Second)
		if n := w.of(1) - before; n > 1 { // one may have been under way
			t.Errorf("%d sent of those that share a name with one that is paused", n)
		}
	})
}
