package route

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// queriesAfter looks a domain up, lets time pass, looks again, and says whether
// the DNS was asked a second time.
func askedAgainAfter(t *testing.T, f *fakeDNS, r *Resolver, domain, key string, d time.Duration) bool {
	t.Helper()
	before := f.count(key)
	time.Sleep(d)
	_, _ = r.Lookup(t.Context(), domain)
	return f.count(key) > before
}

func TestAnswersCountForTheirTTL(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		records []string
		soa     []string
		lasts   time.Duration
	}{
		{"ttl", []string{"300 MX 10 mx.example."}, nil, 300 * time.Second},
		{"least of the set", []string{"300 MX 10 mx.example.", "200 MX 20 mx2.example."}, nil, 200 * time.Second},
		{"least of the chain", []string{"100 CNAME c.example.", "200 @c.example. MX 10 mx.example."}, nil, 100 * time.Second},
		{"zero", []string{"0 MX 10 mx.example."}, nil, 30 * time.Second},
		{"week", []string{"604800 MX 10 mx.example."}, nil, time.Hour},
		{"nxdomain without soa", nil, nil, 30 * time.Second},
		{"nxdomain, soa minimum", nil, []string{"3600 SOA ns.example. h.example. 1 2 3 4 600"}, 600 * time.Second},
		{"nxdomain, soa ttl", nil, []string{"60 SOA ns.example. h.example. 1 2 3 4 600"}, 60 * time.Second},
		{"servfail", []string{"SERVFAIL"}, nil, 30 * time.Second},
		{"timeout", []string{"TIMEOUT"}, nil, 30 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				z := zone{"mx.example A": {"3600 A 192.0.2.1"}, "SOA": tt.soa}
				if tt.records != nil {
					z["d.example MX"] = tt.records
				}
				f := newFake(z)
				r := newResolver(t, f)
				if !askedAgainAfter(t, f, r, "d.example", "d.example MX", 0) {
					t.Fatal("nothing was asked")
				}
				if askedAgainAfter(t, f, r, "d.example", "d.example MX", tt.lasts-time.Nanosecond) {
					t.Errorf("asked again before %v", tt.lasts)
				}
				if !askedAgainAfter(t, f, r, "d.example", "d.example MX", time.Nanosecond) {
					t.Errorf("not asked again after %v", tt.lasts)
				}
			})
		})
	}
}

func TestPlanExpiresWithItsFirstAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(t, newFake(zone{
			"d.example MX":    {"3000 MX 10 mx.example.", "3000 MX 20 dead.example."},
			"e.example MX":    {"3000 MX 10 mx.example."},
			"mx.example A":    {"600 A 192.0.2.1"},
			"mx.example AAAA": {"900 AAAA 2001:db8::1"},
			"dead.example A":  {"SERVFAIL"},
		}))
		for domain, want := range map[string]time.Duration{"e.example": 600 * time.Second, "d.example": 30 * time.Second} {
			p, err := r.Lookup(t.Context(), domain)
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Until(p.Expires); got != want {
				t.Errorf("%s expires in %v, want %v", domain, got, want)
			}
		}
	})
}

func TestRecoveredExchangerComesBackUnderTheSameKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(zone{
			"d.example MX":  {"3000 MX 10 mx1.example.", "3000 MX 20 mx2.example."},
			"mx1.example A": {"SERVFAIL"},
			"mx2.example A": {"3000 A 192.0.2.2"},
		})
		r := newResolver(t, f, func(o *Options) { o.Protocols = []string{"ipv4"} })
		before, err := r.Lookup(t.Context(), "d.example")
		if err != nil {
			t.Fatal(err)
		}
		f.set("mx1.example A", "300 A 192.0.2.1")
		time.Sleep(time.Until(before.Expires))
		after, err := r.Lookup(t.Context(), "d.example")
		if err != nil {
			t.Fatal(err)
		}
		if show(before) != "mx2.example=192.0.2.2" || show(after) != "mx1.example=192.0.2.1 mx2.example=192.0.2.2" {
			t.Errorf("hosts %q, then %q", show(before), show(after))
		}
		if before.Key() != after.Key() {
			t.Errorf("key %q became %q", before.Key(), after.Key())
		}
	})
}

func TestManyWaitForOneQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(zone{"d.example MX": {"300 MX 10 mx.example."}, "mx.example A": {"300 A 192.0.2.1"}})
		gate := make(chan struct{})
		f.hold = func(context.Context, string) error { <-gate; return nil }
		r := newResolver(t, f)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := r.Lookup(t.Context(), "d.example"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // all stand in Lookup
		close(gate)
		wg.Wait()
		for _, key := range []string{"d.example MX", "mx.example A", "mx.example AAAA"} {
			if n := f.count(key); n != 1 {
				t.Errorf("%s asked %d times", key, n)
			}
		}
	})
}

