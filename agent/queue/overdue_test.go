package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// overdue bounces what is overdue, as the agent does once a minute, and returns it.
func (w *world) overdue() (list []spool.ID) {
	w.Overdue(func(string) *config.Queue { return &w.policy }, func(j Job, _ *config.Queue, _ string) {
		list = append(list, j.ID)
		w.Settle([]Settled{{Handle: j.Items[0].Handle, State: spool.State{Status: spool.Bounced}}})
	})
	slices.Sort(list)
	return list
}

// old adds a message that came ten days ago, past the age of five.
func (w *world) old(id spool.ID, stream, domain string) {
	e := &spool.Envelope{Stream: stream, Size: 8000, Arrived: time.Now().Add(-240 * time.Hour), Recipients: make([]spool.Recipient, 1)}
	w.Add(id, e, []string{domain}, nil, false)
}

// minutes lets time pass with the agent's look at what is overdue, and returns what was.
func (w *world) minutes(n int) (list []spool.ID) {
	for range n {
		pass(time.Minute)
		list = append(list, w.overdue()...)
	}
	return list
}

// What is too old when it comes, as after a week down or in a pause, is not ended by
// what is our own affair: it is sent in the end.
func TestOwnAffairsEndNoMail(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(w *world){
		"its domain is being looked up": func(w *world) {
			w.way = func(d string) (Route, bool) { time.Sleep(5 * time.Minute); return w.to(d), true }
			w.old(1, "s", "a.example")
			w.none(w.minutes(10))
		},
		"its connect is under way": func(w *world) {
			w.service = 5 * time.Minute
			w.old(1, "s", "a.example")
			w.none(w.minutes(30))
		},
		"it waits for max_sessions": func(w *world) {
			w.o.MaxSessions, w.service = 1, 10*time.Minute
			w.old(2, "s", "b.example")
			w.old(3, "s", "b.example")
			pass(time.Second)
			w.old(1, "s", "a.example")
			w.none(w.minutes(120))
		},
		"it waits for its turn": func(w *world) {
			w.policy.MaxMessageRate = 1. / 600
			w.old(2, "s", "a.example")
			w.old(1, "s", "a.example")
			w.none(w.minutes(60))
		},
		"its connects were given no time": func(w *world) {
			serve := w.server
			hangs := true
			w.server = func(w *world, s *Session) {
				w.mu.Lock()
				h := hangs
				w.mu.Unlock()
				if !h {
					serve(w, s)
					return
				}
				s.Untried()
				w.Leave(s, nil, nil, "too many open files")
			}
			w.old(1, "s", "a.example")
			w.none(w.minutes(60))
			w.set(func() { hangs = false })
			w.none(w.minutes(30))
		},
		"its site is suspended": func(w *world) {
			w.add(2, "s", "a.example")
			pass(time.Minute)
			w.Clamp("a.example", elastic.Clamp{Until: time.Now().Add(time.Hour), Reason: "421 go away"})
			w.old(1, "s", "a.example")
			w.none(w.minutes(90))
		},
		"its site is suspended again, having taken mail": func(w *world) {
			w.add(2, "s", "a.example")
			pass(time.Minute)
			w.Clamp("a.example", elastic.Clamp{Until: time.Now().Add(time.Hour), Reason: "421 go away"})
			pass(2 * time.Hour)
			w.add(3, "s", "a.example")
			pass(time.Minute)
			w.old(1, "s", "a.example")
			w.Clamp("a.example", elastic.Clamp{Until: time.Now().Add(time.Hour), Reason: "421 go away"})
			w.none(w.minutes(90))
		},
		"its stream was paused while its host was down": func(w *world) {
			w.refuse = true
			w.old(2, "t", "a.example")
			w.SetPauses([]Pause{{Stream: "s"}})
			w.old(1, "s", "a.example")
			w.minutes(30)
			w.set(func() { w.refuse = false })
			w.SetPauses(nil)
			w.none(w.minutes(30))
		},
		"its stream was paused while its domain had no way": func(w *world) {
			gone := true
			w.way = func(d string) (Route, bool) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if gone {
					w.Unrouted(d, "SERVFAIL", time.Now().Add(2*time.Minute))
					return Route{}, false
				}
				return w.to(d), true
			}
			w.SetPauses([]Pause{{Stream: "s"}})
			w.old(1, "s", "a.example")
			w.none(w.minutes(30))
			w.set(func() { gone = false })
			w.SetPauses(nil)
			w.none(w.minutes(30))
		},
		"it was on hold while its host was down": func(w *world) {
			w.refuse = true
			w.old(2, "t", "a.example")
			e := &spool.Envelope{Stream: "t", Arrived: time.Now().Add(-240 * time.Hour), Recipients: make([]spool.Recipient, 1)}
			w.Add(1, e, []string{"a.example"}, []spool.State{{Held: true}}, false)
			w.minutes(30)
			w.set(func() { w.refuse = false })
			for _, job := range w.take(func(e Entry) bool { return e.OnHold }) {
				w.Settle([]Settled{{Handle: job.Items[0].Handle, How: Released}})
			}
			w.none(w.minutes(30))
		},
		"the host MTA is away": func(w *world) {
			w.way = func(d string) (Route, bool) { way := w.to(d); way.Handback = true; return way, true }
			w.refuse = true
			w.old(1, "s", "a.example")
			w.none(w.minutes(14 * 24 * 60))
			w.set(func() { w.refuse = false })
			w.none(w.minutes(30))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				run(w)
				if !slices.Contains(w.delivered(), 1) {
					t.Errorf("sent %v", w.delivered())
				}
			})
		})
	}
}

