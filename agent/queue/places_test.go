package queue

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// receivers are addresses that take connections from a world's sessions.
type receivers struct {
	mu sync.Mutex
	at map[netip.AddrPort]*receiver
}

type receiver struct {
	limit    int           // connections; -1: refuses all
	silent   time.Duration // a connect takes so long and fails
	late     time.Duration // its greeting comes so late
	mute     bool          // answers none beyond the limit
	stalls   bool          // answers EHLO, and then closes
	busy     string        // answers EHLO, and with these words to the first message, or rateLimited to each
	partly   bool          // but the first recipient of each
	messages int           // and it ends the connection; 0: never
	each     bool          // the limit is that of each source
	holds    time.Duration // a connect that is refused has a place for so long

	from                      map[netip.Addr]int // up by source
	up, refused, taken, calls int
}

func spot(n, tier int) Place {
	return Place{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 25), Tier: tier}
}

// to is the route of a domain to addresses.
func (w *world) toPlaces(site, key string, places ...Place) Route {
	r := w.to(key)
	r.Site, r.Places = site, places
	return r
}

// connect is a session's connect to the address that the queue chose; r is nil when nothing
// came up, and the session has left then.
func (x *receivers) connect(w *world, s *Session) (r *receiver) {
	x.mu.Lock()
	r = x.at[s.Place().Addr]
	r.calls++
	up := r.up
	if r.each {
		up = r.from[s.Place().Source]
	}
	refuse := r.limit < 0 || r.limit > 0 && up >= r.limit
	silent := r.silent
	if refuse {
		if r.refused++; r.mute {
			silent = 30 * time.Second // as the agent's connects wait
		}
		if r.holds > 0 {
			r.count(s, 1)
			at := r
			time.AfterFunc(r.holds, func() { x.end(at, s) })
		}
	} else if silent == 0 {
		r.count(s, 1)
	}
	x.mu.Unlock()
	began := time.Now()
	leave := func(kind elastic.Kind, why string) {
		w.Leave(s, nil, []elastic.Signal{{Kind: kind, Began: began, Text: why}}, why)
	}
	if silent > 0 {
		w.lasts(s, silent)
		leave(elastic.Failed, "timed out")
		return nil
	}
	if !w.lasts(s, cmp.Or(r.late, 20*time.Millisecond)) {
		if !refuse {
			x.end(r, s)
		}
		leave(elastic.Failed, "others wait to be called")
		return nil
	}
	if refuse {
		leave(elastic.Refused, "421 too many")
		return nil
	}
	w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: began}})
	return r
}

// end gives back the place of a connection.
func (x *receivers) end(r *receiver, s *Session) {
	x.mu.Lock()
	r.count(s, -1)
	x.mu.Unlock()
}

func (r *receiver) count(s *Session, n int) {
	if r.from == nil {
		r.from = make(map[netip.Addr]int)
	}
	r.up += n
	r.from[s.Place().Source] += n
}

// steps is a session's life once it is up: take is asked what becomes of each transaction, and
// takes as long as that does.
func (x *receivers) steps(w *world, s *Session, r *receiver, take func(job Job) (spool.State, elastic.Signal)) {
	began := time.Now()
	var done []Settled
	var sig []elastic.Signal
	for n := 1; ; n++ {
		job, err := w.Step(context.Background(), s, done, sig)
		if err != nil {
			x.end(r, s)
			w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			return
		}
		x.mu.Lock()
		stalls, busy, messages := r.stalls, r.busy, r.messages
		if busy != "" {
			r.refused++
		}
		x.mu.Unlock()
		if stalls {
			x.end(r, s)
			w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Lost, Began: began, Text: "closed"}}, "closed")
			return
		}
		began = time.Now()
		if busy != "" {
			time.Sleep(20 * time.Millisecond)
		}
		if busy == rateLimited {
			done, sig = deferred(job, busy), []elastic.Signal{{Kind: elastic.RateRefused, Began: began, Text: busy}}
			if r.partly {
				done[0].State = spool.State{Status: spool.Delivered}
				x.mu.Lock()
				r.taken++
				x.mu.Unlock()
			}
			continue
		}
		if busy != "" {
			x.end(r, s)
			w.Leave(s, deferred(job, busy), []elastic.Signal{
				{Kind: elastic.Refused, Began: began, Text: busy, Trouble: busy != tooMany}, {Kind: elastic.Lost, Began: began},
			}, busy)
			return
		}
		state, said := take(job)
		said.Began = began
		done, sig = done[:0], append(sig[:0], said)
		for _, item := range job.Items {
			done = append(done, Settled{Handle: item.Handle, State: state})
		}
		if n == messages {
			x.end(r, s)
			w.Leave(s, done, append(sig, elastic.Signal{Kind: elastic.Closed, Began: began}), "")
			return
		}
	}
}