func TestWaiterAsksAgainWhenTheFirstGoesAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(zone{"d.example MX": {"300 MX 10 mx.example."}, "mx.example A": {"300 A 192.0.2.1"}})
		gate := make(chan struct{})
		f.hold = func(ctx context.Context, _ string) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r := newResolver(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.Lookup(ctx, "d.example"); err == nil {
				t.Error("the lookup outlived its context")
			}
		})
		synctest.Wait() // the first is asking
		patient := make(chan error, 1)
		wg.Go(func() {
			_, err := r.Lookup(t.Context(), "d.example")
			patient <- err
		})
		synctest.Wait() // the second waits for the first
		if n := f.count("d.example MX"); n != 1 {
			t.Errorf("asked %d times", n)
		}
		cancel()
		synctest.Wait()
		close(gate)
		if err := <-patient; err != nil {
			t.Errorf("the patient caller got %v", err)
		}
		wg.Wait()
		if n := f.count("d.example MX"); n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
	})
}

func TestWaiterLeavesWithItsOwnContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(zone{"d.example MX": {"300 MX 10 mx.example."}, "mx.example A": {"300 A 192.0.2.1"}})
		gate := make(chan struct{})
		f.hold = func(context.Context, string) error { <-gate; return nil }
		r := newResolver(t, f)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = r.Lookup(t.Context(), "d.example") })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Lookup(ctx, "d.example"); reasonOf(t, err) != Temporary {
			t.Errorf("error %v", err)
		}
		close(gate)
		wg.Wait()
	})
}

func TestDeadExchangersCostOneTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(zone{"d.example MX": {"300 MX 10 a.example.", "300 MX 20 b.example.", "300 MX 30 c.example."}, "c.example A": {"300 A 192.0.2.1"}})
		f.hold = func(_ context.Context, key string) error {
			if key[0] != 'd' {
				time.Sleep(5 * time.Second)
			}
			return nil
		}
		start := time.Now()
		if _, err := newResolver(t, f).Lookup(t.Context(), "d.example"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// heldBy is how many octets of memory what make returns keeps alive.
func heldBy(t *testing.T, make func() any) (any, uint64) {
	t.Helper()
	var before, after runtime.MemStats
	for range 2 { // what the first leaves to finalizers goes with the second
		runtime.GC()
	}
	runtime.ReadMemStats(&before)
	x := make()
	for range 2 {
		runtime.GC()
	}
	runtime.ReadMemStats(&after)
	return x, after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc)
}

// Domains of a stranger whose answers are as large as the DNS lets them be: what the
// cache and the ways to these domains keep is bounded in octets. Not parallel: other
// tests' memory would count.
func TestHugeAnswersNeedLittleMemory(t *testing.T) {
	const domains = 10
	h := newHuge(t)
	r := newResolver(t, h)
	plans, held := heldBy(t, func() any {
		var plans []*Plan
		for i := range domains {
			p, err := r.Lookup(t.Context(), fmt.Sprintf("d%d.example", i))
			if err != nil {
				t.Fatal(err)
			}
			plans = append(plans, p)
		}
		return plans
	})
	t.Logf("%d domains: %d queries, %d octets in the cache, %d KiB held", domains, h.asked.Load(), r.answers.octets, held>>10)
	if n := len(plans.([]*Plan)); held > uint64(n)*128<<10 {
		t.Errorf("%d KiB held by %d domains", held>>10, n)
	}
	if r.answers.octets > maxOctets {
		t.Errorf("%d octets", r.answers.octets)
	}
	runtime.KeepAlive(plans)
	runtime.KeepAlive(r)
}

// What is over goes, whether it is asked for or not.
func TestExpiredAnswersGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		z := zone{"mx.example A": {"300 A 192.0.2.1"}, "keeps.example MX": {"3000 MX 10 mx.example."}}
		for i := range 100 {
			z[fmt.Sprintf("d%d.example MX", i)] = []string{"200 MX 10 mx.example."}
		}
		r := newResolver(t, newFake(z), func(o *Options) { o.Protocols = []string{"ipv4"} })
		for i := range 100 {
			if _, err := r.Lookup(t.Context(), fmt.Sprintf("d%d.example", i)); err != nil {
				t.Fatal(err)
			}
		}
		left := func() int { return len(r.answers.entries) }
		if n := left(); n != 101 {
			t.Fatalf("%d answers", n)
		}
		time.Sleep(200 * time.Second)
		if _, err := r.Lookup(t.Context(), "keeps.example"); err != nil {
			t.Fatal(err)
		}
		if n := left(); n != 2 {
			t.Errorf("%d answers after a question", n)
		}
		time.Sleep(100 * time.Second)
		r.Forget()
		if n := left(); n != 1 || r.answers.octets == 0 {
			t.Errorf("%d answers after a while, %d octets", n, r.answers.octets)
		}
		time.Sleep(time.Hour)
		r.Forget()
		if n := left(); n != 0 || r.answers.octets != 0 || len(r.answers.order) != 0 {
			t.Errorf("%d answers at the end, %d octets", n, r.answers.octets)
		}
	})
}

