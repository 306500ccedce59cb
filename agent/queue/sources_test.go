//go:build !race

// Forty courses of seven minutes are too long for the race detector: see places_shared_test.go.

package queue

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// sourcesOf is the world of one receiver with some hosts that three sources send to, a, b and c,
// each with so many messages.
func sourcesOf(t *testing.T, x *receivers, service time.Duration, mail ...int) *world {
	chance := rand.New(rand.NewPCG(1, 2))
	w := newWorld(t, func(w *world) {
		w.server = func(w *world, s *Session) {
			r := x.connect(w, s)
			if r == nil {
				return
			}
			x.steps(w, s, r, func(job Job) (spool.State, elastic.Signal) {
				x.mu.Lock()
				wait := service/2 + time.Duration(chance.ExpFloat64()*float64(service)/2)
				r.taken++
				x.mu.Unlock()
				time.Sleep(wait)
				w.set(func() { w.sent = append(w.sent, job.ID) })
				return spool.State{Status: spool.Delivered}, elastic.Signal{Kind: elastic.Accepted}
			})
		}
		w.o.MaxSessions, w.policy.MaxSessions, w.service = 200, 200, service
	})
	w.way = func(name string) (Route, bool) {
		_, from := SplitRouteName(name)
		var places []Place
		for i := range x.at {
			p := Place{Addr: i, Source: netip.AddrFrom4([4]byte{198, 51, 100, from[0]})}
			places = append(places, p)
		}
		rt := w.toPlaces("x:"+from, "x from "+from, places...)
		rt.Receiver, rt.From = "x", from
		return rt, true
	}
	most := 0
	for _, n := range mail {
		most = max(most, n)
	}
	now := ""
	w.o.From = func(*spool.Envelope, int, string) string { return now }
	for i := range most {
		for k, n := range mail {
			if now = string(rune('a' + k)); i < n {
				w.add(spool.ID(100_000*k+i+1), "s", "x.example")
			}
		}
	}
	return w
}

// bySource counts messages by the source that they were for.
func bySource(sent []spool.ID) []float64 {
	got := make([]float64, 3)
	for _, id := range sent {
		got[(id-1)/100_000]++
	}
	return got
}

// between is what each source sends in a time.
func (w *world) between(d time.Duration) []float64 {
	before := len(w.delivered())
	pass(d)
	return bySource(w.delivered()[before:])
}

func total(x []float64) (sum float64) {
	for _, v := range x {
		sum += v
	}
	return sum
}

// course is what became of sources that share a receiver.
type course struct {
	fair  float64 // Jain's index in minutes 2 to 5
	used  float64 // of the possible, then
	after float64 // the same when the first source had no more mail
	per   float64 // refusals for each message
}

// median is that of each figure of some courses.
func median(list []course) (m course) {
	for _, of := range []func(*course) *float64{
		func(c *course) *float64 { return &c.fair }, func(c *course) *float64 { return &c.used },
		func(c *course) *float64 { return &c.after }, func(c *course) *float64 { return &c.per },
	} {
		var all []float64
		for i := range list {
			all = append(all, *of(&list[i]))
		}
		slices.Sort(all)
		*of(&m) = all[len(all)/2]
	}
	return m
}

// Sources that a receiver counts together have equal parts of it in minutes 2 to 5, whatever its hosts
// do to one too many, and the others have all of it when one has no more mail. Where each source has a
// limit of its own they take nothing from each other. The median of nine courses is judged. (Where a
// connect that is refused has a place, it is the others' for two seconds.)
func TestSourcesHaveEqualPartsOfAReceiver(t *testing.T) {
	t.Parallel()
	const service = 750 * time.Millisecond
	for _, tt := range []struct {
		name  string
		hosts int
		receiver
		least course
	}{
		{"7 hosts of 1", 7, receiver{limit: 1, messages: 56}, course{0.9, 0.95, 0.9, 0.02}},
		{"4 hosts of 1", 4, receiver{limit: 1, messages: 20}, course{0.85, 0.95, 0.9, 0.03}},
		{"9", 1, receiver{limit: 9, messages: 4}, course{0.95, 0.95, 0.9, 0.03}},
		{"9, 1 message", 1, receiver{limit: 9, messages: 1}, course{0.95, 0.95, 0.9, 0.045}},
		{"9, silent", 1, receiver{limit: 9, messages: 4, mute: true}, course{0.9, 0.9, 0.85, 0.06}},
		{"9, refused connects have a place", 1, receiver{limit: 9, messages: 3, holds: 2 * time.Second}, course{0.8, 0.3, 0.3, 0.12}},
		{"3 each", 1, receiver{limit: 3, messages: 4, each: true}, course{0.95, 0.95, 0.9, 0.02}},
		{"3 each, silent", 1, receiver{limit: 3, messages: 4, each: true, mute: true}, course{0.95, 0.9, 0.9, 0.03}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var list []course
			for range 9 {
				synctest.Test(t, func(t *testing.T) {
					x := receiversAt(slices.Repeat([]receiver{tt.receiver}, tt.hosts)...)
					w := sourcesOf(t, x, service, 1500, 6000, 6000)
					possible := float64(tt.hosts*tt.limit) / (service.Seconds() + 0.02/float64(tt.messages))
					if tt.each {
						possible *= 3
					}
					pass(2 * time.Minute)
					got := w.between(3 * time.Minute)
					c := course{fair: jain(got, []float64{1, 1, 1}), used: total(got) / 180 / possible}
					if tt.each {
						possible *= 2. / 3
					}
					w.drop(func(e Entry) bool { return e.ID <= 100_000 })
					pass(30 * time.Second)
					c.after = total(w.between(time.Minute)) / 60 / possible
					refused, taken := 0, 0
					for i := range tt.hosts {
						refused, taken = refused+x.met(i+1).refused, taken+x.met(i+1).taken
					}
					c.per = float64(refused) / float64(taken)
					list = append(list, c)
					w.empty()
				})
			}
			m := median(list)
			t.Logf("median %.3f of %.2f", m, list)
			if m.fair < tt.least.fair || m.used < tt.least.used || m.after < tt.least.after || m.per > tt.least.per {
				t.Errorf("%.3f, want %.2f", m, tt.least)
			}
		})
	}
}
