package queue

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// lender lends what a test says.
type lender struct {
	mu    sync.Mutex
	may   int
	rate  float64
	floor int
	asked int
}

func (l *lender) Sessions(_ string, limit int) int { return min(limit, l.now()) }
func (l *lender) Floor(int) int                    { return l.floor }
func (l *lender) FloorRate(limit float64) float64  { return limit / 10 }

func (l *lender) Rate(string, float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate
}

func (l *lender) Ask() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
}

func (l *lender) asks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (l *lender) now() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.may
}

// lend changes what is lent, and tells the queue of it.
func (l *lender) lend(w *world, may int) {
	l.mu.Lock()
	l.may = may
	l.mu.Unlock()
	w.Lent(false)
}

func borrower(t *testing.T, l *lender, change func(*world)) *world {
	return newWorld(t, func(w *world) {
		w.policy.MaxSessions = 10
		w.o.Lender = l
		w.o.Shared = func(r *Route) string {
			name, _, _ := strings.Cut(r.Site, ":")
			return "queue/general/" + name
		}
		if change != nil {
			change(w)
		}
	})
}

// sessions is how many sessions are open now.
func (w *world) sessionsNow() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func TestSessionsStayWithinWhatIsLent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{may: 3, floor: 2}
		w := borrower(t, l, nil)
		for i := range 20000 {
			w.add(spool.ID(i+1), "news", "a.test")
		}
		pass(10 * time.Second)
		if n := w.most(); n != 3 {
			t.Fatalf("%d sessions at once where 3 are lent", n)
		}
		if s := w.Sites()[0]; s.HeldBack.Reason != FleetLimit || s.HeldBack.How != "the fleet has lent 3 of 10, floor 2" || s.HeldBack.Reply != "" {
			t.Errorf("held back: %+v", s.HeldBack)
		}
		if l.asked == 0 {
			t.Error("nothing more was asked for")
		}
		if list, _ := w.Wanted(); !slices.Equal(list, []Want{{"queue/general/a.test", 10, 5, 3}}) { // four are to be had, and one to try
			t.Errorf("wanted: %v", list)
		}
		for range 10 { // as the controller doubles
			list, _ := w.Wanted()
			l.lend(w, list[0].Want)
			pass(10 * time.Second)
		}
		if n := w.sessionsNow(); n != 10 {
			t.Errorf("%d sessions where all of 10 are lent", n)
		}
		if list, _ := w.Wanted(); len(list) != 1 || list[0].Used != 10 {
			t.Errorf("%v, where 10 sessions are in a transaction", list)
		}
		asked := l.asks()
		l.lend(w, 1)
		pass(w.service) // a transaction
		if l.asks() == asked {
			t.Error("the store hears only at the next renewal that they have ended")
		}
		if n := w.sessionsNow(); n != 1 {
			t.Errorf("%d sessions a transaction after all but one were called in", n)
		}
		before := len(w.delivered())
		l.lend(w, 0)
		pass(10 * time.Second)
		if n := len(w.delivered()) - before; w.sessionsNow() != 0 || n > 1 {
			t.Errorf("%d sessions and %d transactions where nothing is lent", w.sessionsNow(), n)
		}
		if s := w.Sites()[0]; s.HeldBack.How != "the fleet has lent 0 of 10, floor 2" {
			t.Errorf("held back: %+v", s.HeldBack)
		}
		l.lend(w, 10)
		pass(time.Second)
		if n := w.sessionsNow(); n != 10 {
			t.Errorf("%d sessions, of the 10 that were taken before: the controller has learned from our own bound", n)
		}
		pass(time.Hour)
		if n := len(w.delivered()); n != 20000 {
			t.Errorf("%d of 20000 messages", n)
		}
		if list, _ := w.Wanted(); len(list) > 0 || len(w.borrowing) > 0 {
			t.Errorf("wanted without mail: %v", list)
		}
	})
}

// Where the receiver lets nobody in for long, nothing is wanted that could not be used: other nodes
// have it. It is wanted again when the door may be open.
func TestNothingIsWantedBeforeAShutDoor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shut := false
		l := &lender{may: 10}
		w := borrower(t, l, func(w *world) {
			w.policy.MaxMessagesPerConnection = 1
			serve := w.server
			w.server = func(w *world, s *Session) {
				w.mu.Lock()
				refuse := shut
				w.mu.Unlock()
				if !refuse {
					serve(w, s)
					return
				}
				began := time.Now()
				time.Sleep(w.service)
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Refused, Began: began, Text: "421 too many"}}, "421 too many")
			}
		})
		for i := range 20000 {
			w.add(spool.ID(i+1), "news", "a.test")
		}
		pass(10 * time.Second)
		l.lend(w, 1)
		pass(time.Second)
		if list, _ := w.Wanted(); len(list) != 1 || list[0].Want < 4 {
			t.Fatalf("wanted: %v", list)
		}
		w.set(func() { shut = true })
		waited := 0
		for range 300 {
			pass(time.Second)
			if wait := time.Until(w.opens()); wait > 6*time.Second {
				if list, _ := w.Wanted(); len(list) > 0 {
					t.Fatalf("wanted: %v, of which nothing could be used for %v", list, wait)
				}
				waited++
			}
		}
		if waited == 0 {
			t.Fatal("the controller never waited for long: the test shows nothing")
		}
		w.set(func() { shut = false })
		l.lend(w, 0)
		asked := l.asks()
		pass(20 * time.Minute)
		if list, _ := w.Wanted(); len(list) != 1 || l.asks() == asked {
			t.Errorf("wanted: %v when the door may be open", list)
		}
	})
}