func (w *world) none(list []spool.ID) {
	w.t.Helper()
	if len(list) > 0 {
		w.t.Errorf("%v ended without a try", list)
	}
}

// What shows that a destination takes nothing ends the mail that was old enough then,
// though no session ever comes up.
func TestMailEndsByAFailureAfterItsAge(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(w *world){
		"connects fail": func(w *world) { w.refuse = true },
		"connects hang": func(w *world) {
			w.server = func(w *world, s *Session) {
				w.lasts(s, 30*time.Second)
				w.Leave(s, nil, nil, "timed out")
			}
		},
		"no way": func(w *world) {
			w.way = func(d string) (Route, bool) {
				w.Unrouted(d, "SERVFAIL", time.Now().Add(2*time.Minute))
				return Route{}, false
			}
		},
		"the site wants no connection, whenever it is asked": func(w *world) {
			w.server = func(w *world, s *Session) {
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up}})
				job, err := w.Step(w.t.Context(), s, nil, nil)
				if err != nil {
					w.Leave(s, nil, nil, "")
					return
				}
				w.Clamp("a.example", elastic.Clamp{Until: time.Now().Add(4 * time.Hour), Reason: "550 go away"})
				done := Settled{Handle: job.Items[0].Handle, State: spool.State{Due: time.Now().Add(time.Hour)}}
				if time.Since(job.Born) >= w.policy.Expire {
					done.State.Status = spool.Bounced // by its transaction
				}
				w.Leave(s, []Settled{done}, []elastic.Signal{{Kind: elastic.Lost}}, "")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, run)
				for id := range spool.ID(1000) {
					w.old(id+1, "s", "a.example")
				}
				w.add(1001, "s", "a.example") // has its days
				got := w.minutes(9 * 60)
				if len(got) < 900 || slices.Contains(got, 1001) || w.Queued() != 1 {
					t.Errorf("%d of 1000 ended, %d queued", len(got), w.Queued())
				}
				w.minutes(6 * 24 * 60)
				if n := w.Queued(); n != 0 {
					t.Errorf("%d never end", n)
				}
			})
		})
	}
}