const (
	tooBusy = "421 4.3.0 too busy"
	// tooMany tells of connections, and so is no trouble of the receiver.
	tooMany = "421 4.7.0 Too many concurrent SMTP connections"
	// rateLimited leaves the session open.
	rateLimited = "451 4.7.1 rate limit exceeded"
)

// deferred are the outcomes of a job of which all is to be tried again.
func deferred(job Job, reply string) (done []Settled) {
	for _, item := range job.Items {
		tries := uint16(item.Tries + 1)
		due := time.Now().Add(retries[min(item.Tries, len(retries)-1)])
		done = append(done, Settled{Handle: item.Handle, State: spool.State{Tries: tries, Due: due, Reply: reply}})
	}
	return done
}

// serve is a session's life at the address that the queue chose.
func (x *receivers) serve(w *world, s *Session) {
	r := x.connect(w, s)
	if r == nil {
		return
	}
	x.steps(w, s, r, func(job Job) (spool.State, elastic.Signal) {
		time.Sleep(w.service)
		x.mu.Lock()
		r.taken++
		x.mu.Unlock()
		w.set(func() { w.sent = append(w.sent, job.ID) })
		return spool.State{Status: spool.Delivered}, elastic.Signal{Kind: elastic.Accepted}
	})
}

// at is what one address has met.
func (x *receivers) met(n int) receiver {
	x.mu.Lock()
	defer x.mu.Unlock()
	return *x.at[spot(n, 0).Addr]
}

func receiversAt(list ...receiver) *receivers {
	x := &receivers{at: make(map[netip.AddrPort]*receiver)}
	for i, r := range list {
		x.at[spot(i+1, 0).Addr] = &r
	}
	return x
}

func worldOf(t *testing.T, x *receivers, route func(w *world, domain string) Route, change func(*world)) *world {
	return newWorld(t, func(w *world) {
		w.server = x.serve
		w.way = func(domain string) (Route, bool) { return route(w, domain), true }
		if change != nil {
			change(w)
		}
	})
}

// A host that takes nobody is passed by for its equals, and never for a backup.
func TestRefusingHostIsPassedByForItsEqualsOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		tier    int
		sent    bool
		refused int // at most
	}{{"equal", 0, true, 12}, {"backup", 4, false, 12}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := receiversAt(receiver{limit: -1}, receiver{})
				w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0), spot(2, tt.tier)) }, nil)
				for i := range 2000 {
					w.add(spool.ID(i+1), "s", "a.example")
				}
				pass(10 * time.Minute)
				if x.met(1).refused > tt.refused {
					t.Errorf("called %d times", x.met(1).refused)
				}
				if n := x.met(2).taken; tt.sent && n != 2000 || !tt.sent && n != 0 {
					t.Errorf("%d taken by the other", n)
				}
			})
		})
	}
}

