package queue

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// silent makes connects to sites whose names begin with "dead" hang for a time, and
// those to "tarpit" ones come up after another; all others are well.
func (w *world) silent(dead, tarpit time.Duration) {
	w.server = func(w *world, s *Session) {
		wait := time.Duration(0)
		switch name := s.Route().Key; {
		case strings.HasPrefix(name, "dead"):
			wait = dead
		case strings.HasPrefix(name, "tarpit"):
			wait = tarpit
		}
		w.set(func() { w.launched++; w.now++; w.top = max(w.top, w.now) })
		began := time.Now()
		up := w.lasts(s, wait) && wait != dead
		w.set(func() { w.launched--; w.now-- })
		if !up {
			w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Failed, Began: began}}, "no answer")
			return
		}
		w.serveSession(s)
	}
}

// lasts lets a connect take its time, unless the queue has no more patience.
func (w *world) lasts(s *Session, d time.Duration) bool {
	wait := HangAfter
	for d > wait {
		time.Sleep(wait)
		d -= wait
		if wait = w.MayKeepConnecting(s); wait == 0 {
			return false
		}
	}
	time.Sleep(d)
	return true
}

// to each of n sites goes one message.
func (w *world) one(first spool.ID, kind string, n int) {
	for i := range n {
		w.add(first+spool.ID(i), "s", fmt.Sprintf("%s%d.example", kind, i))
	}
}

// arrived counts what was sent to sites of a kind.
func (w *world) arrivedAt(kind string) (n int) {
	for _, j := range w.transactions() {
		if strings.HasPrefix(j.Domain, kind) {
			n++
		}
	}
	return n
}

// However many sites hang, a new one has its first connect when those before it
// have had two seconds each, and no more sessions are used than there may be.
func TestSitesThatHangDoNotKeepNewOnesWaiting(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sessions, dead int
		within, later  time.Duration
	}{
		{20, 40, 12 * time.Second, 20 * time.Second},
		{200, 5000, 140 * time.Second, 20 * time.Second},
		{1, 5, time.Minute, 2 * time.Minute}, // a dead one has the only place for a minute at times
	} {
		t.Run(fmt.Sprintf("%d sessions, %d dead sites", tt.sessions, tt.dead), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(w *world) {
					w.o.MaxSessions = tt.sessions
					w.silent(5*time.Minute, 0)
				})
				w.one(1, "dead", tt.dead)
				pass(time.Millisecond)
				w.one(1_000_001, "new", 20)
				pass(tt.within)
				if n := w.arrivedAt("new"); n != 20 {
					t.Errorf("%d of 20 new sites got their mail in %v", n, tt.within)
				}
				for i := range 20 { // while the dead ones are tried again and again
					w.one(spool.ID(2_000_001+1000*i), fmt.Sprintf("later%d-", i), 20)
					pass(tt.later)
					if n := w.arrivedAt(fmt.Sprintf("later%d-", i)); n != 20 {
						t.Errorf("%d of 20 sites that came later got their mail in %v", n, tt.later)
					}
				}
				if w.most() > tt.sessions {
					t.Errorf("%d sessions at once", w.most())
				}
			})
		})
	}
}

// A receiver that takes its time to greet is reached, if not at the first try.
func TestSlowGreetingsAreWaitedForAmongManyDeadSites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.o.MaxSessions = 80
			w.silent(30*time.Second, 25*time.Second)
		})
		w.one(1, "dead", 4000)
		w.one(1_000_001, "tarpit", 20)
		pass(4 * time.Hour) // ten at a time, half a minute each
		if n := w.arrivedAt("tarpit"); n != 20 {
			t.Errorf("%d of 20 slow sites got their mail", n)
		}
	})
}

// With few in trouble a connect is given all the time that it takes.
func TestConnectIsNotAbandonedForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.o.MaxSessions = 20
			w.silent(5*time.Minute, 4*time.Minute)
		})
		w.one(1, "tarpit", 2)
		w.one(1_000_001, "new", 20)
		pass(4*time.Minute + time.Second)
		if n := w.arrivedAt("tarpit"); n != 2 {
			t.Errorf("%d of 2 slow sites got their mail", n)
		}
	})
}

// Sites that were well and hang of a sudden are no better than new ones that do.
func TestSitesThatBeginToHangDoNotKeepOthersWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.o.MaxSessions = 20 })
		w.one(1, "dead", 40)
		pass(time.Minute)
		if n := w.arrivedAt("dead"); n != 40 {
			t.Fatalf("%d of 40 got mail while they were well", n)
		}
		w.set(func() { w.silent(5*time.Minute, 0) })
		w.one(101, "dead", 40)
		pass(time.Millisecond)
		w.one(201, "new", 20)
		pass(20 * time.Second)
		if n := w.arrivedAt("new"); n != 20 {
			t.Errorf("%d of 20 new sites got their mail", n)
		}
	})
}

// Connections that come and go meanwhile hide no connect that hangs at a site: another
// is made in its stead.
func TestConnectThatHangsIsFoundOutWhileOthersComeAndGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxMessagesPerConnection = 5
			w.server = func(w *world, s *Session) {
				hangs := false
				w.set(func() { hangs = w.launched == 0; w.launched++ })
				if hangs {
					w.lasts(s, 5*time.Minute)
					w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Failed}}, "no greeting")
					return
				}
				w.serveSession(s)
			}
		})
		for i := range 4000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(30 * time.Second)
		if w.most() < 10 {
			t.Errorf("only %d sessions at once", w.most())
		}
		pass(5 * time.Minute)
	})
}
