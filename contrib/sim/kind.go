package sim

import (
	"fmt"
	"math"
	"time"
)

// Kind is a kind of receiver, and what a sender must reach there.
type Kind struct {
	Name     string
	Receiver Receiver

	Sessions int // the site's max_sessions; 200 if not given
	Sources  int // source addresses, each with a controller of its own; 1 if not given

	HostEvery  time.Duration // mean time between the host's own messages; 0: it sends none
	HostPace   Course        // factor on how often
	HostUntold bool          // the controller does not hear of them
	Suspended  Span          // a clamp forbids all connections
	Lowered    float64       // the limit from the first probe that is refused after loweredFrom, until Lifted; 0: not lowered
	Lifted     time.Duration // when the receiver allows more again; 0: never

	Length   time.Duration // of the simulation
	Learning time.Duration // from the start, not counted as steady
	Marks    Marks
}

// Span is a time from one moment to before another.
type Span struct{ From, To time.Duration }

func (s Span) has(t time.Duration) bool { return s.From <= t && t < s.To }

// Marks are what must be reached. Zero means the mark of all kinds.
type Marks struct {
	Goodput  float64 // at least
	Refusals float64 // at most, over the first 10 minutes
	Start    float64 // transaction times, at most
	Recovery float64 // of what is allowed, at most
	Host     float64 // refusals of the host's mail above those it has alone, at most
	Why      string  // why a mark is another than that of all kinds
}

// The marks of all kinds.
const (
	goodputMark  = 0.85
	refusalMark  = 0.02
	penaltyMark  = 0.001 // where penalties grow with each refusal
	startMark    = 30
	recoveryMark = 1
	hostMark     = 0.01
)

// loweredFrom is when a controller is at its limit and only probes are refused.
const loweredFrom = 5 * time.Minute

func (k *Kind) sources() int { return max(1, k.Sources) }

func (k *Kind) sessions() int {
	if k.Sessions > 0 {
		return k.Sessions
	}
	return 200
}

// Possible is the goodput that the receiver allows at a time, messages a second.
// What the host's own mail needs, so that no more than hostMark of its connections
// find none, is not there for us.
func (k *Kind) Possible(at time.Duration) float64 {
	if k.Suspended.has(at) {
		return 0
	}
	p := k.Receiver.Possible(at, k.sessions())
	if !k.Receiver.Shared {
		p *= float64(k.sources())
	}
	if limit, ok := k.Receiver.Limit.at(at); ok && k.HostEvery > 0 {
		p *= 1 - float64(k.hostPlaces(at))/limit
	}
	return p
}

// hostPlaces is how many slots the host's own mail needs, those that the receiver frees
// late included, by Erlang's loss formula.
func (k *Kind) hostPlaces(at time.Duration) int {
	if k.HostEvery == 0 {
		return 0
	}
	busy := (hostLife(&k.Receiver) + k.Receiver.Lag).Seconds() / k.HostEvery.Seconds()
	if x, ok := k.HostPace.at(at); ok {
		busy *= x
	}
	lost, n := 1.0, 0
	for ; lost > hostMark; n++ {
		lost = busy * lost / (float64(n+1) + busy*lost)
	}
	return n
}

// marks are the kind's, with those of all kinds filled in.
func (k *Kind) marks() Marks {
	m := k.Marks
	fill := func(v *float64, of float64) {
		if *v == 0 {
			*v = of
		}
	}
	fill(&m.Goodput, goodputMark)
	if r := &k.Receiver; r.Ban > 0 || r.Shrink > 0 {
		fill(&m.Refusals, penaltyMark)
	}
	fill(&m.Refusals, refusalMark)
	fill(&m.Start, startMark)
	fill(&m.Recovery, recoveryMark)
	fill(&m.Host, hostMark)
	return m
}

// Misses are the marks that are not reached, in words; none is good.
func (k *Kind) Misses(f *Figures) (misses []string) {
	m := k.marks()
	miss := func(format string, args ...any) { misses = append(misses, fmt.Sprintf(format, args...)) }
	if f.Goodput < m.Goodput {
		miss("goodput %.3f of the possible, want %.2f", f.Goodput, m.Goodput)
	}
	if f.Refusals > m.Refusals {
		miss("%.3f%% refused in 10 minutes, want at most %.2f%%", 100*f.Refusals, 100*m.Refusals)
	}
	if f.Start > m.Start && !math.IsInf(m.Start, 1) {
		miss("90%% of the possible after %.1f transaction times, want %.0f", f.Start, m.Start)
	}
	if k.Lifted > 0 && f.Recovery > m.Recovery*f.Allowed {
		miss("%.0f s to find the lifted limit, want %.0f", f.Recovery, m.Recovery*f.Allowed)
	}
	if k.HostEvery > 0 && !k.HostUntold && f.Host > f.HostAlone+m.Host {
		miss("%.2f%% of the host's connections refused, %.2f%% alone", 100*f.Host, 100*f.HostAlone)
	}
	if f.Quiet > 0 {
		miss("%d connects during the suspension", f.Quiet)
	}
	return misses
}
