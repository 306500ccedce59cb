package orders

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
)

// What the breaker holds (package breaker) is a pause of one stream in one queue. An admin who
// resumes it knows better than the numbers: that is an order too, kept with the others and in
// the same write, and for ReleasedFor the breaker does not hold that stream there again.
//
// A queue that gets another name is another provider: what was held there goes on, and is counted
// anew.

// ReleasedFor is how long the breaker leaves alone what an admin has resumed. Complaints about
// the mail that goes on then come in for some days.
const ReleasedFor = 7 * 24 * time.Hour

// Hold pauses a stream at a provider for the breaker, until an admin resumes it. It returns
// false if it is paused already, or was resumed lately, or as much is paused as the breaker may.
func (o *Orders) Hold(stream, provider, reason string) bool {
	return o.pauseFor(control.Pause{Filter: control.Filter{Queue: provider, Stream: stream}, Reason: reason, Who: control.Breaker})
}

// isReleased says whether an admin has lately resumed what the breaker had paused.
func isReleased(s *control.StandingOrders, f control.Filter) bool {
	now := time.Now()
	return slices.ContainsFunc(s.Released, func(r control.Release) bool { return r.Filter == f && now.Before(r.Until) })
}

// release notes what an admin's change has resumed of what the breaker had paused, or has made
// his own: he has taken it over.
func release(old, next *control.StandingOrders, now time.Time) {
	for _, p := range old.Pauses {
		if p.Who != control.Breaker {
			continue
		}
		if x := pauseWith(next, p.Filter); x == nil || x.Who != p.Who {
			next.Released = append(next.Released, control.Release{Filter: p.Filter, Since: now, Until: now.Add(ReleasedFor)})
		}
	}
}

// HeldByBreaker are the pauses of the breaker, in the order of their Since.
func (o *Orders) HeldByBreaker() (list []control.Pause) {
	for _, p := range o.now.Load().Pauses {
		if p.Who == control.Breaker {
			list = append(list, p)
		}
	}
	return list
}

// BreakerTrouble is what an admin should look at of what the breaker holds; "" if it holds nothing.
func (o *Orders) BreakerTrouble() string {
	n := len(o.HeldByBreaker())
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s held by the breaker at one provider or more; see to the cause, then millrace resume (millrace brakes lists them)", streams(n))
}

// Streams lists the streams as the queue does; where the breaker holds one is what it waits for.
func (o *Orders) Streams() []queue.Stream {
	list := o.queue.Streams()
	for _, p := range o.HeldByBreaker() {
		for i := range list {
			if s := &list[i]; s.Name == p.Filter.Stream {
				if s.Waits != "" {
					s.Waits += "; "
				}
				s.Waits += "held at " + p.Filter.Queue + ", " + p.Reason
			}
		}
	}
	return list
}

// automatic says what of the agent itself made a pause; "" if an admin did.
func automatic(who string) string {
	switch {
	case who == control.Breaker:
		return "the breaker"
	case strings.HasPrefix(who, byRule):
		return "reply rules"
	}
	return ""
}