// The next address is called at once where one gives no answer, or takes no mail after its
// EHLO; and not the whole list again and again.
func TestNextAddressIsCalledAtOnce(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]receiver{"silent": {silent: 30 * time.Second}, "stalls": {stalls: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := receiversAt(bad, receiver{})
				w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0), spot(2, 4)) }, nil)
				for i := range 50 {
					w.add(spool.ID(i+1), "s", "a.example")
				}
				pass(5 * time.Second)
				if n := x.met(2).taken; n != 50 {
					t.Errorf("%d of 50 taken by the backup", n)
				}
				pass(time.Hour)
				if n := x.met(1).calls; n > 4 {
					t.Errorf("the first was called %d times for 50 messages", n)
				}
			})
		})
	}
}

// Sites that share an address take turns at its slots, whoever came first.
func TestSitesAtOneAddressTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{limit: 10})
		w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0)) }, func(w *world) { w.o.MaxSessions = 200 })
		for i := range 40_000 {
			w.add(spool.ID(i+1), "s", "big.example")
		}
		pass(time.Minute)
		for i := range 20 {
			for j := range 10 {
				w.add(spool.ID(100_000+20*j+i), "s", fmt.Sprintf("d%d.example", i))
			}
		}
		pass(time.Minute)
		small := 0
		for _, id := range w.delivered() {
			if id >= 100_000 {
				small++
			}
		}
		if small != 200 {
			t.Errorf("%d of 200 messages of 20 small sites were taken in a minute", small)
		}
		if r := x.met(1); r.refused*20 > r.taken {
			t.Errorf("%d refusals, %d taken", r.refused, r.taken)
		}
	})
}

// joined is the world of a provider at the first of the receivers, which j2.example, j3.example and so
// on have joined by the names of their hosts, each with the receiver of its number.
func joined(t *testing.T, x *receivers) *world {
	return worldOf(t, x, func(w *world, d string) Route {
		n := 1
		fmt.Sscanf(d, "j%d", &n)
		return w.toPlaces("provider", d, spot(n, 0))
	}, func(w *world) { w.o.MaxSessions, w.service = 200, 500*time.Millisecond })
}

// Who joins a provider by the names of his hosts takes next to nothing from it while he
// takes no mail.
func TestJoinersThatTakeNoMailCostAProviderLittle(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]receiver{"silent": {silent: 5 * time.Minute}, "refusing": {limit: -1}, "stalling": {stalls: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := receiversAt(append([]receiver{{}}, make([]receiver, 199)...)...)
				for i := range 199 {
					*x.at[spot(i+2, 0).Addr] = bad
				}
				w := joined(t, x)
				for i := range 40_000 {
					w.add(spool.ID(i+1), "s", "well.example")
				}
				pass(time.Minute)
				before := x.met(1).taken
				pass(time.Minute)
				alone := x.met(1).taken - before
				for i := range 199 {
					w.add(spool.ID(100_000+i), "s", fmt.Sprintf("j%d.example", i+2))
				}
				before = x.met(1).taken
				pass(5 * time.Minute)
				if n := (x.met(1).taken - before) / 5; n < alone*9/10 {
					t.Errorf("%d a minute beside the joiners, %d without", n, alone)
				}
			})
		})
	}
}

// Where more sites than slots share an address, all have their turn, at the full rate of the
// slots: those too that were refused there before, and hear of no end of a session of theirs.
func TestMoreSitesThanSlotsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{limit: 3})
		w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0)) }, func(w *world) { w.service = 5 * time.Second })
		for i := range 400 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("d%d.example", i%8))
		}
		pass(5 * time.Minute)
		for _, s := range w.Sites() {
			if s.Waiting < 8 || s.Waiting > 42 {
				t.Errorf("of 50 messages %d wait at %s after half of the time", s.Waiting, s.Name)
			}
		}
		pass(10 * time.Minute)
		if n := len(w.delivered()); n != 400 {
			t.Errorf("%d of 400 taken", n)
		}
	})
}

