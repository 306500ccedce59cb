package queue

import (
	"cmp"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// A stranger's domains that list the addresses of others, whose hosts take no mail for them,
// cost these next to nothing, however much mail there is for them and however many sets of
// addresses they list. The pace that the stranger's own host asks for is the stranger's, and holds
// nothing up at the others' addresses. That is so in every course: what differs is who comes first.
func TestDomainsThatListOthersAddressesCostThemLittle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		limit          int // connections of each host
		sites, backlog int // of the stranger; messages of each
	}{
		{"no stranger", 10, 0, 0},
		{"a little mail", 10, 1, 1000},
		{"a backlog", 10, 1, 50_000},
		{"a backlog for many sites", 10, 30, 2000},
		{"hosts with one connection", 1, 5, 5000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const hosts, from, to, courses = 4, 30 * time.Second, 3 * time.Minute, 3
			// A connection of twenty messages takes 20 ms to be made.
			most := float64(tt.limit*hosts) * 20 / (20*0.2 + 0.02)
			course := func(t *testing.T) {
				x := &answering{receivers: receiversAt()}
				for i := range hosts {
					x.at[spot(i+1, 0).Addr] = &receiver{limit: tt.limit, messages: 20}
				}
				x.takes = func(domain string, n int) elastic.Signal {
					switch stranger := domain[0] == 'e'; {
					case stranger == (n > hosts):
						return elastic.Signal{Kind: elastic.Accepted}
					default:
						return elastic.Signal{Kind: elastic.Accepted, Text: "554 5.7.1 Relay access denied"}
					}
				}
				x.at[spot(hosts+1, 0).Addr] = &receiver{limit: 1}
				x.rate = map[int]time.Duration{hosts + 1: time.Second}
				w := newWorld(t, func(w *world) {
					w.o.MaxSessions = 400
					w.policy.MaxSessions = 200
					w.server = x.serve
					w.service = 200 * time.Millisecond
					w.way = func(d string) (Route, bool) {
						if d[0] == 'e' {
							places := []Place{spot(hosts+1, 0)}
							for i := range hosts {
								places = append(places, spot(i+1, 0))
							}
							return w.toPlaces(d, d, places...), true
						}
						n := int(d[1] - '0')
						return w.toPlaces(d, d, spot(2*n+1, 0), spot(2*n+2, 0)), true
					}
				})
				id := spool.ID(1)
				for range 200 * 4 * tt.limit * hosts {
					for v := range hosts / 2 {
						w.add(id, "s", fmt.Sprintf("v%d.example", v))
						id++
					}
				}
				for range tt.backlog {
					for e := range tt.sites {
						w.add(id, "s", fmt.Sprintf("e%d.example", e))
						id++
					}
				}
				pass(from)
				before := x.took(hosts)
				pass(to - from)
				got, own, asked := float64(x.took(hosts)-before)/(to-from).Seconds(), x.met(hosts+1).taken, x.refusals()
				t.Logf("messages/s of %.1f: %.2f; the stranger: %v asked there, %v accepted by its own", most, got, asked, own)
				if got < 0.98*most {
					t.Errorf("%.1f messages/s, possible are %.1f", got, most)
				}
				if tt.sites == 0 {
					return
				}
				if float64(own) < to.Seconds()/2 {
					t.Errorf("the stranger's own host took %v messages, one a second is possible", own)
				}
				if asked < 20 { // they are tried there now and then: one may be accepted
					t.Errorf("%v of the stranger's messages were tried there in %v", asked, to)
				}
			}
			for range courses {
				synctest.Test(t, course)
			}
		})
	}
}

// Who is alone at an address keeps nobody else away there, however little of its mail is
// taken, and what the host MTA takes back is taken.
func TestWhoIsAloneAtAnAddressIsNeverKeptAway(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status spool.Status
	}{{"nothing taken", spool.Bounced}, {"handed back", spool.HandedBack}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const limit, from, to = 4, 30 * time.Second, 3 * time.Minute
				x := &answering{receivers: receiversAt(), final: tt.status}
				x.at[spot(1, 0).Addr] = &receiver{limit: limit, messages: 20}
				x.takes = func(string, int) elastic.Signal {
					return elastic.Signal{Kind: elastic.Accepted, Text: "told for the recipient"}
				}
				w := newWorld(t, func(w *world) {
					w.policy.MaxSessions = 20
					w.server = x.serve
					w.way = func(d string) (Route, bool) { return w.toPlaces(d, d, spot(1, 0)), true }
				})
				for id := range spool.ID(15_000) {
					w.add(id+1, "s", "alone.example")
				}
				pass(from)
				before := x.refusals()
				pass(to - from)
				got := float64(x.refusals()-before) / (to - from).Seconds()
				if most := limit * 20 / (20*0.06 + 0.02); got < 0.9*most {
					t.Errorf("%.1f messages/s were answered, possible are %.1f", got, most)
				}
			})
		})
	}
}

// answering are receivers whose answer depends on the domain.
type answering struct {
	*receivers
	takes  func(domain string, n int) elastic.Signal // at the n-th address; a Text is a refusal of the recipient
	rate   map[int]time.Duration                     // between two messages
	last   map[int]time.Time
	final  spool.Status // of a recipient that is refused; default: Bounced
	denied int
}

// refusals is how many recipients were refused.
func (x *answering) refusals() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.denied
}

// took is how many messages the first n hosts have accepted.
func (x *answering) took(n int) (sum int) {
	for i := range n {
		sum += x.met(i + 1).taken
	}
	return sum
}

func (x *answering) serve(w *world, s *Session) {
	n := int(s.Place().Addr.Addr().As4()[3])
	r := x.connect(w, s)
	if r == nil {
		return
	}
	x.steps(w, s, r, func(job Job) (spool.State, elastic.Signal) {
		began := time.Now()
		state := spool.State{Status: spool.Delivered}
		answer := x.takes(job.Domain, n)
		x.mu.Lock()
		if gap, paced := x.rate[n]; paced && answer.Text == "" {
			if x.last == nil {
				x.last = make(map[int]time.Time)
			}
			if began.Sub(x.last[n]) < gap {
				answer = elastic.Signal{Kind: elastic.RateRefused, Text: "450 too fast"}
				state = spool.State{Status: spool.Queued, Due: began.Add(5 * time.Minute)}
			} else {
				x.last[n] = began
			}
		}
		if answer.Kind == elastic.Accepted && answer.Text != "" {
			state = spool.State{Status: cmp.Or(x.final, spool.Bounced)}
		}
		x.mu.Unlock()
		wait := w.service
		if answer.Text != "" {
			wait = 60 * time.Millisecond
		}
		time.Sleep(wait)
		x.mu.Lock()
		switch {
		case answer.Text == "":
			r.taken++
		case answer.Kind == elastic.Accepted:
			x.denied++
		}
		x.mu.Unlock()
		return state, answer
	})
}
