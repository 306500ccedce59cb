package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// ownAffair is how unlikely it must be that the messages refused as too fast are all of one address by
// chance, until it gets a pace of its own: one in so many.
const ownAffair = 128

// alone says whether so many refused in a row by one of n addresses are its own affair.
func alone(row, n int) bool {
	odds := 1
	for ; row > 1 && odds < ownAffair; row-- {
		odds *= n
	}
	return odds >= ownAffair
}

// TooFast notes a message, begun at a time, that was refused for the rate.
func (s *Site) TooFast(x *slots.Slot, now, began time.Time, reply string) {
	s.run(now)
	a := x.Address
	at := s.at(a)
	unspaced := s.pace.Value > 0 && a.Pace.Value == 0 && at.whose != ours // it waited for no pace, and tells nothing of it
	at.tie(now, s, ours)
	at.slowed = true
	if s.fast != a {
		s.fast, s.fastRow = a, 0
	}
	s.fastRow++
	s.tooFast = reply
	// Evenly filled hosts answer alike whether each has a limit of its own or all have
	// one together, so the site's pace serves both. One that alone refuses, again and
	// again, gets a pace of its own.
	p, n, who := &s.pace, max(1, s.active()), "each address"
	if a.Pace.Value > 0 || n > 1 && alone(int(s.fastRow), n) {
		p, n, who = &a.Pace, 1, "it alone"
	}
	if !unspaced && p.TooFast(now, began, n) {
		a.Reply = reply
		chance := ""
		if share := p.Trial(); share > 0 {
			chance = fmt.Sprintf(", to be raised, as %.2g%% are refused at any pace", 100*share)
		}
		s.record(now, s.want, fmt.Sprintf("too fast for %s at %.3g messages/s accepted, pace of %s now %.3g/s%s: %s", a.Key.Host.Addr(), p.Rate(now, n), who, p.Value, chance, reply))
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
	s.fast, s.tooFast = nil, ""
	s.record(now, s.want, cause)
}

// MayBegin is how long a session must wait until it may begin a message; it takes the
// token if that is now.
func (s *Site) MayBegin(x *slots.Slot, now time.Time) time.Duration {
	a := x.Address
	wait := max(s.bucket.Wait(now, s.rate(now)), a.Bucket.Wait(now, a.Pace.Value), s.paceWait(a, now))
	if wait == 0 {
		a.Bucket.Take()
		s.bucket.Take()
		s.paceTake(a)
	}
	return wait
}

// paceWait is how long a message at an address must wait for the site's pace. One at an address that
// may be the receiver's or another's waits for no message elsewhere: its answer shows which it is.
func (s *Site) paceWait(a *slots.Address, now time.Time) (wait time.Duration) {
	at := s.at(a)
	if s.pace.Value == 0 || at.whose == others {
		at.paced = nil
		return 0
	}
	all := s.paced.Wait(now, s.pace.Value*float64(s.active()))
	if at.paced == nil {
		at.paced = new(slots.Bucket)
		if at.whose == ours {
			*at.paced = a.Bucket // of before the pace: it knows when the last message was
		}
	}
	// A little more at each than its share, so that all of them together reach theirs.
	wait = at.paced.Wait(now, 1.1*s.pace.Value)
	if at.whose == ours {
		wait = max(wait, all)
	}
	return wait
}

// paceTake takes the token of a message for which paceWait was 0.
func (s *Site) paceTake(a *slots.Address) {
	if at := s.at(a); at.paced != nil {
		at.paced.Take()
		s.paced.Take()
	}
}

// whose tells whether an address is the receiver's to whose others a site's mail goes, or another's that
// somebody lists among his own. A pace that one of the receiver's asked for holds at the receiver's.
type whose uint8

const (
	unknown whose = iota // it has answered nothing yet
	ours                 // it took mail of the site, or said too fast
	others               // it took none
)

// tie notes whose an address is.
func (a *called) tie(now time.Time, s *Site, w whose) {
	if a.whose != w {
		s.pace.Run(now, s.active()) // before the number of those changes that have the pace
		a.whose = w
	}
}

// back counts for the pace the time since the last session at an address ended that had said too fast last,
// as one comes up again. Where each such answer ends a session, whose place is not free at once, sessions live
// for as long as a few messages take, and those are no measure of a rate.
func (a *called) back(now time.Time, s *Site) {
	if a.live > 0 || a.left == 0 {
		return
	}
	d := time.Duration(now.UnixNano() - a.left)
	s.pace.Gap(d, s.active())
	if a.left = 0; a.Live == 0 {
		a.Pace.Gap(d, 0)
	}
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

// active is the number of addresses that what has the pace is spread over.
func (s *Site) active() (n int) {
	for i := range s.addresses {
		if a := &s.addresses[i]; a.live > 0 && a.whose != others {
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