// A provider that has just been heard of works at once, among whoever joined it by the names
// of his hosts and does not answer.
func TestProviderIsFoundAmongSilentJoiners(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 10} { // of the provider; max_sessions is 20
		synctest.Test(t, func(t *testing.T) {
			x := receiversAt(append([]receiver{{limit: limit, messages: 100}}, make([]receiver, 199)...)...)
			w := joined(t, x)
			for i := range 199 {
				x.at[spot(i+2, 0).Addr].silent = 5 * time.Minute
				w.add(spool.ID(100_000+i), "s", fmt.Sprintf("j%d.example", i+2))
			}
			for i := range 10_000 {
				w.add(spool.ID(i+1), "s", "well.example")
			}
			pass(20 * time.Second)
			most := 2 * 60 * cmp.Or(limit, 20)
			for _, least := range []int{8, 8, 9} { // of 10; those that were called first hang for minutes
				before := x.met(1).taken
				pass(time.Minute)
				if n := x.met(1).taken - before; n < most*least/10 {
					t.Errorf("limit %d: %d of %d possible taken in a minute", limit, n, most)
				}
			}
			w.empty()
		})
	}
}

// A provider whose mail had ended is found again as well, among joiners that have kept its site
// busy meanwhile.
func TestProviderIsFoundAgainAmongJoiners(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		each int      // messages of a joiner
		bad  receiver // every second one; the others are silent for minutes
	}{
		"silent":              {2, receiver{silent: 5 * time.Minute}},
		"silent, a backlog":   {500, receiver{silent: 5 * time.Minute}},
		"no host, a backlog":  {500, receiver{silent: 10 * time.Millisecond}},
		"no host":             {2, receiver{silent: 10 * time.Millisecond}},
		"refusing":            {2, receiver{limit: -1}},
		"refusing, a backlog": {500, receiver{limit: -1}},
		"stalling, a backlog": {500, receiver{stalls: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := receiversAt(append([]receiver{{messages: 100}}, make([]receiver, 199)...)...)
				w := joined(t, x)
				for i := range 199 {
					r := x.at[spot(i+2, 0).Addr]
					if r.silent = 5 * time.Minute; i%2 == 0 {
						*r = tt.bad
					}
				}
				for i := range 1000 {
					w.add(spool.ID(i+1), "s", "well.example")
				}
				pass(20 * time.Second)
				for i := range 199 * tt.each {
					w.add(spool.ID(100_000+i), "s", fmt.Sprintf("j%d.example", i%199+2))
				}
				pass(2 * time.Minute)
				before := x.met(1).taken
				if before != 1000 {
					t.Fatalf("%d of 1000 taken beside the joiners", before)
				}
				for i := range 400 {
					w.add(spool.ID(10_000+i), "s", "well.example")
				}
				pass(30 * time.Second) // ten of it at the full rate
				if n := x.met(1).taken - before; n != 400 {
					t.Errorf("%d of 400 taken in half a minute", n)
				}
			})
		})
	}
}

// Hosts that do not answer those beyond their limit are used to that limit, and few connects
// wait there in vain. The median of nine courses is judged: where the last session at a host ends as
// one more waits there, the host may be out for minutes.
func TestSilenceBesideSessionsThatAreUpIsARefusal(t *testing.T) {
	t.Parallel()
	var taken, most []int
	for range 9 {
		synctest.Test(t, func(t *testing.T) {
			x := receiversAt(receiver{limit: 4, messages: 10, mute: true}, receiver{limit: 4, messages: 10, mute: true})
			w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0), spot(2, 0)) },
				func(w *world) { w.o.MaxSessions, w.policy.MaxSessions, w.service = 200, 200, 500*time.Millisecond })
			for i := range 6000 {
				w.add(spool.ID(i+1), "s", "a.example")
			}
			pass(30 * time.Second)
			before, held := x.met(1).taken+x.met(2).taken, 0
			for range 4 * 60 {
				pass(time.Second)
				site := w.Sites()[0]
				held = max(held, site.Sessions+site.Opening)
			}
			taken, most = append(taken, x.met(1).taken+x.met(2).taken-before), append(most, held)
			w.empty()
		})
	}
	slices.Sort(taken)
	slices.Sort(most)
	if taken[4] < 4*60*16*9/10 {
		t.Errorf("%d of %d possible taken in four minutes", taken, 4*60*16)
	}
	if most[4] > 11 {
		t.Errorf("%d sessions at hosts that take 8", most)
	}
}

