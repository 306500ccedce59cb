package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// A host that starts with a clock years ahead writes due times of that year, and
// the clock is set right afterwards: in the journal that a next agent reads, or
// under a running one.
func TestClockSetBackKeepsNoMailForYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		ahead := time.Now().Add(10 * 365 * 24 * time.Hour)
		for i := range 3 {
			e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: ahead, Recipients: []spool.Recipient{{Address: "u@a.example"}}}
			due := ahead.Add(time.Duration(i) * time.Hour) // a bucket of its own
			w.Add(spool.ID(i+1), e, []string{"a.example"}, []spool.State{{Due: due, Tries: 1}}, false)
		}
		pass(time.Minute)
		if got := w.delivered(); len(got) != 3 {
			t.Errorf("%d of 3 messages tried", len(got))
		}
	})
}

// What is due in a while keeps waiting for that while.
func TestRetryOfTomorrowWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "u@a.example"}}}
		w.Add(1, e, []string{"a.example"}, []spool.State{{Due: time.Now().Add(24 * time.Hour), Tries: 1}}, false)
		pass(23 * time.Hour)
		if got := w.delivered(); len(got) != 0 {
			t.Error("tried too early")
		}
		pass(2 * time.Hour)
		if got := w.delivered(); len(got) != 1 {
			t.Error("not tried in time")
		}
	})
}