// TestNoMailEndsBeforeAFailureThatCameAfterItsAge runs destinations that come and go
// under pauses and budgets, and compares with what was seen of them.
func TestNoMailEndsBeforeAFailureThatCameAfterItsAge(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 3))
				var mu sync.Mutex
				down := map[string]bool{}
				failed := map[string]time.Time{} // of a domain: the last failure
				w := newWorld(t, func(w *world) {
					w.policy.Expire = time.Hour
					w.o.MaxSessions = 1 + rng.IntN(4)
					w.service = time.Duration(1+rng.IntN(40)) * time.Second
					w.server = func(w *world, s *Session) {
						domain := s.Route().Key
						time.Sleep(w.service)
						mu.Lock()
						d := down[domain]
						if d {
							failed[domain] = time.Now()
						}
						mu.Unlock()
						if d {
							w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Failed}}, "connection refused")
							return
						}
						w.serveSession(s)
					}
				})
				born := map[spool.ID]time.Time{}
				free := map[string]time.Time{} // of a stream: when its pause ended
				id, ended := spool.ID(0), 0
				for range 600 {
					for range rng.IntN(3) {
						id++
						born[id] = time.Now().Add(-time.Duration(rng.IntN(120)) * time.Minute)
						no := rng.IntN(6)
						e := &spool.Envelope{Stream: fmt.Sprint(no % 2), Size: 8000, Arrived: born[id], Recipients: make([]spool.Recipient, 1)}
						w.Add(id, e, []string{fmt.Sprint("d", no, ".example")}, nil, false)
					}
					if rng.IntN(10) == 0 {
						mu.Lock()
						d := fmt.Sprint("d", rng.IntN(6), ".example")
						down[d] = !down[d]
						mu.Unlock()
					}
					if rng.IntN(20) == 0 {
						w.SetPauses([]Pause{{Stream: "1"}})
					} else if rng.IntN(20) == 0 {
						w.SetPauses(nil)
						free["1"] = time.Now()
					}
					pass(time.Minute)
					w.Overdue(func(string) *config.Queue { return &w.policy }, func(j Job, _ *config.Queue, _ string) {
						ended++
						mu.Lock()
						f := failed[j.Domain]
						mu.Unlock()
						if f.Before(born[j.ID].Add(time.Hour).Truncate(time.Second)) || f.Before(free[j.Domain[1:2]]) && j.Domain[1]%2 == 1 {
							t.Errorf("%v of %s, born %v, ended by a failure at %v", j.ID, j.Domain, born[j.ID], f)
						}
						w.Settle([]Settled{{Handle: j.Items[0].Handle, State: spool.State{Status: spool.Bounced}}})
					})
				}
				if ended == 0 {
					t.Error("nothing ended")
				}
				w.SetPauses(nil)
				mu.Lock()
				for d := range down {
					down[d] = true
				}
				for no := range 6 {
					down[fmt.Sprint("d", no, ".example")] = true
				}
				mu.Unlock()
				w.minutes(24 * 60)
				if n := w.Queued(); n != 0 {
					t.Errorf("%d never end at hosts that are down", n)
				}
			})
		})
	}
}

// TestLooksForOverdueMailAreShort has a long lane whose old mail stands behind young mail. A
// turn under the mutex looks at so many places and no more, and none is looked at twice.
func TestLooksForOverdueMailAreShort(t *testing.T) {
	t.Parallel()
	const n = 20_000
	now := time.Now()
	q := New(Options{Resolve: func(string) {}, Launch: func(*Session) {}, MaxSessions: 1})
	add := func(id, age int) {
		e := &spool.Envelope{Stream: "s", Arrived: now.Add(-time.Duration(age) * time.Hour), Recipients: make([]spool.Recipient, 1)}
		q.Add(spool.ID(id), e, []string{"gone.example"}, nil, false)
	}
	for i := range n {
		add(1+i, 1)
	}
	for i := range n {
		add(1+n+i, 200)
	}
	q.Unrouted("gone.example", "no such domain", now.Add(time.Hour))
	l := q.domains["gone.example"].lanes[0]
	q.domains["gone.example"].failed = seconds(now.Add(time.Minute))
	policy := &config.Queue{Expire: 100 * time.Hour}
	turns, old := 0, 0
	for more, begun := true, false; more; begun = true {
		var jobs []Job
		jobs, _, _, more = q.overdue(l, policy, begun)
		if turns++; turns <= n/batch && (len(jobs) > 0 || !more) {
			t.Fatalf("turn %d: %d jobs, more %t: it has gone by all the young mail", turns, len(jobs), more)
		}
		old += len(jobs)
		if len(jobs) > overdueAtOnce {
			t.Fatalf("%d at once", len(jobs))
		}
		if turns == 2 { // while others take mail from its head, and out of its middle
			q.Claim("gone.example", 50)
			q.Pause([]Entry{{Handle: Handle(l.cursor), ID: q.messages.at(q.recipients.at(l.cursor).message).id}})
		}
	}
	if most := n/batch + n/overdueAtOnce + 3; old != n || turns > most {
		t.Errorf("%d of %d found in %d turns, want at most %d", old, n, turns, most)
	}
}
