package queue

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

func TestPausedStreamWaitsAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 1 })
		if err := w.SetStream("held", StreamSetting{Paused: "by test"}); err != nil {
			t.Fatal(err)
		}
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
		// Neither age nor a domain without a way ends what an admin holds.
		pass(10 * 24 * time.Hour)
		w.Overdue(time.Now(), func(string) time.Duration { return 120 * time.Hour }, func(j Job, _ string) {
			t.Errorf("%v is overdue while it is held", j.ID)
		})
		if job, ok := w.Claim("d0.example", 10); ok {
			t.Errorf("claimed %v while it is held", job.ID)
		}
		if err := w.SetStream("held", StreamSetting{}); err != nil {
			t.Fatal(err)
		}
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
		if err := w.SetStream("s", StreamSetting{Paused: "by test"}); err != nil {
			t.Fatal(err)
		}
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

func TestPriorityIsAShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 1 })
		if err := w.SetStream("fast", StreamSetting{Priority: 4}); err != nil {
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
		if err := w.SetStream("fast", StreamSetting{Priority: MaxPriority + 1}); err == nil {
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
		w.way = func(string) (Way, bool) { return Way{}, false }
		w.add(1, "a", "x.example", "y.example")
		w.Add(2, &spool.Envelope{Stream: "b", Recipients: make([]spool.Recipient, 1), Arrived: time.Now()},
			[]string{"x.example"}, []spool.State{{Due: time.Now().Add(time.Hour)}})
		if err := w.SetStream("c", StreamSetting{Priority: 2}); err != nil {
			t.Fatal(err)
		}
		var list []any
		for _, x := range w.Streams() {
			list = append(list, x.Name, x.Waiting, x.Deferred, x.Active, x.Priority)
		}
		got := fmt.Sprint(list)
		if want := "[a 2 0 0 0 b 0 1 0 0 c 0 0 0 2]"; got != want {
			t.Errorf("streams %s, want %s", got, want)
		}
	})
}

func TestPauseEndsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		until := time.Now().Add(5 * time.Minute)
		if err := w.SetStream("s", StreamSetting{Paused: "421 slow down", Until: until, Priority: 3}); err != nil {
			t.Fatal(err)
		}
		w.add(1, "s", "a.example")
		pass(4 * time.Minute)
		if lifted := w.LiftPauses(time.Now()); lifted != nil || len(w.delivered()) != 0 {
			t.Errorf("lifted %v, sent %v too early", lifted, w.delivered())
		}
		pass(time.Minute)
		if lifted := w.LiftPauses(time.Now()); len(lifted) != 1 || lifted[0] != "s" {
			t.Errorf("lifted %v", lifted)
		}
		pass(time.Minute)
		if n := len(w.delivered()); n != 1 {
			t.Errorf("%d sent after the pause", n)
		}
		if s := w.Setting("s"); s != (StreamSetting{Priority: 3}) {
			t.Errorf("setting %+v", s)
		}
	})
}
