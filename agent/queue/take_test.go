package queue

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// take takes out what is listed and fits.
func (w *world) take(fits func(Entry) bool) (jobs []Job) {
	w.List(func(page []Entry) bool {
		jobs = append(jobs, w.Take(slices.DeleteFunc(slices.Clone(page), func(e Entry) bool { return !fits(e) }))...)
		return true
	})
	return jobs
}

func (w *world) cancel(jobs []Job) (n int) {
	for _, j := range jobs {
		for _, it := range j.Items {
			w.Settle([]Settled{{Handle: it.Handle, State: spool.State{Status: spool.Cancelled}}})
			n++
		}
	}
	return n
}

func TestTakeFindsMailWhereverItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 1 })
		deferred := []spool.State{{Due: time.Now().Add(time.Hour)}}
		for i := range 3000 {
			stream := []string{"mistake", "good"}[i%2]
			e := &spool.Envelope{Stream: stream, Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
			var st []spool.State
			if i%3 == 0 {
				st = deferred
			}
			w.Add(spool.ID(i+1), e, []string{[]string{"a.example", "b.example"}[i/2%2]}, st, false)
		}
		pass(time.Second)
		jobs := w.take(func(e Entry) bool { return e.Stream == "mistake" })
		sent := 0
		for _, id := range w.delivered() {
			if id%2 == 1 {
				sent++
			}
		}
		_, _, active, _ := w.Counts()
		n := w.cancel(jobs)
		if n < 1500-sent-active || n > 1500-sent {
			t.Errorf("%d taken, %d of 1500 sent before", n, sent)
		}
		pass(3 * time.Hour)
		left := slices.DeleteFunc(w.delivered(), func(id spool.ID) bool { return id%2 == 1 })
		if len(left) != 1500 {
			t.Errorf("%d of the other stream's 1500 sent", len(left))
		}
		if n := w.Queued(); n != 0 {
			t.Errorf("%d still queued", n)
		}
	})
}

func TestTakeLeavesWhatIsInATransaction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.service = time.Minute })
		w.add(1, "s", "a.example")
		pass(90 * time.Second) // up, and at work on it
		var all []Entry
		w.List(func(page []Entry) bool { all = append(all, page...); return true })
		if len(all) != 1 || all[0].State != "active" {
			t.Fatalf("listed: %+v", all)
		}
		if jobs := w.Take(all); len(jobs) != 0 {
			t.Errorf("took %v out of a transaction", jobs)
		}
		pass(time.Minute)
		if jobs := w.Take(all); len(jobs) != 0 {
			t.Errorf("took %v, which is done", jobs)
		}
	})
}

func TestTakeKeepsAMessagesRecipientsTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.way = func(domain string) (Route, bool) {
				w.Unrouted(domain, "SERVFAIL", time.Now().Add(time.Minute))
				return Route{}, false
			}
		})
		w.add(1, "s", "a.example", "a.example", "b.example", "a.example")
		jobs := w.take(func(Entry) bool { return true })
		if len(jobs) != 3 || len(jobs[0].Items) != 2 || jobs[1].Domain != "b.example" {
			t.Fatalf("jobs %+v", jobs)
		}
		// What goes back is sent as ever.
		pass(time.Second)
		w.way = func(domain string) (Route, bool) { return w.to(domain), true }
		for _, j := range jobs {
			for _, it := range j.Items {
				w.Settle([]Settled{{Handle: it.Handle, How: Untried}})
			}
		}
		pass(5 * time.Minute)
		if n := w.Queued(); n != 0 {
			t.Errorf("%d of 4 still queued", n)
		}
	})
}

// TestListingLeavesTheQueueToOthers lists more than one page's worth: pages are bounded,
// and while one is looked at the queue does its work.
func TestListingLeavesTheQueueToOthers(t *testing.T) {
	t.Parallel()
	q := New(Options{Resolve: func(string) {}, Launch: func(*Session) {}, Relay: "relay:host"})
	e := &spool.Envelope{Stream: "s", Recipients: []spool.Recipient{{Address: "a@a.example"}}}
	const n = 10_000
	for i := range n {
		q.Add(spool.ID(i+1), e, []string{"a.example"}, nil, false)
	}
	listed, pages := 0, 0
	q.List(func(page []Entry) bool {
		if len(page) > 1<<chunkBits {
			t.Errorf("a page of %d", len(page))
		}
		listed += len(page)
		pages++
		q.Add(spool.ID(n+pages), e, []string{"b.example"}, nil, false) // waits forever if the mutex is held
		return true
	})
	if listed < n || pages < n>>chunkBits {
		t.Errorf("%d listed on %d pages", listed, pages)
	}
}