// Where the only connection that a host took hangs, another is made in its stead, though one is all that
// it ever took, and the host gets few of them while it answers none.
func TestAnotherConnectIsMadeWhereOneHangsAtALimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			x := receiversAt(receiver{limit: limit, messages: 4, mute: true})
			w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0)) },
				func(w *world) { w.o.MaxSessions, w.policy.MaxSessions, w.service = 200, 200, 500*time.Millisecond })
			for i := range 2000 {
				w.add(spool.ID(i+1), "s", "a.example")
			}
			pass(30 * time.Second)
			to := func(limit int) {
				x.mu.Lock()
				defer x.mu.Unlock()
				x.at[spot(1, 0).Addr].limit = limit
			}
			to(-1)
			pass(5 * time.Second)
			to(limit)
			pass(15 * time.Second)
			before := x.met(1)
			pass(time.Minute)
			if n := x.met(1).taken - before.taken; n < limit*60*2*3/4 {
				t.Errorf("%d of %d possible taken in a minute, after 5 s of silence", n, limit*60*2)
			}
			to(-1)
			before = x.met(1)
			pass(4 * time.Minute)
			t.Logf("%d calls in 4 minutes of silence", x.met(1).calls-before.calls)
			if n := x.met(1).calls - before.calls; n > 40 {
				t.Errorf("%d calls in 4 minutes of silence", n)
			}
			w.empty()
		})
	}
}

// A host whose first message goes elsewhere is called again in a moment; only one whose first
// few do is passed by, and the account of its site tells until when, and the host's words.
func TestHostIsNotPassedByForOneMessage(t *testing.T) {
	t.Parallel()
	const busy = "4.2.1 mailbox busy"
	for _, x := range []struct {
		deferred, least int // its first messages; taken there in 20 s
		tried           int
	}{{1, 300, 1}, {1 << 20, 0, 3}} {
		t.Run(fmt.Sprint(x.deferred), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				hosts := receiversAt(receiver{limit: 3}, receiver{limit: 3})
				deferred := 0
				w := newWorld(t, func(w *world) {
					w.way = func(d string) (Route, bool) { return w.toPlaces(d, d, spot(1, 0), spot(2, 0)), true }
					w.server = func(w *world, s *Session) {
						r := hosts.connect(w, s)
						if r == nil {
							return
						}
						var done []Settled
						var sig []elastic.Signal
						for {
							job, err := w.Step(context.Background(), s, done, sig)
							if err != nil {
								hosts.end(r, s)
								w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
								return
							}
							began := time.Now()
							time.Sleep(100 * time.Millisecond)
							if r == hosts.at[spot(2, 0).Addr] && deferred < x.deferred && w.Elsewhere(s, false) {
								deferred++
								hosts.end(r, s)
								w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Lost, Began: began, Text: busy}}, busy)
								return
							}
							hosts.mu.Lock()
							r.taken++
							hosts.mu.Unlock()
							done, sig = done[:0], append(sig[:0], elastic.Signal{Kind: elastic.Accepted, Began: began})
							for _, item := range job.Items {
								done = append(done, Settled{Handle: item.Handle, State: spool.State{Status: spool.Delivered}})
							}
						}
					}
				})
				for i := range 10_000 {
					w.add(spool.ID(i+1), "s", "a.example")
				}
				pass(20 * time.Second)
				if n := hosts.met(2).taken; n < x.least || deferred != x.tried {
					t.Errorf("%d taken there, %d went elsewhere", n, deferred)
				}
				a, _ := w.Explain("a.example")
				for _, p := range a.Snapshot.PerAddress {
					passed := p.Address == spot(2, 0).Addr && x.least == 0
					if p.Opens.After(time.Now()) != passed || passed && p.Reply != busy {
						t.Errorf("%+v", p)
					}
				}
			})
		})
	}
}
