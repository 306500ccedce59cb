// Package hosts remembers how single addresses have answered, and orders those of a
// destination by it.
//
// Hosts owns what is remembered of addresses, whichever domain's mail brought it to
// light. Of equals the one with the fewest connections is called first: each then gets
// its share of the mail, and a limit that every host has to itself is met by all at the
// same time.
//
// First, a breaker for each: an address that did not answer is off for a while,
// longer after each failure, so that one dead host of two does not cost every
// second connect its timeout. When its time is over exactly one connect tries it
// while the others still pass it by; its answer switches the address on again.
// Only silence counts (no connection, or one that breaks before EHLO is done): a
// host that refuses us answers, and one whose TLS does not satisfy one domain
// may do for the next. An address at which a connect has waited for some seconds is
// passed by even before that one times out.
//
// Second, how often in a row an address refused us for being one too many. For a
// while, longer each time, its equals go before it, those that refused less first:
// they may have room. Hosts of a worse preference do not go before it, since most such limits
// hold for all hosts of a site.
//
// A caller orders its hosts (Order) and asks for each in turn with Acquire, which says
// whether a connect may be made now. The caller must report the end of every connect
// that was let in, with Failed, Refused, Answered or Connected, and of every connection
// with Disconnected; when the agent stops it need not. What is remembered is bounded, and
// no method waits or calls out.
//
// The package imports nothing of Millrace, so that simulations use it as the agent does.
// The terms are explained in agent/doc.go.
package hosts

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Hosts remembers single addresses. Its methods may be called by many goroutines.
type Hosts struct {
	hangAfter time.Duration

	mu     sync.Mutex
	states map[netip.Addr]*hostState // those in trouble or being called
}

// New returns Hosts that remember nothing. A connect that takes hangAfter counts as one
// that hangs: others then go elsewhere.
func New(hangAfter time.Duration) *Hosts { return &Hosts{hangAfter: hangAfter} }

// hostState is an address's breaker, its refusals, and our connections to it.
type hostState struct {
	failures    int       // failures in a row
	lastTrouble time.Time // when the last failure or refusal was
	until       time.Time
	probing     bool // one connect is trying it

	refusals   int       // in a row
	yieldUntil time.Time // its equals go first until then

	open  int       // connections that are up
	calls int       // connects under way
	since time.Time // when the first of these began, or the last one ended
}

const (
	offFirst = 30 * time.Second // doubles with each failure
	offMost  = 10 * time.Minute
	// maxRemembered bounds the memory; past it, what is over goes, then any.
	maxRemembered = 10_000
)

// off says whether connects pass the address by while there is another.
func (m *hostState) off(now time.Time, hangAfter time.Duration) bool {
	return m.probing || now.Before(m.until) || m.calls > 0 && now.Sub(m.since) >= hangAfter
}

// Acquire says whether a connect to an address may be made now. The
// caller must report the end of a connect that may, with Failed, Refused, Answered or
// Connected, unless the agent stops. alone says that there is no other address to go
// to: then one that is off is tried before its time, after failures still by one connect
// at a time; how often is up to the caller (the queue probes a destination that is down
// at growing intervals).
func (h *Hosts) Acquire(a netip.Addr, now time.Time, alone bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	if m.probing || !alone && m.off(now, h.hangAfter) {
		return false
	}
	m.probing = m.failures > 0
	if m.refusals > 0 && !now.Before(m.yieldUntil) {
		m.yieldUntil = now.Add(offFirst) // this connect shows whether it still refuses
	}
	if m.calls++; m.calls == 1 {
		m.since = now
	}
	return true
}

// at is what is remembered of an address.
func (h *Hosts) at(a netip.Addr, now time.Time) *hostState {
	m := h.states[a]
	if m == nil {
		if h.states == nil {
			h.states = make(map[netip.Addr]*hostState)
		}
		makeRoom(h.states, func(m *hostState) bool { return m.calls+m.open == 0 && m.until.Before(now) && m.yieldUntil.Before(now) })
		m = &hostState{}
		h.states[a] = m
	}
	return m
}

// ended notes that a connect is no longer under way.
func (m *hostState) ended(now time.Time) {
	m.calls = max(0, m.calls-1)
	m.since = now
}

// Key is what an address is ordered by.
type Key struct {
	Addr       netip.Addr
	Preference uint16 // of the MX record, the lowest first
	Otherwise  bool   // it is of another family than the favoured source
}

// Order puts, among entries of the same preference, those of the favoured source's
// family first, then those that lately refused us last, and before that those with
// fewer connections, up or under way, first.
func Order[T any](h *Hosts, list []T, key func(T) Key, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := func(k Key) (refusals, connections int) {
		m := h.states[k.Addr]
		switch {
		case m == nil:
			return 0, 0
		case now.Before(m.yieldUntil):
			return m.refusals, m.calls + m.open
		}
		return 0, m.calls + m.open
	}
	rank := func(k Key) int {
		if k.Otherwise {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b T) int {
		x, y := key(a), key(b)
		xRefusals, xOpen := known(x)
		yRefusals, yOpen := known(y)
		return cmp.Or(cmp.Compare(x.Preference, y.Preference), cmp.Compare(rank(x), rank(y)), cmp.Compare(xRefusals, yRefusals), cmp.Compare(xOpen, yOpen))
	})
}

// Failed notes a connect, begun at a time, that got no answer. Connects begun
// before the last failure was noted saw the same trouble: they do not add to it.
func (h *Hosts) Failed(a netip.Addr, began, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	m.ended(now)
	if m.failures > 0 && began.Before(m.lastTrouble) {
		return
	}
	m.failures++
	m.lastTrouble, m.probing = now, false
	m.until = now.Add(backoff(m.failures))
}

// Refused likewise notes a connect that was refused for being one too many.
func (h *Hosts) Refused(a netip.Addr, began, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	m.ended(now)
	m.failures, m.until, m.probing = 0, time.Time{}, false
	if m.refusals > 0 && began.Before(m.lastTrouble) {
		return
	}
	m.refusals++
	m.lastTrouble = now
	m.yieldUntil = now.Add(backoff(m.refusals))
}

func backoff(times int) time.Duration { return min(offFirst<<min(times-1, 8), offMost) }

// Answered notes a connect that got an answer, and forgets what was wrong before.
func (h *Hosts) Answered(a netip.Addr, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.states[a]
	if m == nil {
		return
	}
	m.ended(now)
	h.forget(a, m)
}

// Connected notes a connect that brought a connection, until left.
func (h *Hosts) Connected(a netip.Addr, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	m.ended(now)
	m.open++
	h.forget(a, m)
}

// Disconnected notes the end of a connection.
func (h *Hosts) Disconnected(a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.states[a]
	if m == nil {
		return
	}
	m.open = max(0, m.open-1)
	if m.open+m.calls == 0 && m.failures+m.refusals == 0 {
		delete(h.states, a)
	}
}

// forget leaves of an address only our connections to it.
func (h *Hosts) forget(a netip.Addr, m *hostState) {
	if m.open+m.calls == 0 {
		delete(h.states, a)
		return
	}
	*m = hostState{open: m.open, calls: m.calls, since: m.since}
}

// makeRoom keeps a memory below its bound.
func makeRoom[K comparable, V any](m map[K]V, over func(V) bool) {
	if len(m) < maxRemembered {
		return
	}
	for a, v := range m {
		if over(v) {
			delete(m, a)
		}
	}
	for a := range m {
		if len(m) < maxRemembered {
			return
		}
		delete(m, a)
	}
}
