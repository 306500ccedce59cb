package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// ownAffair is how many messages in a row one address alone refuses as too fast, until it
// gets a pace of its own.
const ownAffair = 4

// TooFast notes a message, begun at a time, that was refused for the rate.
func (s *Site) TooFast(x *slots.Slot, now, began time.Time, reply string) {
	s.run(now)
	a := x.Address
	if s.fast != a {
		s.fast, s.fastRow = a, 0
	}
	s.fastRow++
	// Evenly filled hosts answer alike whether each has a limit of its own or all have
	// one together, so the site's pace serves both. One that alone refuses, again and
	// again, gets a pace of its own.
	p, n, who := &s.pace, max(1, s.active()), "each address"
	if a.Pace.Value > 0 || s.fastRow >= ownAffair && n > 1 {
		p, n, who = &a.Pace, 1, "it alone"
	}
	if p.TooFast(now, began, n) {
		a.Reply = reply
		s.record(now, s.want, fmt.Sprintf("too fast for %s at %.3g messages/s accepted, pace of %s now %.3g/s: %s", a.Key.Host.Addr(), p.Rate(now, n), who, p.Value, reply))
	}
	if x.Up() && !x.Proven() { // it was the rate that was refused, not the slot
		s.prove(x, now)
	}
}

// Unslow forgets the pace: what was refused was not for speed.
func (s *Site) Unslow(now time.Time, cause string) {
	s.pace.Forget()
	for _, a := range s.addresses {
		a.Pace.Forget()
	}
	s.fast = nil
	s.record(now, s.want, cause)
}

// MayBegin is how long a session must wait until it may begin a message; it takes the
// token if that is now.
func (s *Site) MayBegin(x *slots.Slot, now time.Time) time.Duration {
	a := x.Address
	all := tighter(s.pace.Value*float64(s.active()), s.rate(now))
	wait := s.bucket.Wait(now, all)
	var spaced *slots.Bucket
	if s.pace.Value > 0 {
		// A little more at each than its share, so that all of them together reach theirs.
		spaced = s.spaced(a)
		wait = max(wait, spaced.Wait(now, 1.1*s.pace.Value))
	} else {
		s.spacing = nil
	}
	wait = max(wait, a.Bucket.Wait(now, a.Pace.Value))
	if wait == 0 {
		a.Bucket.Take()
		s.bucket.Take()
		if spaced != nil {
			spaced.Take()
		}
	}
	return wait
}

// rate is how many messages a second a limit or a clamp allows; 0: any number.
func (s *Site) rate(now time.Time) float64 {
	if cl, ok := s.Clamped(now); ok {
		return tighter(s.maxRate(), cl.Pace)
	}
	return s.maxRate()
}

// maxRate is the part of the limits' rate that is this agent's.
func (s *Site) maxRate() float64 {
	if s.part > 0 {
		return s.part * s.limits.MaxRate
	}
	return s.limits.MaxRate
}

// Share says which part of the limits' rate this agent may use, where others share them: above 0
// and at most 1; 0 is all of it.
func (s *Site) Share(part float64) { s.part = part }

// spaced is what spaces the site's messages at an address.
func (s *Site) spaced(a *slots.Address) *slots.Bucket {
	b := s.spacing[a]
	if b == nil {
		if s.spacing == nil || len(s.spacing) >= 2*mostAddresses {
			s.spacing = make(map[*slots.Address]*slots.Bucket)
		}
		last := a.Bucket // of before the pace: it knows when the last message was
		b = &last
		s.spacing[a] = b
	}
	return b
}

// active is the number of addresses that what is sent is spread over.
func (s *Site) active() (n int) {
	for _, a := range s.addresses {
		if a.Live > 0 {
			n++
		}
	}
	return n
}

// Paced says whether anything bounds the rate of messages.
func (s *Site) Paced(now time.Time) bool {
	if s.pace.Value > 0 || s.limits.MaxRate > 0 || s.fast != nil {
		return true
	}
	cl, ok := s.Clamped(now)
	return ok && cl.Pace > 0
}
