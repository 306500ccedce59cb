package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// ledger counts what became of each recipient.
type ledger struct {
	mu    sync.Mutex
	taken map[string]bool // in a job now
	final map[string]int
}

// moody is a server that does everything a server may do: it refuses connects,
// dies with a transaction unsettled, defers, takes, sends home.
func (l *ledger) moody(seed uint64) func(w *world, s *Session) {
	var no uint64
	return func(w *world, s *Session) {
		l.mu.Lock()
		no++
		rng := rand.New(rand.NewPCG(seed, no))
		l.mu.Unlock()
		began := time.Now()
		sig := func(k elastic.Kind) []elastic.Signal { return []elastic.Signal{{Kind: k, Began: began}} }
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		switch rng.IntN(12) {
		case 0:
			w.Leave(s, nil, sig(elastic.Failed), "timed out")
			return
		case 1:
			w.Leave(s, nil, sig(elastic.Refused), "421 too many")
			return
		}
		w.Opened(s, sig(elastic.Up))
		var done []Settled
		evidence := sig(elastic.Accepted)[:0]
		for {
			job, err := w.Step(context.Background(), s, done, evidence)
			if err != nil {
				w.Leave(s, nil, sig(elastic.Closed), "")
				return
			}
			l.take(w.t, job)
			began = time.Now()
			time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
			dies := rng.IntN(20) == 0
			done = done[:0]
			for _, it := range job.Items {
				x := Settled{Handle: it.Handle, State: spool.State{Reply: fmt.Sprint("reason ", rng.IntN(5))}}
				switch rng.IntN(8) {
				case 0:
					x.State.Due = time.Now().Add(time.Duration(rng.IntN(600)) * time.Second)
				case 1:
					x.How = Untried
				case 2:
					if job.Domain != w.o.Relay {
						x.How = ToHost
					}
				case 3:
					if dies {
						l.give(job, it)
						continue // not settled at all
					}
					fallthrough
				default:
					x.State.Status = spool.Delivered
				}
				l.settle(job, it, x)
				done = append(done, x)
			}
			if dies {
				w.Leave(s, done, sig(elastic.Lost), "")
				return
			}
			evidence = append(evidence[:0], sig(elastic.Accepted)...)
		}
	}
}

func key(j Job, it Item) string { return fmt.Sprint(j.ID, "/", it.Ordinal) }

func (l *ledger) take(t *testing.T, j Job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range j.Items {
		k := key(j, it)
		if l.taken[k] {
			t.Errorf("%s is in two transactions at once", k)
		}
		if l.final[k] > 0 {
			t.Errorf("%s comes again after it was done", k)
		}
		l.taken[k] = true
	}
}

func (l *ledger) give(j Job, it Item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.taken, key(j, it))
}

func (l *ledger) settle(j Job, it Item, s Settled) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.taken, key(j, it))
	if s.State.Status.Final() {
		l.final[key(j, it)]++
	}
}

// TestEveryRecipientEndsOnceWhateverHappens runs random traffic against moody
// servers, with domains that move, have no route for a while, and reloads.
func TestEveryRecipientEndsOnceWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { randomTraffic(t, seed) })
		})
	}
}

