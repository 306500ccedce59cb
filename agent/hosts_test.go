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
	h.answered(deadHost, off)
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

// A connect that gets no answer for long sends the others elsewhere before it
// times out, unless there is nowhere else to go; answers that come meanwhile show
// that the host is well.
func TestHostAtWhichAConnectHangsIsPassedBy(t *testing.T) {
	t.Parallel()
	var h hosts
	now := time.Unix(1_000_000, 0)
	if !h.enter(deadHost, now, false) || !h.enter(deadHost, now.Add(hangAfter-1), false) {
		t.Fatal("not let in at a host nobody complained of")
	}
	now = now.Add(hangAfter)
	if h.enter(deadHost, now, false) {
		t.Error("let in although a connect hangs and others are there")
	}
	if !h.enter(deadHost, now, true) {
		t.Error("not let in although it is alone")
	}
	h.answered(deadHost, now)
	if !h.enter(deadHost, now.Add(hangAfter-1), false) {
		t.Error("not let in though it has just answered")
	}
	for range 3 {
		h.answered(deadHost, now)
	}
	if len(h.met) != 0 {
		t.Errorf("%d remembered of which nothing is to be told", len(h.met))
	}
}

// Refusals put an address behind its equals for a while, and then one connect at
// a time before them, until it lets us in. Else the one with fewer connections, up
// or under way, goes first.
func TestHostThatRefusesGoesBehindItsEquals(t *testing.T) {
	t.Parallel()
	var h hosts
	at := func(addr string, preference uint16) peer {
		return peer{name: addr, addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 25), preference: preference}
	}
	first := func(now time.Time) string {
		peers := []peer{at("192.0.2.1", 10), at("192.0.2.2", 10), at("192.0.2.3", 20)}
		h.order(peers, now)
		if peers[2].preference != 20 {
			t.Fatalf("the backup is not the last: %v", peers)
		}
		return peers[0].name
	}
	now := time.Unix(1_000_000, 0)
	if got := first(now); got != deadHost.String() {
		t.Fatalf("%s goes first at the start", got)
	}
	for range 3 {
		h.enter(deadHost, now, false)
	}
	for range 3 { // together: one refusal
		h.refused(deadHost, now, now.Add(time.Second))
	}
	now = now.Add(time.Second)
	if got := first(now.Add(offFirst - 1)); got == deadHost.String() {
		t.Error("goes first after a refusal")
	}
	now = now.Add(offFirst)
	if got := first(now); got != deadHost.String() {
		t.Error("is not tried again")
	}
	h.enter(deadHost, now, false)
	if got := first(now); got == deadHost.String() {
		t.Error("a second connect tries it, too")
	}
	other := netip.MustParseAddr("192.0.2.2")
	h.refused(deadHost, now, now)
	h.refused(other, now, now)
	if got := first(now); got != other.String() {
		t.Error("of two that refuse not the one that did so less is first")
	}
	h.answered(deadHost, now)
	if got := first(now); got != deadHost.String() {
		t.Error("its refusals are not forgotten when it lets us in")
	}
	h.answered(other, now)
	h.enter(deadHost, now, false)
	if got := first(now); got != other.String() {
		t.Error("the one that another connect is calling goes first")
	}
	h.connected(deadHost, now)
	if got := first(now); got != other.String() {
		t.Error("the one with a connection goes first")
	}
	h.left(deadHost)
	if got := first(now); got != deadHost.String() {
		t.Error("a connection that ended still counts")
	}
	if len(h.met) != 0 {
		t.Errorf("%d remembered with nothing to remember", len(h.met))
	}
}

func TestBrokenTLSIsRememberedForAWhile(t *testing.T) {
	t.Parallel()
	var h hosts
	now := time.Unix(1_000_000, 0)
	dead := endpoint{"mx.test", netip.AddrPortFrom(deadHost, 25)}
	if h.tlsBroken(dead, now) {
		t.Error("broken before anything happened")
	}
	h.tlsFailed(dead, now)
	if !h.tlsBroken(dead, now.Add(noTLSFor)) {
		t.Error("forgotten early")
	}
	for _, other := range []endpoint{{"mx2.test", dead.addr}, {"", dead.addr}, {"mx.test", netip.AddrPortFrom(deadHost, 26)}} {
		if h.tlsBroken(other, now) || h.tlsWanted(other) {
			t.Errorf("said of %v, too", other)
		}
	}
	if h.tlsBroken(dead, now.Add(noTLSFor+1)) || len(h.noTLS) != 0 {
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
		at := endpoint{"mx.test", netip.AddrPortFrom(a, 25)}
		h.failed(a, now, now)
		h.tlsFailed(at, now)
		if h.enter(a, now, false) || !h.tlsBroken(at, now) {
			t.Fatal("the latest is not remembered")
		}
	}
	if len(h.met) > maxRemembered || len(h.noTLS) > maxRemembered {
		t.Errorf("%d and %d remembered", len(h.met), len(h.noTLS))
	}
	// What is over goes first: one that is off still is kept.
	later := now.Add(time.Hour)
	h.failed(deadHost, now, later)
	h.failed(a.Next(), later, later)
	if len(h.met) != 2 {
		t.Errorf("%d remembered of which all but two are over", len(h.met))
	}
}
