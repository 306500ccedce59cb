package route

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	c := newCache(100)
	for i := range 10_000 {
		q := question{fmt.Sprintf("d%d.example", i), 1}
		c.put(q, &answer{expires: now.Add(time.Minute)})
		if c.get(q, now) == nil {
			t.Fatalf("answer %d was not kept", i)
		}
	}
	if n := len(c.answers); n != 100 {
		t.Errorf("%d answers, want 100", n)
	}
}

func TestFullCacheDropsWhatExpiresFirst(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	c := newCache(8) // all are looked at
	for i := range 8 {
		c.put(question{fmt.Sprint(i), 1}, &answer{expires: now.Add(time.Duration(60-i) * time.Second)})
	}
	c.put(question{"new", 1}, &answer{expires: now.Add(time.Second)})
	if c.get(question{"7", 1}, now) != nil || c.get(question{"new", 1}, now) == nil || c.get(question{"6", 1}, now) == nil {
		t.Error("another answer made room")
	}
}
