package orders

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// What the breaker holds (package breaker) is a pause of one stream in one queue. An admin who
// resumes it knows better than the numbers: that is an order too, kept with the others and in
// the same write, and for ReleasedFor the breaker does not hold that stream there again.

// ReleasedFor is how long the breaker leaves alone what an admin has resumed. Complaints about
// the mail that goes on then come in for some days.
const ReleasedFor = 7 * 24 * time.Hour

// Hold pauses a stream at a provider for the breaker, until an admin resumes it. It returns
// false if it is paused already, or was resumed lately, or as much is paused as the breaker may.
func (o *Orders) Hold(stream, provider, reason string) bool {
	f := control.Filter{Queue: provider, Stream: stream}
	now := time.Now()
	for _, r := range o.now.Load().Released {
		if r.Filter == f && now.Before(r.Until) {
			return false
		}
	}
	return o.pauseFor(control.Pause{Filter: f, Reason: reason, Since: now, Who: control.Breaker})
}

// release notes what a change has resumed of what the breaker had paused.
func release(old, next *control.StandingOrders, now time.Time) {
	for _, p := range old.Pauses {
		if p.Who == control.Breaker && !slices.ContainsFunc(next.Pauses, func(x control.Pause) bool { return x.Filter == p.Filter && x.Who == p.Who }) {
			next.Released = append(next.Released, control.Release{Filter: p.Filter, Since: now, Until: now.Add(ReleasedFor)})
		}
	}
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
