package queue

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

// What the host refused for good shows as stuck until it is done, wherever it is.
func TestStuckMailShows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.way = func(string) (Way, bool) { return Way{}, false } })
		e := &spool.Envelope{Origin: spool.Report, Arrived: time.Now(), Recipients: make([]spool.Recipient, 3)}
		w.Add(1, e, make([]string, 3), []spool.State{{Stuck: true, Due: time.Now().Add(time.Hour)}, {Stuck: true}, {}})
		states := func() (list []string) {
			w.List(func(page []Entry) bool {
				for _, e := range page {
					list = append(list, e.State)
				}
				return true
			})
			slices.Sort(list)
			return list
		}
		if got := states(); !slices.Equal(got, []string{"stuck", "stuck", "waiting"}) || w.Stuck() != 2 {
			t.Errorf("%q, %d stuck", got, w.Stuck())
		}
		for _, j := range w.take(func(e Entry) bool { return e.State == "waiting" }) {
			w.Settle([]Settled{{Handle: j.Items[0].Handle, Stuck: true, Due: time.Now().Add(time.Hour)}})
		}
		if got := states(); !slices.Equal(got, []string{"stuck", "stuck", "stuck"}) || w.Stuck() != 3 {
			t.Errorf("%q, %d stuck", got, w.Stuck())
		}
		pass(2 * time.Hour)
		jobs := w.take(func(e Entry) bool { return e.State == "stuck" })
		if w.cancel(jobs) != 3 || w.Stuck() != 0 || w.Queued() != 0 {
			t.Errorf("%d jobs, %d stuck, %d queued", len(jobs), w.Stuck(), w.Queued())
		}
	})
}

// A recipient that its owner keeps is neither sent again nor done before the
// owner says so, and its handle does no harm after that.
func TestKeptRecipientsWaitForTheirOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kept := make(chan Handle, 1)
		w := newWorld(t, func(w *world) {
			w.policy.MaxSessions = 1
			w.server = func(w *world, s *Session) {
				w.Opened(s, nil)
				var done []Settled
				for {
					job, err := w.Step(t.Context(), s, done, nil)
					if err != nil {
						w.Leave(s, nil, nil, "")
						return
					}
					w.set(func() { w.sent = append(w.sent, job.ID) })
					done = []Settled{{Handle: job.Items[0].Handle, Kept: true}}
					kept <- job.Items[0].Handle
				}
			}
		})
		w.add(1, "", "a.example")
		h := <-kept
		pass(time.Hour)
		if n := w.Queued(); n != 1 || len(w.delivered()) != 1 {
			t.Fatalf("%d queued, sent %v", n, w.delivered())
		}
		w.Settle([]Settled{{Handle: h, Status: spool.Bounced}})
		w.add(2, "", "a.example") // in the place of the first, and a session has it
		if again := <-kept; again != h {
			t.Fatalf("handle %d, then %d: the test is to see it used again", h, again)
		}
		w.Settle([]Settled{{Handle: h, Kept: true}}) // late
		if n := w.Queued(); n != 1 {
			t.Errorf("%d queued", n)
		}
		w.Settle([]Settled{{Handle: h, Due: time.Now()}})
		pass(time.Second)
		if got := w.delivered(); !slices.Equal(got, []spool.ID{1, 2, 2}) {
			t.Errorf("sent %v", got)
		}
		w.Settle([]Settled{{Handle: <-kept, Status: spool.Delivered}})
	})
}

// While the host is away for weeks its reports wait, at the price of a connect now
// and then; they do not expire, and leave when it is back.
func TestReportsWaitForTheHostForWeeks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.refuse = true })
		const n = 1000
		for i := range n {
			w.Add(spool.ID(i+1), &spool.Envelope{Origin: spool.Report, Size: 3000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}, []string{"away.example"}, nil)
		}
		const weeks = 3 * 7 * 24 * time.Hour
		for end := time.Now().Add(weeks); time.Now().Before(end); {
			pass(6 * time.Hour)
			w.Overdue(func(string) *config.Queue { return &w.policy }, func(job Job, _ *config.Queue, _ string) {
				t.Errorf("a report expires: %+v", job)
			})
		}
		var launched int
		w.set(func() { launched, w.refuse = w.launched, false })
		if most := int(weeks/holdoffs[len(holdoffs)-1]) + 10; launched > most || launched < most/2 {
			t.Errorf("%d connects in three weeks, want about one in ten minutes, %d", launched, most)
		}
		if waiting, _, _, _ := w.Counts(); waiting != n {
			t.Errorf("%d wait", waiting)
		}
		pass(15 * time.Minute)
		if got := len(w.delivered()); got != n || w.Queued() != 0 {
			t.Errorf("%d of %d left within a quarter of an hour, %d are queued", got, n, w.Queued())
		}
	})
}
