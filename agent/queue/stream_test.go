package queue

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

func TestPriorityIsAShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 1 })
		if err := w.SetPriority("fast", 4); err != nil {
			t.Fatal(err)
		}
		for i := range 2000 {
			w.add(spool.ID(i+1), "slow", "a.example")
			w.add(spool.ID(i+10_001), "fast", "a.example")
		}
		pass(100 * time.Second)
		fast, slow := 0, 0
		for _, id := range w.delivered() {
			if id > 10_000 {
				fast++
			} else {
				slow++
			}
		}
		if fast < 3*slow || fast > 5*slow {
			t.Errorf("priority 4 sent %d, priority 1 %d", fast, slow)
		}
		if err := w.SetPriority("fast", config.MaxPriority+1); err == nil {
			t.Error("no error for a priority out of range")
		}
	})
}

func TestStreamsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.server = func(w *world, s *Session) { w.Opened(s, nil); <-t.Context().Done() }
		})
		w.way = func(string) (Route, bool) { return Route{}, false }
		w.add(1, "a", "x.example", "y.example")
		w.Add(2, &spool.Envelope{Stream: "b", Recipients: make([]spool.Recipient, 1), Arrived: time.Now()},
			[]string{"x.example"}, []spool.State{{Due: time.Now().Add(time.Hour)}}, false)
		w.Add(3, &spool.Envelope{Stream: "b", Recipients: make([]spool.Recipient, 1), Arrived: time.Now()},
			[]string{"x.example"}, []spool.State{{Held: true}}, false)
		if err := w.SetPriority("c", 2); err != nil {
			t.Fatal(err)
		}
		w.SetPauses([]Pause{{Stream: "d", Reason: "why"}, {Stream: "a", Site: "x", Reason: "only there"}})
		var list []any
		for _, x := range w.Streams() {
			list = append(list, x.Name, x.Waiting, x.Deferred, x.Active, x.Held, x.Priority, x.Paused)
		}
		got := fmt.Sprint(list)
		if want := "[a 2 0 0 0 0  b 0 1 0 1 0  c 0 0 0 0 2  d 0 0 0 0 0 why]"; got != want {
			t.Errorf("streams %s, want %s", got, want)
		}
	})
}
