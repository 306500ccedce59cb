package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

// A receiver that lets us in and closes before any mail is tried is called as rarely as
// one that is down, and its mail ends by its age.
func TestReceiverThatClosesBeforeMailIsCalledAsOneThatIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.server, w.policy.Expire = closing(0), time.Hour })
		for i := range 20 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(2 * time.Hour)
		if n := w.connects(); n < 10 || n > 40 {
			t.Errorf("%d connects in two hours", n)
		}
		overdue := 0
		w.Overdue(func(string) *config.Queue { return &w.policy }, func(job Job, _ *config.Queue, _ string) {
			overdue += len(job.Items)
			for _, item := range job.Items {
				w.Settle([]Settled{{Handle: item.Handle, State: spool.State{Status: spool.Bounced}}})
			}
		})
		if overdue != 20 {
			t.Errorf("%d of 20 recipients end after two hours, an hour over their age", overdue)
		}
	})
}

// One that then takes mail is well again.
func TestReceiverThatTakesMailAgainIsWell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.server = closing(0) })
		for i := range 1000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(10 * time.Minute)
		w.set(func() { w.server = (*world).serveSession })
		pass(12 * time.Minute)
		if n := len(w.delivered()); n != 1000 {
			t.Errorf("%d of 1000 delivered", n)
		}
	})
}
