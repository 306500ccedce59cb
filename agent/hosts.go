package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/queue"
)

// hosts is what is remembered of single addresses, whichever domain's mail
// brought it to light. Of equals the one with the fewest connections is called
// first: each then gets its share of the mail, and a limit that every host has to
// itself is met by all at the same time.
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
// they may have room. What only stands in for it does not, since most such limits
// hold for all hosts of a site.
//
// Third, hosts where STARTTLS is offered and the handshake fails: where TLS
// is not required the next connects go without the attempt, unless the host then
// says that it takes no mail in the clear. Unlike the rest this is kept by name
// and address: a handshake may fail for the name alone (SNI), and whoever has a
// name of his own lead to another's address must not take that one's TLS away.
type hosts struct {
	mu    sync.Mutex
	met   map[netip.Addr]*met    // those in trouble or being called
	noTLS map[endpoint]time.Time // until when
}

// endpoint is a host as a domain's mail finds it: the name that its MX record or
// the relay gives, "" for an address literal, at one of its addresses.
type endpoint struct {
	name string
	addr netip.AddrPort
}

// met is an address's breaker, its refusals, and our connections to it.
type met struct {
	times   int       // failures in a row
	noted   time.Time // when the last failure or refusal was
	until   time.Time
	probing bool // one connect is trying it

	refusals int       // in a row
	yields   time.Time // its equals go first until then

	open  int       // connections that are up
	calls int       // connects under way
	news  time.Time // when the first of these began, or the last one ended
}

const (
	offFirst = 30 * time.Second // doubles with each failure
	offMost  = 10 * time.Minute
	// hangAfter is how long a connect may wait until others go elsewhere.
	hangAfter = queue.HangAfter
	noTLSFor  = 15 * time.Minute
	// maxRemembered bounds each memory; past it, what is over goes, then any.
	maxRemembered = 10_000
)

// off says whether connects pass the address by while there is another.
func (m *met) off(now time.Time) bool {
	return m.probing || now.Before(m.until) || m.calls > 0 && now.Sub(m.news) >= hangAfter
}

// enter says whether a connect to an address may be made now. Who was let in
// says failed or answered later, unless the agent stops. alone says that there
// is no other address to go to: then one that is off is tried before its time,
// after failures still by one connect at a time; how often is up to the caller
// (the queue probes a destination that is down at growing intervals).
func (h *hosts) enter(a netip.Addr, now time.Time, alone bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	if m.probing || !alone && m.off(now) {
		return false
	}
	m.probing = m.times > 0
	if m.refusals > 0 && !now.Before(m.yields) {
		m.yields = now.Add(offFirst) // this connect shows whether it still refuses
	}
	if m.calls++; m.calls == 1 {
		m.news = now
	}
	return true
}

// at is what is remembered of an address.
func (h *hosts) at(a netip.Addr, now time.Time) *met {
	m := h.met[a]
	if m == nil {
		if h.met == nil {
			h.met = make(map[netip.Addr]*met)
		}
		makeRoom(h.met, func(m *met) bool { return m.calls+m.open == 0 && m.until.Before(now) && m.yields.Before(now) })
		m = &met{}
		h.met[a] = m
	}
	return m
}

// ended notes that a connect is no longer under way.
func (m *met) ended(now time.Time) {
	m.calls = max(0, m.calls-1)
	m.news = now
}

// order puts, among peers of the same preference, those of the favoured source's
// family first, then those that lately refused us last, and before that those with
// fewer connections, up or under way, first.
func (h *hosts) order(peers []peer, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := func(p peer) (refusals, connections int) {
		m := h.met[p.addr.Addr()]
		switch {
		case m == nil:
			return 0, 0
		case now.Before(m.yields):
			return m.refusals, m.calls + m.open
		}
		return 0, m.calls + m.open
	}
	rank := func(p peer) int {
		if p.otherwise {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(peers, func(x, y peer) int {
		xRefusals, xOpen := known(x)
		yRefusals, yOpen := known(y)
		return cmp.Or(cmp.Compare(x.preference, y.preference), cmp.Compare(rank(x), rank(y)), cmp.Compare(xRefusals, yRefusals), cmp.Compare(xOpen, yOpen))
	})
}

// failed notes a connect, begun at a time, that got no answer. Connects begun
// before the last failure was noted saw the same trouble: they do not add to it.
func (h *hosts) failed(a netip.Addr, began, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	m.ended(now)
	if m.times > 0 && began.Before(m.noted) {
		return
	}
	m.times++
	m.noted, m.probing = now, false
	m.until = now.Add(backoff(m.times))
}

// refused likewise notes a connect that was refused for being one too many.
func (h *hosts) refused(a netip.Addr, began, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	m.ended(now)
	m.times, m.until, m.probing = 0, time.Time{}, false
	if m.refusals > 0 && began.Before(m.noted) {
		return
	}
	m.refusals++
	m.noted = now
	m.yields = now.Add(backoff(m.refusals))
}

func backoff(times int) time.Duration { return min(offFirst<<min(times-1, 8), offMost) }

// answered notes a connect that got an answer, and forgets what was wrong before.
func (h *hosts) answered(a netip.Addr, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.met[a]
	if m == nil {
		return
	}
	m.ended(now)
	h.forget(a, m)
}

// connected notes a connect that brought a connection, until left.
func (h *hosts) connected(a netip.Addr, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.at(a, now)
	m.ended(now)
	m.open++
	h.forget(a, m)
}

// left notes the end of a connection.
func (h *hosts) left(a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.met[a]
	if m == nil {
		return
	}
	m.open = max(0, m.open-1)
	if m.open+m.calls == 0 && m.times+m.refusals == 0 {
		delete(h.met, a)
	}
}

// forget leaves of an address only our connections to it.
func (h *hosts) forget(a netip.Addr, m *met) {
	if m.open+m.calls == 0 {
		delete(h.met, a)
		return
	}
	*m = met{open: m.open, calls: m.calls, news: m.news}
}

// tlsFailed notes that a handshake after STARTTLS failed.
func (h *hosts) tlsFailed(at endpoint, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noTLS == nil {
		h.noTLS = make(map[endpoint]time.Time)
	}
	makeRoom(h.noTLS, func(until time.Time) bool { return until.Before(now) })
	h.noTLS[at] = now.Add(noTLSFor)
}

// tlsBroken says whether STARTTLS lately failed there.
func (h *hosts) tlsBroken(at endpoint, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	until, ok := h.noTLS[at]
	if ok && until.Before(now) {
		delete(h.noTLS, at)
		ok = false
	}
	return ok
}

// tlsWanted forgets that STARTTLS failed, at a host that takes no mail without it,
// and says whether there was something to forget.
func (h *hosts) tlsWanted(at endpoint) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.noTLS[at]
	delete(h.noTLS, at)
	return ok
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
