package hosts

import (
	"net/netip"
	"testing"
	"time"
)

const hangAfter = 2 * time.Second

var deadHost = netip.MustParseAddr("192.0.2.1")

// enters says how many of n connects at a moment are let in.
func enters(h *Hosts, now time.Time, n int) (in int) {
	for range n {
		if h.Acquire(deadHost, now, false) {
			in++
		}
	}
	return in
}

func TestSilentHostIsTriedByOneConnectAtATime(t *testing.T) {
	t.Parallel()
	h := New(hangAfter)
	now := time.Unix(1_000_000, 0)
	if n := enters(h, now, 20); n != 20 {
		t.Fatalf("%d of 20 let in at a host nobody complained of", n)
	}
	// Twenty connects fail together: that is one failure, not twenty.
	for range 20 {
		h.Failed(deadHost, now, now.Add(time.Second))
	}
	off := now.Add(time.Second + offFirst)
	if n := enters(h, off.Add(-1), 20); n != 0 {
		t.Errorf("%d let in while it is off", n)
	}
	for i, d := 1, offFirst; i < 10; i++ {
		if n := enters(h, off, 20); n != 1 {
			t.Fatalf("round %d: %d let in when its time is over, want one", i, n)
		}
		h.Failed(deadHost, now, off) // a connect from before the failure: no word on the probe
		if n := enters(h, off.Add(time.Hour), 20); n != 0 {
			t.Fatalf("round %d: %d let in beside the probe", i, n)
		}
		h.Failed(deadHost, off, off.Add(time.Second))
		d = min(2*d, offMost)
		off = off.Add(time.Second + d)
		if n := enters(h, off.Add(-1), 20); n != 0 {
			t.Fatalf("round %d: %d let in before %v are over", i, n, d)
		}
	}
	if n := enters(h, off, 20); n != 1 {
		t.Fatalf("%d let in", n)
	}
	h.Answered(deadHost, off)
	if n := enters(h, off, 20); n != 20 {
		t.Errorf("%d of 20 let in after it answered", n)
	}
}

// With no other host to go to, the caller may probe before the time is over,
// still by one connect only.
func TestSoleHostMayBeProbedEarly(t *testing.T) {
	t.Parallel()
	h := New(hangAfter)
	now := time.Unix(1_000_000, 0)
	h.Failed(deadHost, now, now)
	if h.Acquire(deadHost, now.Add(time.Second), false) {
		t.Error("let in although others are there")
	}
	if !h.Acquire(deadHost, now.Add(time.Second), true) {
		t.Error("not let in although it is alone")
	}
	if h.Acquire(deadHost, now.Add(time.Second), true) {
		t.Error("a second probe beside the first")
	}
}

// A connect that gets no answer for long sends the others elsewhere before it
// times out, unless there is nowhere else to go; answers that come meanwhile show
// that the host is well.
func TestHostAtWhichAConnectHangsIsPassedBy(t *testing.T) {
	t.Parallel()
	h := New(hangAfter)
	now := time.Unix(1_000_000, 0)
	if !h.Acquire(deadHost, now, false) || !h.Acquire(deadHost, now.Add(hangAfter-1), false) {
		t.Fatal("not let in at a host nobody complained of")
	}
	now = now.Add(hangAfter)
	if h.Acquire(deadHost, now, false) {
		t.Error("let in although a connect hangs and others are there")
	}
	if !h.Acquire(deadHost, now, true) {
		t.Error("not let in although it is alone")
	}
	h.Answered(deadHost, now)
	if !h.Acquire(deadHost, now.Add(hangAfter-1), false) {
		t.Error("not let in though it has just answered")
	}
	for range 3 {
		h.Answered(deadHost, now)
	}
	if len(h.states) != 0 {
		t.Errorf("%d remembered of which nothing is to be told", len(h.states))
	}
}

// Refusals put an address behind its equals for a while, and then one connect at
// a time before them, until it lets us in. Else the one with fewer connections, up
// or under way, goes first.
func TestHostThatRefusesGoesBehindItsEquals(t *testing.T) {
	t.Parallel()
	h := New(hangAfter)
	at := func(addr string, preference uint16) Key {
		return Key{Addr: netip.MustParseAddr(addr), Preference: preference}
	}
	first := func(now time.Time) string {
		list := []Key{at("192.0.2.1", 10), at("192.0.2.2", 10), at("192.0.2.3", 20)}
		Order(h, list, func(k Key) Key { return k }, now)
		if list[2].Preference != 20 {
			t.Fatalf("the backup is not the last: %v", list)
		}
		return list[0].Addr.String()
	}
	now := time.Unix(1_000_000, 0)
	if got := first(now); got != deadHost.String() {
		t.Fatalf("%s goes first at the start", got)
	}
	for range 3 {
		h.Acquire(deadHost, now, false)
	}
	for range 3 { // together: one refusal
		h.Refused(deadHost, now, now.Add(time.Second))
	}
	now = now.Add(time.Second)
	if got := first(now.Add(offFirst - 1)); got == deadHost.String() {
		t.Error("goes first after a refusal")
	}
	now = now.Add(offFirst)
	if got := first(now); got != deadHost.String() {
		t.Error("is not tried again")
	}
	h.Acquire(deadHost, now, false)
	if got := first(now); got == deadHost.String() {
		t.Error("a second connect tries it, too")
	}
	other := netip.MustParseAddr("192.0.2.2")
	h.Refused(deadHost, now, now)
	h.Refused(other, now, now)
	if got := first(now); got != other.String() {
		t.Error("of two that refuse not the one that did so less is first")
	}
	h.Answered(deadHost, now)
	if got := first(now); got != deadHost.String() {
		t.Error("its refusals are not forgotten when it lets us in")
	}
	h.Answered(other, now)
	h.Acquire(deadHost, now, false)
	if got := first(now); got != other.String() {
		t.Error("the one that another connect is calling goes first")
	}
	h.Connected(deadHost, now)
	if got := first(now); got != other.String() {
		t.Error("the one with a connection goes first")
	}
	h.Disconnected(deadHost)
	if got := first(now); got != deadHost.String() {
		t.Error("a connection that ended still counts")
	}
	if len(h.states) != 0 {
		t.Errorf("%d remembered with nothing to remember", len(h.states))
	}
}

func TestHostMemoriesAreBounded(t *testing.T) {
	t.Parallel()
	h := New(hangAfter)
	now := time.Unix(1_000_000, 0)
	a := netip.MustParseAddr("2001:db8::")
	for range maxRemembered + 100 {
		a = a.Next()
		h.Failed(a, now, now)
		if h.Acquire(a, now, false) {
			t.Fatal("the latest is not remembered")
		}
	}
	if len(h.states) > maxRemembered {
		t.Errorf("%d remembered", len(h.states))
	}
	// What is over goes first: one that is off still is kept.
	later := now.Add(time.Hour)
	h.Failed(deadHost, now, later)
	h.Failed(a.Next(), later, later)
	if len(h.states) != 2 {
		t.Errorf("%d remembered of which all but two are over", len(h.states))
	}
}
