package agent

import (
	"net/netip"
	"sync"
	"time"
)

// hosts remembers which addresses did not answer, so that one dead host of two
// does not cost every second connect its timeout. An address that failed is
// tried last until its time is over; then one connect tries it again.
type hosts struct {
	mu   sync.Mutex
	down map[netip.Addr]failing
}

type failing struct {
	times int
	until time.Time
}

const (
	avoidFirst = 30 * time.Second
	avoidMost  = 10 * time.Minute
)

// avoid reports whether an address should be tried last. When an address's
// time is over, the first caller gets to try it, and others go on avoiding it
// for as long again.
func (h *hosts) avoid(a netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, ok := h.down[a]
	if !ok {
		return false
	}
	if f.until.After(now) {
		return true
	}
	f.until = now.Add(avoidFirst)
	h.down[a] = f
	return false
}

// failed notes a connect without an answer.
func (h *hosts) failed(a netip.Addr, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down == nil {
		h.down = make(map[netip.Addr]failing)
	}
	if len(h.down) > maxDown {
		for old, f := range h.down {
			if f.until.Before(now) {
				delete(h.down, old)
			}
		}
	}
	f := h.down[a]
	f.times++
	f.until = now.Add(min(avoidFirst<<min(f.times-1, 8), avoidMost))
	h.down[a] = f
}

// maxDown bounds the memory: past it, entries whose time is over go.
const maxDown = 10_000

// answered forgets an address's failures.
func (h *hosts) answered(a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.down, a)
}