// opens is when the one site's receiver is asked again.
func (w *world) opens() (at time.Time) {
	w.Queue.mu.Lock()
	defer w.Queue.mu.Unlock()
	for _, l := range w.loans {
		at = w.Queue.control(l.sites[0]).Snapshot(time.Now()).Opens
	}
	return at
}

func TestIdleSessionsBeyondWhatIsLentEndAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{may: 10, floor: 1}
		w := borrower(t, l, func(w *world) { w.o.Idle = time.Hour })
		for i := range 400 {
			w.add(spool.ID(i+1), "news", "a.test")
		}
		pass(time.Minute)
		n := w.sessionsNow()
		if n < 4 || len(w.delivered()) != 400 {
			t.Fatalf("%d sessions, %d messages", n, len(w.delivered()))
		}
		l.mu.Lock()
		l.may = 2 // the lease has ended, and nobody has told yet
		l.mu.Unlock()
		w.add(401, "news", "a.test")
		pass(w.service)
		if n := w.sessionsNow(); n > 2 || len(w.delivered()) != 401 {
			t.Errorf("%d sessions, %d messages", n, len(w.delivered()))
		}
		l.lend(w, 0)
		pass(0)
		if n := w.sessionsNow(); n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
}

// Sites of several sources, and destinations of one site, have what is lent together, and by turns.
func TestSitesOfOneLimitShareWhatIsLent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{may: 4, floor: 2}
		w := borrower(t, l, func(w *world) {
			w.way = func(domain string) (Route, bool) {
				r := w.to(domain)
				r.Site, r.Key = "a.test:192.0.2."+domain[:1], domain
				r.Receiver = "a.test"
				return r, true
			}
		})
		id := spool.ID(0)
		for range 500 {
			for _, domain := range []string{"1.test", "2.test", "1.other.test"} {
				id++
				w.add(id, "news", domain)
			}
		}
		pass(20 * time.Second)
		if n := w.most(); n > 4 {
			t.Errorf("%d sessions at once where 4 are lent", n)
		}
		got := map[string]int{}
		for _, j := range w.transactions() {
			got[j.Domain]++
		}
		for _, domain := range []string{"1.test", "2.test", "1.other.test"} {
			if got[domain] < 50 {
				t.Errorf("%s: %d of %v", domain, got[domain], got)
			}
		}
	})
}

func TestRateOfAStreamStaysWithinWhatIsLent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{may: 10, rate: 2}
		w := borrower(t, l, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: func(string) bool { return true }, Rate: 10, Shared: true}})
		for i := range 500 {
			w.add(spool.ID(i+1), "news", fmt.Sprintf("%d.test", i%5))
		}
		pass(20 * time.Second)
		if n := len(w.delivered()); n < 38 || n > 42 {
			t.Errorf("%d messages in 20 s at 2/s of 10/s", n)
		}
		if _, rates := w.Wanted(); !slices.Equal(rates, []RateWant{{"stream/news", 10, 10}}) {
			t.Errorf("wanted: %v", rates)
		}
		l.mu.Lock()
		l.rate = 0
		l.mu.Unlock()
		pass(5 * time.Second)
		before := len(w.delivered())
		pass(time.Minute)
		if n := len(w.delivered()) - before; n > 0 {
			t.Errorf("%d messages where nothing is lent", n)
		}
		l.mu.Lock()
		l.rate = 10
		l.mu.Unlock()
		w.Lent(false)
		pass(20 * time.Second)
		if n := len(w.delivered()) - before; n < 190 || n > 212 {
			t.Errorf("%d messages in 20 s at 10/s", n)
		}
	})
}

// Of a shared queue's rates a node has the part that it has of the sessions.
func TestRatesOfASharedQueueGoByItsSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lender{may: 5, floor: 3}
		w := borrower(t, l, func(w *world) { w.policy.MaxMessageRate = 10 })
		for i := range 2000 {
			w.add(spool.ID(i+1), "news", "a.test")
		}
		pass(10 * time.Second)
		for _, x := range []struct{ may, least, most int }{{5, 270, 310}, {10, 550, 610}, {1, 50, 75}} {
			l.lend(w, x.may)
			before := len(w.delivered())
			pass(time.Minute)
			if n := len(w.delivered()) - before; n < x.least || n > x.most {
				t.Errorf("%d messages in a minute with %d of 10 sessions and 10 messages a second", n, x.may)
			}
			if s := w.Sites()[0]; s.Target.Pace != float64(x.may) {
				t.Errorf("the page says %v messages a second with %d of 10 sessions", s.Target.Pace, x.may)
			}
		}
	})
}
