package sink

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// newChance is a host's own, so that what is drawn there depends on the seed and on its
// own traffic alone.
func newChance(seed uint64, host string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(host))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// seat picks where a new connection has its place: at the host, or one of its backends.
func (h *host) seat(b *Behaviour) *slots {
	if b.Backends == 0 {
		return &h.slots
	}
	for len(h.backends) < b.Backends {
		h.backends = append(h.backends, new(slots))
	}
	return h.backends[h.chance.IntN(b.Backends)]
}

// lag is how long a connection that has just ended still counts as open.
func (h *host) lag(b *Behaviour) time.Duration {
	if b.ReleaseNoise == 0 || b.ReleaseLag == 0 {
		return b.ReleaseLag
	}
	return time.Duration(float64(b.ReleaseLag) * (1 + b.ReleaseNoise*(2*h.chance.Float64()-1)))
}

// working is how long the host works on a message while the provider has so many, this
// one counted.
func (h *host) working(b *Behaviour, n int64) time.Duration {
	d := b.working(n)
	if b.AcceptNoise == 0 {
		return d
	}
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	return time.Duration(float64(d) * (1 - b.AcceptNoise + b.AcceptNoise*h.chance.ExpFloat64()))
}
