package agent

import (
	"net/netip"
	"testing"
	"time"
)

var deadHost = netip.MustParseAddr("192.0.2.1")

// enters says how many of n connects at a moment are let in.
func enters(h *hosts, now time.Time, n int) (in int) {
	for range n {
		if h.enter(deadHost, now, false) {
			in++
		}
	}
	return in
}

func TestSilentHostIsTriedByOneConnectAtATime(t *testing.T) {
	t.Parallel()
	var h hosts
	now := time.Unix(1_000_000, 0)
	if n := enters(&h, now, 20); n != 20 {
		t.Fatalf("%d of 20 let in at a host nobody complained of", n)
	}
	// Twenty connects fail together: that is one failure, not twenty.
	for range 20 {
		h.failed(deadHost, now, now.Add(time.Second))
	}
	off := now.Add(time.Second + offFirst)
	if n := enters(&h, off.Add(-1), 20); n != 0 {
		t.Errorf("%d let in while it is off", n)
	}
	for i, d := 1, offFirst; i < 10; i++ {
		if n := enters(&h, off, 20); n != 1 {
			t.Fatalf("round %d: %d let in when its time is over, want one", i, n)
		}
		h.failed(deadHost, now, off) // a connect from before the failure: no word on the probe
		if n := enters(&h, off.Add(time.Hour), 20); n != 0 {
			t.Fatalf("round %d: %d let in beside the probe", i, n)
		}
		h.failed(deadHost, off, off.Add(time.Second))
		d = min(2*d, offMost)
		off = off.Add(time.Second + d)
		if n := enters(&h, off.Add(-1), 20); n != 0 {
			t.Fatalf("round %d: %d let in before %v are over", i, n, d)
		}
	}
	if n := enters(&h, off, 20); n != 1 {
		t.Fatalf("%d let in", n)
	}
	h.answered(deadHost)
	if n := enters(&h, off, 20); n != 20 {
		t.Errorf("%d of 20 let in after it answered", n)
	}
}

// With no other host to go to, the caller may probe before the time is over,
// still by one connect only.
func TestSoleHostMayBeProbedEarly(t *testing.T) {
	t.Parallel()
	var h hosts
	now := time.Unix(1_000_000, 0)
	h.failed(deadHost, now, now)
	if h.enter(deadHost, now.Add(time.Second), false) {
		t.Error("let in although others are there")
	}
	if !h.enter(deadHost, now.Add(time.Second), true) {
		t.Error("not let in although it is alone")
	}
	if h.enter(deadHost, now.Add(time.Second), true) {
		t.Error("a second probe beside the first")
	}
}

func TestBrokenTLSIsRememberedForAWhile(t *testing.T) {
	t.Parallel()
	var h hosts
	now := time.Unix(1_000_000, 0)
	if h.tlsBroken(deadHost, now) {
		t.Error("broken before anything happened")
	}
	h.tlsFailed(deadHost, now)
	if !h.tlsBroken(deadHost, now.Add(noTLSFor)) {
		t.Error("forgotten early")
	}
	if h.tlsBroken(deadHost, now.Add(noTLSFor+1)) || len(h.noTLS) != 0 {
		t.Error("not forgotten")
	}
}

func TestHostMemoriesAreBounded(t *testing.T) {
	t.Parallel()
	var h hosts
	now := time.Unix(1_000_000, 0)
	a := netip.MustParseAddr("2001:db8::")
	for range maxRemembered + 100 {
		a = a.Next()
		h.failed(a, now, now)
		h.tlsFailed(a, now)
		if h.enter(a, now, false) || !h.tlsBroken(a, now) {
			t.Fatal("the latest is not remembered")
		}
	}
	if len(h.down) > maxRemembered || len(h.noTLS) > maxRemembered {
		t.Errorf("%d and %d remembered", len(h.down), len(h.noTLS))
	}
	// What is over goes first: one that is off still is kept.
	later := now.Add(time.Hour)
	h.failed(deadHost, now, later)
	h.failed(a.Next(), later, later)
	if len(h.down) != 2 {
		t.Errorf("%d remembered of which all but two are over", len(h.down))
	}
}