func TestFullCacheDropsWhatExpiresFirst(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	c := newCache(8 * (entryOctets + 1))
	for i := range 8 {
		c.put(question{fmt.Sprint(i), 1}, &answer{expires: now.Add(time.Duration(60-i) * time.Second)}, now)
	}
	c.put(question{"n", 1}, &answer{expires: now.Add(time.Second)}, now)
	c.put(question{"6", 1}, &answer{expires: now.Add(time.Hour)}, now) // in place of the old one
	if c.get(question{"7", 1}, now) != nil || c.get(question{"n", 1}, now) == nil || c.get(question{"6", 1}, now) == nil || len(c.entries) != 8 {
		t.Error("another answer made room")
	}
}

var documentationAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}

// huge is a DNS in which every answer is as large as a reply over TCP can be.
type huge struct {
	asked atomic.Int64
	mx    []byte // replies, in which only the question differs
	a     []byte
	aaaa  []byte
}

func newHuge(t *testing.T) *huge {
	t.Helper()
	pack := func(kind uint16, n int, rr func(i int) dns.RR) []byte {
		m := new(dns.Msg)
		m.SetQuestion("q.", kind)
		m.Response, m.Compress = true, true
		for i := range n {
			m.Answer = append(m.Answer, rr(i))
		}
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if len(wire) < 50_000 {
			t.Fatalf("%d octets only", len(wire))
		}
		return wire
	}
	head := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: "q.", Rrtype: kind, Class: dns.ClassINET, Ttl: 3600}
	}
	long := strings.Repeat(strings.Repeat("x", 60)+".", 3)
	return &huge{
		mx: pack(dns.TypeMX, 3000, func(i int) dns.RR {
			return &dns.MX{Hdr: head(dns.TypeMX), Preference: 10, Mx: fmt.Sprintf("%04d.%s", i, long)}
		}),
		a: pack(dns.TypeA, 4000, func(i int) dns.RR {
			return &dns.A{Hdr: head(dns.TypeA), A: net.IPv4(192, 0, 2, byte(i))}
		}),
		aaaa: pack(dns.TypeAAAA, 2300, func(i int) dns.RR {
			return &dns.AAAA{Hdr: head(dns.TypeAAAA), AAAA: net.ParseIP(fmt.Sprintf("2001:db8::%x", i))}
		}),
	}
}

func (h *huge) Exchange(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
	h.asked.Add(1)
	wire := map[uint16][]byte{dns.TypeMX: h.mx, dns.TypeA: h.a, dns.TypeAAAA: h.aaaa}[m.Question[0].Qtype]
	reply := new(dns.Msg)
	if err := reply.Unpack(wire); err != nil {
		return nil, err
	}
	reply.Question = m.Question
	for _, rr := range reply.Answer {
		rr.Header().Name = m.Question[0].Name
		if mx, ok := rr.(*dns.MX); ok {
			mx.Mx += m.Question[0].Name // hosts of its own
		}
	}
	return reply, nil
}

// The owner of a domain decides how many exchangers there are, not how many sockets they take.
func TestOneLookupHasItsSocketsAndNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		records := zone{}
		for i := range 32 {
			records["d.example MX"] = append(records["d.example MX"], fmt.Sprintf("300 MX %d m%d.example.", i, i))
			records[fmt.Sprintf("m%d.example A", i)] = []string{fmt.Sprintf("300 A 192.0.2.%d", i+1)}
		}
		f := newFake(records)
		var now, top atomic.Int64
		f.hold = func(context.Context, string) error {
			top.Store(max(top.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		}
		r, err := New(Options{Exchanger: f, Sockets: 5, Protocols: []string{"ipv4"}, Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := r.Lookup(t.Context(), "d.example")
		if err != nil || len(plan.Hosts) != 32 {
			t.Fatalf("%+v, %v", plan, err)
		}
		if top.Load() != 5 {
			t.Errorf("%d questions at a time", top.Load())
		}
	})
}

// TestAnswersOutliveAReload has the Resolver of the next configuration answer from what the
// one before knew, unless that was asked of others, or trusted otherwise.
func TestAnswersOutliveAReload(t *testing.T) {
	t.Parallel()
	f := newFake(zone{"d.example MX": {"300 MX 10 mx.example."}, "mx.example A": {"300 A 192.0.2.1"}})
	before := newResolver(t, f)
	if _, err := before.Lookup(t.Context(), "d.example"); err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct {
		change func(*Options)
		kept   bool
	}{
		"the same":        {func(*Options) {}, true},
		"other protocols": {func(o *Options) { o.Protocols = []string{"ipv4"} }, true},
		"another trust":   {func(o *Options) { o.DANE = TrustNever }, false},
		"other resolvers": {func(o *Options) { o.Resolvers = []string{"192.0.2.53"} }, false},
	} {
		tally := new(Tally)
		next := newResolver(t, f, func(o *Options) { o.Tally = tally }, x.change)
		next.Adopt(before)
		if _, err := next.Lookup(t.Context(), "d.example"); err != nil {
			t.Fatal(err)
		}
		if asked := tally.asked[found].Load(); (asked == 0) != x.kept {
			t.Errorf("%s: asked %d times", what, asked)
		}
	}
}
