package queue

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// word is what a moody receiver says to a message.
type word uint8

const (
	taken250 word = iota
	trouble451
	tooFast451
	greylisted451
)

// moody is a receiver that answers each message as says has it.
type moody struct {
	says func(id spool.ID, now time.Time) word

	mu    sync.Mutex
	tries map[spool.ID]int
	at    map[spool.ID]time.Time // when it was taken
}

// retries are the waits of the default configuration.
var retries = []time.Duration{5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}

func (m *moody) serve(w *world, s *Session) {
	time.Sleep(20 * time.Millisecond)
	w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: time.Now()}})
	var done []Settled
	var sig []elastic.Signal
	for {
		job, err := w.Step(context.Background(), s, done, sig)
		if err != nil {
			w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			return
		}
		began := time.Now()
		time.Sleep(50 * time.Millisecond)
		m.mu.Lock()
		says := m.says(job.ID, time.Now())
		tries := m.tries[job.ID]
		m.tries[job.ID]++
		if says == taken250 {
			m.at[job.ID] = time.Now()
		}
		m.mu.Unlock()
		x := elastic.Signal{Kind: elastic.Accepted, Began: began, Trouble: says == trouble451}
		if says == tooFast451 {
			x.Kind = elastic.RateRefused
		}
		done, sig = done[:0], append(sig[:0], x)
		for _, item := range job.Items {
			st := spool.State{Status: spool.Delivered}
			switch says {
			case trouble451, tooFast451:
				st = spool.State{Tries: uint16(tries + 1), Due: time.Now().Add(retries[min(tries, len(retries)-1)]), Reply: "451 4.3.0 trouble"}
			case greylisted451:
				st = spool.State{Tries: uint16(tries + 1), Due: time.Now().Add(greylistAge), Reply: "451 4.7.1 greylisted"}
			}
			done = append(done, Settled{Handle: item.Handle, State: st})
		}
	}
}

// taken is how many messages were, and the most tries that one took.
func (m *moody) taken() (n, tries int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.tries {
		tries += k
	}
	return len(m.at), tries
}

// run gives the receiver n messages of each stream and returns it, and the world.
func (m *moody) run(t *testing.T, n int, streams ...string) *world {
	m.tries, m.at = make(map[spool.ID]int), make(map[spool.ID]time.Time)
	w := newWorld(t, func(w *world) {
		w.server = m.serve
		w.way = func(domain string) (Route, bool) { return w.toPlaces(domain, domain, spot(1, 0)), true }
	})
	for i := range n {
		for k, s := range streams {
			w.add(spool.ID(1+i+k*100_000), s, "far.test")
		}
	}
	return w
}

// Trouble of 40 minutes costs a try for each probe, not one for each message and wait, and
// all is sent when it is over.
func TestTroubleIsProbedAndThenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		m := &moody{says: func(_ spool.ID, now time.Time) word {
			if now.Sub(began) < 40*time.Minute {
				return trouble451
			}
			return taken250
		}}
		m.run(t, 1000, "a", "b")
		pass(39 * time.Minute)
		if n, tries := m.taken(); n != 0 || tries > 60 {
			t.Errorf("%d taken, %d tries", n, tries)
		}
		pass(4 * time.Minute) // of these up to two until the next probe
		if n, _ := m.taken(); n < 1995 {
			t.Errorf("%d of 2000 taken 3 minutes after the end", n)
		}
		pass(4 * time.Minute) // what a probe took again late in the trouble may be greylisted
		if n, _ := m.taken(); n != 2000 {
			t.Errorf("%d of 2000 taken 7 minutes after the end", n)
		}
	})
}

// Greylisting that does not say so, and begins anew with each early try, is found out.
func TestWordlessGreylistingIsFoundOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		last := make(map[spool.ID]time.Time)
		m := &moody{says: func(id spool.ID, now time.Time) word {
			at, known := last[id]
			if last[id] = now; known && now.Sub(at) >= 5*time.Minute {
				return taken250
			}
			return trouble451
		}}
		m.run(t, 500, "a")
		pass(35 * time.Minute)
		if n, tries := m.taken(); n != 500 || tries > 3*500 {
			t.Errorf("%d of 500 taken after %d tries", n, tries)
		}
	})
}

