package agent

import (
	"net/netip"
	"sync"
	"time"
)

// hosts is what is remembered of single addresses, whichever domain's mail
// brought it to light.
//
// First, a breaker for each: an address that did not answer is off for a while,
// longer after each failure, so that one dead host of two does not cost every
// second connect its timeout. When its time is over exactly one connect tries it
// while the others still pass it by; its answer switches the address on again.
// Only silence counts (no connection, or one that breaks before EHLO is done): a
// host that refuses us answers, and one whose TLS does not satisfy one domain
// may do for the next.
//
// Second, addresses where STARTTLS is offered and the handshake fails: where TLS
// is not required the next connects go without the attempt, unless the host then
// says that it takes no mail in the clear.
type hosts struct {
	mu    sync.Mutex
	down  map[netip.Addr]*failing
	noTLS map[netip.Addr]time.Time // until when
}

type failing struct {
	times   int
	noted   time.Time // when the last failure was
	until   time.Time
	probing bool // one connect is trying it
}

const (
	offFirst = 30 * time.Second // doubles with each failure
	offMost  = 10 * time.Minute
	noTLSFor = 15 * time.Minute
	// maxRemembered bounds each memory; past it, what is over goes, then any.
	maxRemembered = 10_000
)

// enter says whether a connect to an address may be made now. Who was let in
// says failed or answered later, unless the agent stops. alone says that there
// is no other address to go to: then one that is off is tried before its time,
// still by one connect at a time; how often is up to the caller (the queue
// probes a destination that is down at growing intervals).
func (h *hosts) enter(a netip.Addr, now time.Time, alone bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.down[a]
	switch {
	case f == nil:
		return true
	case f.probing || !alone && now.Before(f.until):
		return false
	}
	f.probing = true
	return true
}

// failed notes a connect, begun at a time, that got no answer. Connects begun
// before the last failure was noted saw the same trouble: they do not add to it.
func (h *hosts) failed(a netip.Addr, began, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.down[a]
	switch {
	case f == nil:
		if h.down == nil {
			h.down = make(map[netip.Addr]*failing)
		}
		makeRoom(h.down, func(f *failing) bool { return !f.probing && f.until.Before(now) })
		f = &failing{}
		h.down[a] = f
	case began.Before(f.noted):
		return
	}
	f.times++
	f.noted, f.probing = now, false
	f.until = now.Add(min(offFirst<<min(f.times-1, 8), offMost))
}

// answered forgets an address's failures.
func (h *hosts) answered(a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.down, a)
}

// tlsFailed notes that a handshake after STARTTLS failed.
func (h *hosts) tlsFailed(a netip.Addr, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noTLS == nil {
		h.noTLS = make(map[netip.Addr]time.Time)
	}
	makeRoom(h.noTLS, func(until time.Time) bool { return until.Before(now) })
	h.noTLS[a] = now.Add(noTLSFor)
}

// tlsBroken says whether STARTTLS lately failed there.
func (h *hosts) tlsBroken(a netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	until, ok := h.noTLS[a]
	if ok && until.Before(now) {
		delete(h.noTLS, a)
		ok = false
	}
	return ok
}

// tlsWanted forgets that STARTTLS failed, at a host that takes no mail without it,
// and says whether there was something to forget.
func (h *hosts) tlsWanted(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.noTLS[a]
	delete(h.noTLS, a)
	return ok
}

// makeRoom keeps a memory below its bound.
func makeRoom[V any](m map[netip.Addr]V, over func(V) bool) {
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