func randomTraffic(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	l := &ledger{taken: make(map[string]bool), final: make(map[string]int)}
	var mu sync.Mutex // of moves
	moves := 0
	w := newWorld(t, func(w *world) {
		w.o.MaxSessions = 3 + rng.IntN(30)
		w.policy.MaxSessions = 1 + rng.IntN(20)
		w.policy.MaxMessagesPerConnection = 1 + rng.IntN(20)
		w.policy.MaxRecipientsPerMessage = 1 + rng.IntN(5)
		if rng.IntN(3) == 0 {
			w.policy.MaxMessageRate = 20
		}
		w.server = l.moody(seed)
		w.way = func(domain string) (Route, bool) {
			mu.Lock()
			defer mu.Unlock()
			moves++
			if moves%7 == 0 {
				w.Unrouted(domain, "SERVFAIL", time.Now().Add(time.Minute))
				return Route{}, false
			}
			way := w.to(fmt.Sprint("hosts", (int(hash(domain))+moves/10)%5))
			way.Site = fmt.Sprint("site", hash(way.Key)%2)
			way.Expires = time.Now().Add(time.Minute)
			return way, true
		}
	})
	want := 0
	for id := range 300 {
		domains := make([]string, 1+rng.IntN(8))
		for i := range domains {
			domains[i] = fmt.Sprintf("d%d.example", rng.IntN(12))
		}
		want += len(domains)
		w.add(spool.ID(id+1), fmt.Sprint("stream", rng.IntN(4)), domains...)
		if rng.IntN(10) == 0 {
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
		}
		if rng.IntN(50) == 0 {
			w.Reload(w.o.MaxSessions)
		}
		if rng.IntN(20) == 0 {
			stream := fmt.Sprint("stream", rng.IntN(4))
			if err := w.SetPriority(stream, rng.IntN(5)); err != nil {
				t.Fatal(err)
			}
			if rng.IntN(2) == 0 {
				w.SetPauses([]Pause{{Stream: stream}, {Site: "site1", Domain: "d3.example"}})
			} else {
				w.SetPauses(nil)
			}
			w.SetLimits([]Limit{{Name: "general", Sessions: 1 + rng.IntN(30)}})
			w.Pause(w.entries(func(*Entry) bool { return rng.IntN(5) == 0 }))
			w.Resume(w.entries(func(*Entry) bool { return rng.IntN(3) == 0 }))
			w.Hasten(w.entries(func(*Entry) bool { return rng.IntN(10) == 0 }))
		}
		if rng.IntN(20) == 0 { // an admin cancels some, hands some back, changes his mind over others
			for _, job := range w.take(func(Entry) bool { return rng.IntN(3) == 0 }) {
				l.take(t, job)
				for _, it := range job.Items {
					x := Settled{Handle: it.Handle, State: spool.State{Status: spool.Cancelled}}
					switch rng.IntN(6) {
					case 4:
						x = Settled{Handle: it.Handle, How: Held}
					case 5:
						x = Settled{Handle: it.Handle, How: Released}
					case 0:
						x = Settled{Handle: it.Handle, How: Untried}
					case 1:
						x = Settled{Handle: it.Handle}
						if job.Domain != w.o.Relay {
							x.How = ToHost
						}
					}
					l.settle(job, it, x)
					w.Settle([]Settled{x})
				}
			}
		}
	}
	w.SetPauses(nil)
	w.Resume(w.entries(anyEntry))
	for _, job := range w.take(func(e Entry) bool { return e.OnHold }) {
		for _, it := range job.Items {
			w.Settle([]Settled{{Handle: it.Handle, How: Released}})
		}
	}
	pass(6 * time.Hour)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.final) != want {
		t.Errorf("%d of %d recipients ended; %d queued", len(l.final), want, w.Queued())
	}
	for k, n := range l.final {
		if n != 1 {
			t.Errorf("%s ended %d times", k, n)
		}
	}
	if n := w.Queued(); n != 0 || w.Held() != 0 {
		t.Errorf("%d still counted", n)
	}
	w.Queue.mu.Lock()
	defer w.Queue.mu.Unlock()
	if n := int(w.recipients.used) - len(w.recipients.spare); n != 0 {
		t.Errorf("%d recipient records are not free", n)
	}
	if n := int(w.messages.used) - len(w.messages.spare); n != 0 {
		t.Errorf("%d message records are not free", n)
	}
	if len(w.reasons.index) != 0 || len(w.streams.index) != 0 {
		t.Errorf("%d reasons and %d streams are held by nobody", len(w.reasons.index), len(w.streams.index))
	}
	for _, s := range w.sites {
		if s.waiting != 0 || s.opening < 0 || s.live < 0 || s.retiring < 0 {
			t.Errorf("site %s counts waiting %d, live %d, opening %d, retiring %d", s.key, s.waiting, s.live, s.opening, s.retiring)
		}
	}
}
