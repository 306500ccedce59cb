package sink

import (
	"slices"
	"time"
)

// gate admits connections and messages of one provider: limits, rates and
// penalties. It knows no sockets and is told the time; its owner locks.
type gate struct {
	slots
	bucket      bucket
	refusals    int
	lastRefusal time.Time
	penalties   int
	bannedUntil time.Time
}

// slots counts open connections, and closed ones that still count.
type slots struct {
	open   int
	peak   int
	lagged []time.Time // when each closed connection stops counting, ascending enough
}

func (s *slots) held(now time.Time) int {
	s.lagged = slices.DeleteFunc(s.lagged, func(t time.Time) bool { return !t.After(now) })
	return s.open + len(s.lagged)
}

func (s *slots) take() {
	s.open++
	s.peak = max(s.peak, s.open)
}

func (s *slots) give(now time.Time, lag time.Duration) {
	s.open--
	if lag > 0 {
		s.lagged = append(s.lagged, now.Add(lag))
	}
}

// bucket is a token bucket. The zero value is full.
type bucket struct {
	tokens float64
	at     time.Time
}

func (k *bucket) take(now time.Time, rate, burst float64) bool {
	full := max(burst, 1)
	if k.at.IsZero() {
		k.tokens = full
	} else {
		k.tokens = min(full, k.tokens+rate*now.Sub(k.at).Seconds())
	}
	k.at = now
	if k.tokens < 1 {
		return false
	}
	k.tokens--
	return true
}

// enter asks for a connection to a host with the given slots. "" admits it,
// and leave must follow.
func (g *gate) enter(now time.Time, b *Behaviour, host *slots) Cause {
	if b.OverLimit != AtFirstMail {
		if c := g.tooMany(now, b, host, 1); c != "" {
			return c
		}
	}
	g.take()
	host.take()
	return ""
}

// begin asks whether a connection that has a place may begin its first message; ""
// allows it.
func (g *gate) begin(now time.Time, b *Behaviour, host *slots) Cause {
	if b.OverLimit != AtFirstMail {
		return ""
	}
	return g.tooMany(now, b, host, 0)
}

// tooMany says why so many more connections would be too many.
func (g *gate) tooMany(now time.Time, b *Behaviour, host *slots, more int) Cause {
	g.forget(now, b)
	switch {
	case now.Before(g.bannedUntil):
		g.refuse(now, b)
		return CauseBan
	case b.HostConnections > 0 && host.held(now)+more > g.shrunk(b, b.HostConnections),
		b.ProviderConnections > 0 && g.held(now)+more > g.shrunk(b, b.ProviderConnections):
		g.refuse(now, b)
		return CauseConnections
	}
	return ""
}

// leave gives the connection's place back, which counts for lag longer.
func (g *gate) leave(now time.Time, lag time.Duration, host *slots) {
	g.give(now, lag)
	host.give(now, lag)
}

// message asks for one message; "" allows it.
func (g *gate) message(now time.Time, b *Behaviour, host *bucket) Cause {
	if b.Rate == 0 {
		return ""
	}
	k := &g.bucket
	if b.RatePerHost {
		k = host
	}
	if k.take(now, b.Rate, b.Burst) {
		return ""
	}
	if !b.PenaltyConnections {
		g.forget(now, b)
		g.refuse(now, b)
	}
	return CauseRate
}

func (g *gate) refuse(now time.Time, b *Behaviour) {
	g.refusals++
	g.lastRefusal = now
	if b.PenaltyEvery == 0 || g.refusals%b.PenaltyEvery != 0 {
		return
	}
	g.penalties++
	if b.PenaltyBan > 0 {
		g.bannedUntil = now.Add(b.PenaltyBan * time.Duration(g.penalties))
	}
}

func (g *gate) forget(now time.Time, b *Behaviour) {
	if b.PenaltyForget > 0 && g.refusals > 0 && now.Sub(g.lastRefusal) >= b.PenaltyForget && !now.Before(g.bannedUntil) {
		g.refusals, g.penalties = 0, 0
	}
}

func (g *gate) shrunk(b *Behaviour, limit int) int {
	return max(1, limit-g.penalties*b.PenaltyShrink)
}
