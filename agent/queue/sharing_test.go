package queue

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// verdict is what a receiver says of a transaction, after a wait.
type verdict struct {
	status spool.Status
	wait   time.Duration
	due    time.Duration // from now; of what is deferred
	sig    elastic.Signal
}

// sharing are receivers that several domains share, with a verdict for each.
type sharing struct {
	*receivers
	say   func(domain string, first Item, n int) verdict // at the n-th address
	taken map[string]int                                 // by domain
	tried map[string]int
}

func (x *sharing) serve(w *world, s *Session) {
	n := int(s.Place().Addr.Addr().As4()[3])
	r := x.connect(w, s)
	if r == nil {
		return
	}
	x.steps(w, s, r, func(job Job) (spool.State, elastic.Signal) {
		x.mu.Lock()
		v := x.say(job.Domain, job.Items[0], n)
		x.mu.Unlock()
		time.Sleep(v.wait)
		x.mu.Lock()
		x.tried[job.Domain]++
		if v.status == spool.Delivered {
			x.taken[job.Domain]++
		}
		x.mu.Unlock()
		state := spool.State{Status: v.status}
		if v.due > 0 {
			state.Due = time.Now().Add(v.due)
		}
		return state, v.sig
	})
}

// A destination of whose mail a part is accepted is none of a stranger, however many of its
// recipients are dead, and one that is a stranger costs others of its own site as little as
// those of other sites.
func TestListsWithDeadRecipientsHaveTheirPart(t *testing.T) {
	t.Parallel()
	const from, to = 30 * time.Second, 2 * time.Minute
	for _, tt := range []struct {
		name        string
		limit       int
		dead        float64
		sites       bool    // each domain is one
		least, most float64 // messages/s of the list that are answered
		others      float64 // and of all others, accepted; the least
	}{
		{"half", 10, 0.5, true, 21.5, 38, 28},
		{"four of five", 10, 0.8, true, 24, 50, 28},
		{"all, of one site", 1, 1, false, 0.01, 0.5, 4.7},
		{"all, with more connections", 10, 1, false, 0.01, 4, 47},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := &sharing{receivers: receiversAt(), taken: map[string]int{}, tried: map[string]int{}}
				x.at[spot(1, 0).Addr] = &receiver{limit: tt.limit, messages: 20}
				chance := rand.New(rand.NewPCG(1, 2))
				x.say = func(domain string, _ Item, _ int) verdict {
					if domain[0] == 'd' && chance.Float64() < tt.dead {
						return verdict{status: spool.Bounced, wait: 60 * time.Millisecond, sig: elastic.Signal{Kind: elastic.Accepted, Text: "550 unknown"}}
					}
					return verdict{status: spool.Delivered, wait: 200 * time.Millisecond, sig: elastic.Signal{Kind: elastic.Accepted}}
				}
				w := newWorld(t, func(w *world) {
					w.policy.MaxSessions = 50
					w.server = x.serve
					w.way = func(d string) (Route, bool) {
						site := d
						if !tt.sites {
							site = "site"
						}
						return w.toPlaces(site, d, spot(1, 0)), true
					}
				})
				id := spool.ID(1)
				for range 14_000 { // most mail, and the first
					w.add(id, "s", "d.example")
					id++
				}
				for range 7000 {
					for _, d := range []string{"a.example", "b.example"} {
						w.add(id, "s", d)
						id++
					}
				}
				pass(from)
				list, others := x.count()
				pass(to - from)
				list2, others2 := x.count()
				per := (to - from).Seconds()
				got, rest := float64(list2-list)/per, float64(others2-others)/per
				t.Logf("%.2f messages/s of the list, %.2f of the others", got, rest)
				if got < tt.least || got > tt.most {
					t.Errorf("%.2f messages/s of the list were answered, expected %.2f to %.2f", got, tt.least, tt.most)
				}
				if rest < tt.others {
					t.Errorf("%.2f messages/s of the others were accepted, %.2f are possible", rest, tt.others)
				}
			})
		})
	}
}

// count is how many messages of the list were answered, and how many of the others accepted.
func (x *sharing) count() (list, others int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tried["d.example"], x.taken["a.example"] + x.taken["b.example"]
}

// Where the hosts of several sites have one connection for all of them, and one site's mail is
// greylisted, that site's probes cost the others next to nothing, nor do they tell these of a
// lag. When all was deferred for a while, all go on.
func TestTroubleOfSomeWhoShareAnAddressCostsOthersNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		deferred func(domain string, first Item, at time.Duration) bool
		least    float64 // messages/s of the others, from the 14th minute on
	}{
		{"greylisting", func(domain string, first Item, _ time.Duration) bool { return domain[0] == 'd' && first.Tries == 0 }, 3.8},
		{"an outage", func(_ string, _ Item, at time.Duration) bool { return at > 30*time.Second && at < 10*time.Minute }, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := &sharing{receivers: receiversAt(), taken: map[string]int{}, tried: map[string]int{}}
				x.at[spot(1, 0).Addr] = &receiver{limit: 1, messages: 20}
				start := time.Now()
				x.say = func(domain string, first Item, _ int) verdict {
					if tt.deferred(domain, first, time.Since(start)) {
						return verdict{status: spool.Queued, wait: 60 * time.Millisecond, due: 5 * time.Minute, sig: elastic.Signal{Kind: elastic.Accepted, Trouble: true, Text: "451 later"}}
					}
					return verdict{status: spool.Delivered, wait: 200 * time.Millisecond, sig: elastic.Signal{Kind: elastic.Accepted}}
				}
				w := newWorld(t, func(w *world) {
					w.server = x.serve
					w.way = func(d string) (Route, bool) { return w.toPlaces(d, d, spot(1, 0)), true }
				})
				id := spool.ID(1)
				for range 5000 {
					for _, d := range []string{"d.example", "a.example", "b.example"} {
						w.add(id, "s", d)
						id++
					}
				}
				pass(14 * time.Minute)
				_, before := x.count()
				pass(6 * time.Minute)
				_, after := x.count()
				got := float64(after-before) / (6 * time.Minute).Seconds()
				t.Logf("%.2f messages/s of the others", got)
				if got < tt.least {
					t.Errorf("%.2f messages/s of the others were accepted, %.2f are possible", got, tt.least)
				}
			})
		})
	}
}
