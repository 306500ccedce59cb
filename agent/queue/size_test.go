//go:build !race

// How much memory sites take and what is kept of them is measured by one goroutine; the race
// detector has nothing to see there, and the memory is its own for the most part.

package queue

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// sitesAtRest has so many sites of one address each take one message. Mail of most is gone a
// moment later, and what is left is what all sites of a day take.
func sitesAtRest(tb testing.TB, n int) *Queue {
	tb.Helper()
	policy := &config.Queue{Name: "general", MaxSessions: 20, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
	var launched []*Session
	q := New(Options{
		Resolve: func(string) {}, Launch: func(s *Session) { launched = append(launched, s) },
		Relay: RelayDomain("127.0.0.1:10626"), MaxSessions: 2000,
	})
	e := &spool.Envelope{Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
	for i := range n {
		name := fmt.Sprintf("d%d.example", i)
		q.Add(spool.ID(i+1), e, []string{name}, nil, false)
		q.Routed(name, Route{
			Queue: policy, Site: name, Key: name + " #" + fmt.Sprint(i) + " general opportunistic ", Expires: time.Now().Add(time.Hour),
			Places: []Place{{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)}), 25)}},
		})
		for _, s := range launched {
			q.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: time.Now()}})
			job, err := q.Step(tb.Context(), s, nil, nil)
			if err != nil {
				tb.Fatal(err)
			}
			q.Leave(s, []Settled{{Handle: job.Items[0].Handle, State: spool.State{Status: spool.Delivered}}},
				[]elastic.Signal{{Kind: elastic.Accepted, Began: time.Now()}, {Kind: elastic.Closed}}, "")
		}
		launched = launched[:0]
	}
	if q.Queued() != 0 {
		tb.Fatalf("%d of %d are left", q.Queued(), n)
	}
	q.Learned(time.Now().Add(time.Minute)) // as twice a minute
	return q
}

// octetsInUse is what the heap takes.
func octetsInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What a site's refusals told of its limits is freed when it is old: the greater part are
// the controller's votes, 1,000 octets with one address.
func TestMemoryOfRefusalsIsFreed(t *testing.T) {
	const n, least = 2000, 800
	var launched []*Session
	q := New(Options{
		Resolve: func(string) {}, Launch: func(s *Session) { launched = append(launched, s) },
		Relay: RelayDomain("127.0.0.1:10626"), MaxSessions: 2 * n,
	})
	policy := &config.Queue{Name: "general", MaxSessions: 20, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
	for i := range n {
		name := fmt.Sprintf("d%d.example", i)
		q.Add(spool.ID(i+1), &spool.Envelope{Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}, []string{name}, nil, false)
		q.Routed(name, Route{
			Queue: policy, Site: name, Key: name, Expires: time.Now().Add(time.Hour),
			Places: []Place{{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 25)}},
		})
	}
	if len(launched) != n {
		t.Fatalf("%d connects to %d sites", len(launched), n)
	}
	for _, s := range launched {
		q.Leave(s, nil, []elastic.Signal{{Kind: elastic.Refused, Began: time.Now(), Text: "421 too many"}}, "421 too many")
	}
	launched = nil
	before := octetsInUse()
	q.Learned(time.Now().Add(time.Hour))
	each := (int(before) - int(octetsInUse())) / n
	runtime.KeepAlive(q)
	t.Logf("%d octets a site", each)
	if each < least {
		t.Errorf("%d octets a site are freed, want at least %d", each, least)
	}
}

// A site with one address that has sent its mail, or waits for its first session, has its place
// in memory: the greatest part are the address's 512 octets. It has no controller, of 1,152.
func TestMemoryOfManySites(t *testing.T) {
	for _, tt := range []struct {
		name    string
		n, most int
		queue   func(n int) *Queue
	}{
		{"sent its mail", 20_000, 2048, func(n int) *Queue { return sitesAtRest(t, n) }},
		{"waits, with a message and the lane and flow for it", 10_000, 2450, func(n int) *Queue { q, _ := crowded(n); return q }},
	} {
		before := octetsInUse()
		q := tt.queue(tt.n)
		each := int(octetsInUse()-before) / tt.n
		t.Logf("%s: %d octets a site, with its address, destination, route, domain and timers", tt.name, each)
		if each > tt.most {
			t.Errorf("%s: %d octets a site, want at most %d", tt.name, each, tt.most)
		}
		if len(q.sites) != tt.n {
			t.Fatalf("%d sites", len(q.sites))
		}
	}
}

// However many receivers there were, what is kept of them is bounded, and suspensions go
// last.
func TestWhatIsKeptOfSitesIsBounded(t *testing.T) {
	t.Parallel()
	q, now := New(Options{}), time.Now()
	keep := func(kind string, n int, l elastic.Learned) {
		l.At = now
		for i := range n {
			q.preserve(&site{key: fmt.Sprint(kind, i), policy: &config.Queue{}, controller: elastic.Restore(now, elastic.Limits{MaxSessions: 20}, l)}, now)
		}
	}
	clamp := []elastic.Clamp{{Until: now.Add(time.Hour), Reason: "421 go away"}}
	keep("suspended", 100, elastic.Learned{Want: 9, Bound: true, Clamps: clamp})
	keep("site", mostRecalled+1000, elastic.Learned{Want: 9, Bound: true})
	if n := len(q.recalled); n > mostRecalled {
		t.Errorf("%d are kept", n)
	}
	keep("more", 2*mostRecalled, elastic.Learned{Want: 9, Bound: true, Clamps: clamp})
	if n := len(q.recalled); n > 2*mostRecalled {
		t.Errorf("%d are kept", n)
	}
	for i := range 100 {
		if _, ok := q.recalled[fmt.Sprint("suspended", i)]; !ok {
			t.Errorf("suspension %d is forgotten", i)
		}
	}
}
