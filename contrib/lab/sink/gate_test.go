package sink

import (
	"testing"
	"time"
)

// ticks are the times of a gate's test.
func ticks(seconds float64) time.Time {
	return time.Unix(1_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

func TestGateLimitsHostAndProvider(t *testing.T) {
	t.Parallel()
	var g gate
	var a, b slots
	lim := &Behaviour{HostConnections: 2, ProviderConnections: 3}
	for i, step := range []struct {
		host *slots
		want Cause
	}{{&a, ""}, {&a, ""}, {&a, CauseConnections}, {&b, ""}, {&b, CauseConnections}} {
		if got := g.enter(ticks(0), lim, step.host); got != step.want {
			t.Errorf("connection %d: %q, want %q", i, got, step.want)
		}
	}
	g.leave(ticks(0), lim.ReleaseLag, &a)
	if got := g.enter(ticks(0), lim, &b); got != "" {
		t.Errorf("after one left: %q", got)
	}
	if g.peak != 3 || a.peak != 2 || b.peak != 2 {
		t.Errorf("peaks %d %d %d", g.peak, a.peak, b.peak)
	}
}

func TestGateHoldsSlotForReleaseLag(t *testing.T) {
	t.Parallel()
	var g gate
	var h slots
	b := &Behaviour{HostConnections: 1, ReleaseLag: time.Second}
	g.enter(ticks(0), b, &h)
	g.leave(ticks(0), b.ReleaseLag, &h)
	if got := g.enter(ticks(0.999), b, &h); got != CauseConnections {
		t.Errorf("just before: %q", got)
	}
	if got := g.enter(ticks(1), b, &h); got != "" {
		t.Errorf("at the lag's end: %q", got)
	}
}

func TestGateRateIsTokenBucket(t *testing.T) {
	t.Parallel()
	var g gate
	var h, other bucket
	b := &Behaviour{Rate: 2, Burst: 3}
	allowed := func(at float64, k *bucket, n int) (yes int) {
		for range n {
			if g.message(ticks(at), b, k) == "" {
				yes++
			}
		}
		return yes
	}
	for _, step := range []struct {
		at   float64
		want int
	}{{0, 3}, {0.5, 1}, {0.75, 0}, {1, 1}, {100, 3}} {
		if got := allowed(step.at, &h, 5); got != step.want {
			t.Errorf("at %v: %d, want %d", step.at, got, step.want)
		}
	}
	if got := allowed(100, &other, 5); got != 0 {
		t.Errorf("another host got %d of the provider's rate", got)
	}
	b.RatePerHost = true
	if got := allowed(100, &other, 5); got != 3 {
		t.Errorf("a host of its own rate got %d", got)
	}
}

func TestGatePenaltyShrinksLimitAndIsForgiven(t *testing.T) {
	t.Parallel()
	var g gate
	var h slots
	b := &Behaviour{HostConnections: 3, PenaltyEvery: 2, PenaltyShrink: 1, PenaltyForget: 10 * time.Second}
	fill := func(at float64) (n int) {
		for g.enter(ticks(at), b, &h) == "" {
			n++
		}
		return n
	}
	empty := func(at float64) {
		for h.open > 0 {
			g.leave(ticks(at), b.ReleaseLag, &h)
		}
	}
	for i, want := range []int{3, 3, 2, 2, 1, 1, 1, 1} { // every second refusal costs one, the last stays
		if got := fill(0); got != want {
			t.Errorf("round %d: %d connections, want %d", i, got, want)
		}
		empty(0)
	}
	if got := fill(9.9); got != 1 {
		t.Errorf("before it is forgiven: %d", got)
	}
	empty(9.9)
	if got := fill(20); got != 3 {
		t.Errorf("after: %d", got)
	}
}

func TestGateBanGrows(t *testing.T) {
	t.Parallel()
	var g gate
	var h slots
	b := &Behaviour{HostConnections: 1, PenaltyEvery: 1, PenaltyBan: time.Second}
	g.enter(ticks(0), b, &h)
	g.enter(ticks(0), b, &h) // refused: banned until 1
	g.leave(ticks(0), b.ReleaseLag, &h)
	for _, step := range []struct {
		at   float64
		want Cause
	}{{0.9, CauseBan} /* until 2.9 */, {2.8, CauseBan} /* until 5.8 */, {5.7, CauseBan} /* until 9.7 */, {9.7, ""}} {
		if got := g.enter(ticks(step.at), b, &h); got != step.want {
			t.Errorf("at %v: %q, want %q", step.at, got, step.want)
		}
	}
}

func TestShareIsExact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		share    float64
		of, hits int
	}{{0, 100, 0}, {1, 100, 100}, {0.25, 100, 25}, {0.29, 100, 29}, {0.02, 49, 0}, {0.02, 50, 1}, {1. / 3, 3000, 1000}} {
		var tn turn
		hits := 0
		for range c.of {
			if tn.hits(c.share) {
				hits++
			}
		}
		if hits != c.hits {
			t.Errorf("share %v hit %d of %d", c.share, hits, c.of)
		}
	}
}
