package queue

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// fromWorld has a destination for each of what mail leaves from; what was never told leaves
// from "b". Every first try is deferred for five minutes, and has its source settled.
type fromWorld struct {
	*world
	mu    sync.Mutex
	tries map[spool.ID][]string // what they left from
}

func newFromWorld(t *testing.T, choose func(recipient string) string) *fromWorld {
	f := &fromWorld{tries: make(map[spool.ID][]string)}
	f.world = newWorld(t, func(w *world) {
		w.o.From = func(e *spool.Envelope, i int, _ string) string { return choose(e.Recipients[i].Address) }
		w.way = func(name string) (Route, bool) {
			domain, from := SplitRouteName(name)
			if from == "" {
				from = "b"
			}
			rt := w.to(domain)
			rt.Site += ":" + from
			rt.Key += " from " + from
			rt.From = from
			return rt, true
		}
		w.server = func(w *world, s *Session) {
			w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: time.Now()}})
			var done []Settled
			for {
				job, err := w.Step(context.Background(), s, done, nil)
				if err != nil {
					w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
					return
				}
				time.Sleep(w.service)
				done = done[:0]
				rt := s.Route()
				f.mu.Lock()
				f.tries[job.ID] = append(f.tries[job.ID], rt.From)
				f.mu.Unlock()
				for _, item := range job.Items {
					st := spool.State{Status: spool.Delivered}
					if item.Tries == 0 {
						st = spool.State{Tries: 1, Due: time.Now().Add(5 * time.Minute), From: rt.From}
					}
					done = append(done, Settled{Handle: item.Handle, State: st})
				}
			}
		}
	})
	return f
}

func TestMailKeepsWhatItsFirstTryLeftFrom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := map[string]string{"u0@a.example": "a"} // of others it is not said
		w := newFromWorld(t, func(recipient string) string { return first[recipient] })
		w.add(1, "news", "a.example")
		w.add(2, "news", "b.example")
		e := &spool.Envelope{Stream: "news", Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "x@a.example"}}}
		w.Add(3, e, []string{"a.example"}, []spool.State{{Tries: 1, From: "c"}}, false) // of an earlier run
		pass(time.Minute)
		w.way = func(name string) (Route, bool) { // from now on all that is not told leaves from elsewhere
			domain, from := SplitRouteName(name)
			rt := w.to(domain)
			if from == "" {
				from = "z"
			}
			rt.Site, rt.Key, rt.From = rt.Site+":"+from, rt.Key+" from "+from, from
			return rt, true
		}
		w.Reload(100)
		pass(time.Hour)
		for id, want := range map[spool.ID][]string{1: {"a", "a"}, 2: {"b", "b"}, 3: {"c"}} {
			if got := w.tries[id]; !slices.Equal(got, want) {
				t.Errorf("message %d left from %v, want %v", id, got, want)
			}
		}
		if n := w.Queued(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// To admins a domain is one, whatever its mail leaves from.
func TestDomainIsOneToAdmins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		froms := map[string]string{"u0@a.example": "a", "u1@a.example": "b"}
		w := newFromWorld(t, func(recipient string) string { return froms[recipient] })
		w.SetPauses([]Pause{{Domain: "a.example", Reason: "by test"}})
		w.add(1, "news", "a.example", "a.example", "a.example")
		pass(time.Hour)
		var listed []Entry
		w.List(func(page []Entry) bool { listed = append(listed, page...); return true })
		sites := make(map[string]bool)
		for _, e := range listed {
			if e.Domain != "a.example" || e.State != "held" {
				t.Errorf("%+v", e)
			}
			sites[e.Site] = true
		}
		if len(listed) != 3 || len(sites) != 2 {
			t.Errorf("%d recipients at %v", len(listed), sites)
		}
		asked := w.questions()
		w.Reroute("a.example")
		pass(time.Second)
		if n := w.questions() - asked; n != 3 {
			t.Errorf("%d of 3 routes were asked for again", n)
		}
		w.SetPauses(nil)
		pass(time.Hour)
		if n := w.Queued(); n != 0 {
			t.Errorf("%d are left", n)
		}
		if len(w.tries[1]) != 5 { // three transactions, then two: what was not told has joined its like
			t.Errorf("%v", w.tries[1])
		}
	})
}

// What is forgotten leaves nothing behind.
func TestFromsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newFromWorld(t, func(string) string { return "a" })
		w.way = func(string) (Route, bool) { return Route{}, false }
		w.add(1, "news", "a.example", "b.example")
		pass(time.Second)
		for _, name := range []string{"a.example from a", "b.example from a"} {
			job, ok := w.Claim(name, 10)
			if !ok || len(job.Items) != 1 {
				t.Fatalf("%s: %+v", name, job)
			}
			w.Settle([]Settled{{Handle: job.Items[0].Handle, State: spool.State{Status: spool.Bounced}}})
		}
		if len(w.froms) != 0 || len(w.domains) != 0 {
			t.Errorf("%v", w.froms)
		}
	})
}