// A stream that alone is refused suspends nothing.
func TestOneStreamsTroubleSuspendsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &moody{says: func(id spool.ID, _ time.Time) word {
			if id > 100_000 {
				return trouble451
			}
			return taken250
		}}
		w := m.run(t, 500, "good", "bad")
		pass(time.Minute)
		if n, _ := m.taken(); n != 500 {
			t.Errorf("%d of 500 taken in a minute", n)
		}
		for _, c := range w.changes("far.test") {
			if c.To == 0 {
				t.Errorf("%+v", c)
			}
		}
	})
}

// The pace that a stream has lowered alone is forgotten when another one is taken.
func TestPaceIsNotThatOfAStreamThatIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &moody{says: func(id spool.ID, _ time.Time) word {
			if id > 100_000 {
				return tooFast451
			}
			return taken250
		}}
		m.run(t, 1000, "good", "bad")
		pass(2 * time.Minute)
		if n, _ := m.taken(); n != 1000 {
			t.Errorf("%d of 1000 taken in two minutes", n)
		}
	})
}

// A true limit on the rate slows the site, whichever streams are refused.
func TestRateOfAllStreamsIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens, filled, refused := 10.0, time.Now(), 0
		m := &moody{says: func(_ spool.ID, now time.Time) word {
			tokens, filled = min(10, tokens+10*now.Sub(filled).Seconds()), now
			if tokens < 1 {
				refused++
				return tooFast451
			}
			tokens--
			return taken250
		}}
		m.run(t, 3000, "a", "b", "c")
		pass(5 * time.Minute)
		if n, _ := m.taken(); n < 2500 || refused > n/20 {
			t.Errorf("%d taken of 3000 possible, %d refused", n, refused)
		}
	})
}

// A session keeps waiting for a slow receiver unless others wait for its place.
func TestPatienceEndsWhenOthersWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var stalled *Session
		w := newWorld(t, func(w *world) {
			w.o.MaxSessions = 2
			w.server = func(w *world, s *Session) {
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: time.Now()}})
				if _, err := w.Step(context.Background(), s, nil, nil); err == nil {
					w.set(func() { stalled = s })
					<-release
				}
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			}
		})
		w.add(1, "a", "one.test")
		pass(time.Second)
		if !w.MayKeepWaiting(stalled) {
			t.Error("nobody waits, and the first is given up")
		}
		for i := range 5 {
			w.add(spool.ID(2+i), "a", string(rune('a'+i))+".test")
		}
		pass(time.Second)
		if w.MayKeepWaiting(stalled) {
			t.Error("others wait, and it is not given up")
		}
		go w.Close(context.Background())
		pass(time.Second)
		close(release)
		pass(time.Second)
	})
}

// A stream that comes when another one alone is refused does not wait for that one's probes.
func TestNewStreamEndsTheSuspensionOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &moody{says: func(id spool.ID, _ time.Time) word {
			if id < 100_000 {
				return trouble451
			}
			return taken250
		}}
		w := m.run(t, 50, "bad")
		pass(30 * time.Second)
		for i := range 500 {
			w.add(spool.ID(100_000+i), "good", "far.test")
		}
		pass(20 * time.Second)
		if n, _ := m.taken(); n != 500 {
			t.Errorf("%d of 500 taken in twenty seconds", n)
		}
	})
}

// A suspension that a new stream ends is an end of the trouble as well as that by a probe: what
// it has deferred is brought forward.
func TestNewStreamThatEndsASuspensionBringsForward(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		over := false
		m := &moody{says: func(spool.ID, time.Time) word {
			if over {
				return taken250
			}
			return trouble451
		}}
		w := m.run(t, 50, "a")
		pass(30 * time.Second)
		m.mu.Lock()
		over = true
		m.mu.Unlock()
		for i := range 500 {
			w.add(spool.ID(100_000+i), "b", "far.test")
		}
		pass(20 * time.Second)
		if n, _ := m.taken(); n != 550 {
			t.Errorf("%d of 550 taken in twenty seconds", n)
		}
	})
}
