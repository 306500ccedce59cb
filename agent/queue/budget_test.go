package queue

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// A session that was told to go counts until it has: the receiver does, too. But
// no other goes in its stead.
func TestNoMoreSessionsGoThanAreTooMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.quit = 5 * w.service
			w.policy.MaxMessagesPerConnection = 100_000
		})
		for i := range 40_000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(time.Minute)
		before := w.connects()
		if _, _, _, n := w.Counts(); n != 20 {
			t.Fatalf("%d sessions", n)
		}
		w.Clamp("a.example", elastic.Clamp{Sessions: 12, Until: time.Now().Add(time.Hour), Reason: "421 too many"})
		pass(10 * time.Second)
		if _, _, _, n := w.Counts(); n != 12 || w.connects() != before {
			t.Errorf("%d sessions of 12, %d of them new", n, w.connects()-before)
		}
	})
}

func TestConnectionsAreOpenedAtTheConfiguredRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxConnectionRate = 2
			w.policy.MaxMessagesPerConnection = 1
		})
		for i := range 500 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(time.Minute)
		if n := w.connects(); n < 110 || n > 122 {
			t.Errorf("%d connections in a minute at 2/s", n)
		}
	})
}

// closing is a server that closes each connection after n messages.
func closing(n int) func(*world, *Session) {
	return func(w *world, s *Session) {
		time.Sleep(w.service)
		w.Opened(s, []elastic.Signal{{Kind: elastic.Up}})
		w.set(func() { w.launched++ })
		var done []Settled
		for sent := 0; ; sent++ {
			job, err := w.Step(context.Background(), s, done, nil)
			closed := []elastic.Signal{{Kind: elastic.Closed}}
			if err != nil {
				w.set(func() { w.asked = append(w.asked, fmt.Sprint("quit after ", sent)) })
				w.Leave(s, nil, closed, "")
				return
			}
			if sent == n {
				w.set(func() { w.asked = append(w.asked, fmt.Sprint("closed after ", sent)) })
				w.Leave(s, nil, closed, "") // 421 to MAIL: nothing was offered
				return
			}
			time.Sleep(w.service)
			done = []Settled{{Handle: job.Items[0].Handle, State: spool.State{Status: spool.Delivered}}}
		}
	}
}

func TestLimitOfMessagesOnAConnectionIsLearned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.server, w.policy.MaxSessions = closing(7), 1 })
		for i := range 700 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(10 * time.Minute)
		closed, quit := 0, 0
		for _, what := range w.asked {
			switch what {
			case "closed after 7":
				closed++
			case "quit after 7":
				quit++
			}
		}
		if closed != 2 || quit < 95 {
			t.Errorf("closed by the server %d times, left in time %d times", closed, quit)
		}
		if n := w.Queued(); n != 0 {
			t.Errorf("%d left", n)
		}
	})
}

func TestAnnouncedLimitsAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			serve := w.server
			w.server = func(w *world, s *Session) { s.Announced(3, 2); serve(w, s) }
			w.policy.MaxSessions = 1
		})
		for i := range 30 {
			w.add(spool.ID(i+1), "s", "a.example", "a.example", "a.example", "a.example")
		}
		pass(10 * time.Minute)
		for _, j := range w.transactions() {
			if len(j.Items) > 2 {
				t.Errorf("%d recipients in a transaction", len(j.Items))
			}
		}
		if n := w.connects(); n != 20 {
			t.Errorf("%d connections for 60 transactions, 3 on each", n)
		}
	})
}

func TestSuspendedSiteSeesNoConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.o.Idle = time.Hour })
		for i := range 20_000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		for i := range 20 {
			w.add(spool.ID(i+100_001), "s", "b.example")
		}
		pass(30 * time.Second) // b's sessions stand ready, a's are at work
		for _, name := range []string{"a.example", "b.example"} {
			if !w.Clamp(name, elastic.Clamp{Sessions: 0, Until: time.Now().Add(time.Hour), Reason: "421 go away"}) {
				t.Errorf("%s is not known", name)
			}
		}
		pass(time.Second) // transactions in flight end
		if _, _, _, n := w.Counts(); n != 0 {
			t.Errorf("%d sessions at suspended sites", n)
		}
		for _, s := range w.Sites() {
			if s.Clamp.Reason != "421 go away" || s.Clamp.Until.IsZero() {
				t.Errorf("%s is listed with %+v", s.Name, s.Clamp)
			}
		}
		before := w.connects()
		w.add(200_001, "s", "b.example")
		pass(58 * time.Minute)
		if n := w.connects() - before; n != 0 {
			t.Errorf("%d connections during the suspension", n)
		}
		pass(5 * time.Minute)
		if _, _, _, n := w.Counts(); n == 0 {
			t.Error("no session after the suspension")
		}
		if why := w.changes("a.example"); len(why) < 2 {
			t.Errorf("history %v", why)
		}
	})
}

func TestSessionsNeverExceedTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.o.MaxSessions = 10 })
		for i := range 2000 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("d%d.example", i%50))
		}
		pass(30 * time.Minute)
		if n := len(w.delivered()); n != 2000 {
			t.Errorf("%d of 2000 delivered", n)
		}
		if w.most() > 10 {
			t.Errorf("%d sessions at once, limit 10", w.most())
		}
	})
}

func TestPaceIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxMessageRate = 10
			w.service = time.Millisecond
		})
		for i := range 2000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(time.Minute)
		if n := len(w.delivered()); n < 540 || n > 610 {
			t.Errorf("%d transactions in a minute at 10/s", n)
		}
	})
}

// Hosts of a receiver with a rate for each would else be driven at one host's rate.
func TestSessionsTakeTurnsUnderAPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sessions []*Session
		w := newWorld(t, func(w *world) {
			w.policy.MaxMessageRate = 10
			w.service = time.Millisecond
			w.server = func(w *world, s *Session) {
				w.set(func() { sessions = append(sessions, s) })
				w.serveSession(s)
			}
		})
		for i := range 100 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(5 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.Queue.mu.Lock()
		defer w.Queue.mu.Unlock()
		if len(sessions) < 2 {
			t.Fatalf("%d sessions", len(sessions))
		}
		for _, s := range sessions {
			if even := len(w.sent) / len(sessions); s.jobs < even-2 || s.jobs > even+2 {
				t.Errorf("%d of %d transactions on one of %d sessions", s.jobs, len(w.sent), len(sessions))
			}
		}
	})
}

func TestDestinationsOfOneSiteAllGetTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxSessions = 2
			w.way = func(domain string) (Route, bool) {
				way := w.to(domain)
				way.Site = "provider"
				return way, true
			}
		})
		for i := range 400 {
			w.add(spool.ID(i+1), "s", "big.example")
		}
		for i := range 10 {
			w.add(spool.ID(1001+i), "s", fmt.Sprintf("d%d.example", i))
		}
		pass(30 * time.Second)
		small := 0
		for _, id := range w.delivered() {
			if id > 1000 {
				small++
			}
		}
		if small != 10 {
			t.Errorf("%d of 10 small destinations served while a big one has mail", small)
		}
		if w.most() > 2 {
			t.Errorf("%d sessions at a site limited to 2", w.most())
		}
		pass(10 * time.Minute)
		if n := len(w.delivered()); n != 410 {
			t.Errorf("%d of 410 delivered", n)
		}
	})
}

func TestLoneMessageOpensOneConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			serve := w.server
			w.server = func(w *world, s *Session) { go serve(w, s) } // Step comes some time after Opened
		})
		for i := range 20 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("d%d.example", i))
			pass(time.Minute)
		}
		if n := w.connects(); n != 20 {
			t.Errorf("%d connections for 20 messages to as many destinations", n)
		}
	})
}

// Nothing else happens at the site meanwhile that would make the queue look at it.
func TestConnectsThatHangAreReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.server = func(w *world, s *Session) {
				hangs := false
				w.set(func() { hangs = w.launched < 2 })
				if hangs {
					w.set(func() { w.launched++ })
					w.lasts(s, 5*time.Minute) // agent/smtp's limit for a greeting
					w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Failed}}, "no greeting")
					return
				}
				w.serveSession(s)
			}
		})
		for i := range 20 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(10 * time.Second)
		if n := len(w.delivered()); n != 20 {
			t.Errorf("%d of 20 delivered while the first connects hang", n)
		}
		pass(5 * time.Minute)
	})
}

// A site that had no pace has saved nothing up when it gets one: the receiver that
// said "too fast" is full at that moment.
func TestPaceHoldsFromItsFirstMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.service, w.policy.MaxSessions = time.Millisecond, 2 })
		for i := range 4000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(time.Second)
		w.Clamp("a.example", elastic.Clamp{Sessions: -1, Pace: 100, Until: time.Now().Add(time.Hour)})
		before := len(w.delivered())
		if before == 4000 {
			t.Fatal("nothing left to be paced")
		}
		pass(100 * time.Millisecond)
		if n := len(w.delivered()) - before; n < 9 || n > 12 { // two were in flight
			t.Errorf("%d sent in 100 ms at 100 a second", n)
		}
	})
}
