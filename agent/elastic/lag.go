package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// passedMost is how many replacements accepted at once end the question how late slots are
// freed, though the addresses may not have been full.
const passedMost = 4

// late is what is known of how late the receiver frees a slot.
type late struct {
	lag     time.Duration // so long after its end a slot is free
	floor   time.Duration // so soon after its end one was not; 0: none was refused
	floorAt time.Time
	sure    bool        // it is learned; else one connect at a time finds it out
	early   *slots.Slot // the one that finds out whether less would do
	passed  int         // replacements accepted while it is not sure
	tries   int         // replacements refused while it is not sure
}

// accepted learns from a replacement that was accepted so long after the end of the one
// before it.
func (s *Site) accepted(now time.Time, x *slots.Slot, waited time.Duration) {
	switch {
	case x.Why == slots.Early:
		s.late.lag = min(s.late.lag, waited)
	case s.late.sure:
	case s.late.floor == 0 && !x.Last && s.late.passed < passedMost:
		s.late.passed++
	case s.late.floor == 0:
		s.late.sure = true
	case waited <= s.late.floor: // it got another's place
		s.late.floor, s.late.passed = 0, 0
	default:
		s.late.sure, s.late.lag = true, waited
		for _, a := range s.addresses {
			a.Relag(&s.Count, s.late.lag, now)
		}
		s.record(now, s.want, fmt.Sprintf("a slot is free %.2g s after its session ended", waited.Seconds()))
	}
}

// replaceEarly finds a slot to replace before its lag is over, halfway to what was too soon.
func (s *Site) replaceEarly(now time.Time, list []Candidate) (best *slots.Address) {
	if s.late.floor > 0 && now.Sub(s.late.floorAt) > time.Minute {
		s.late.floor, s.late.floorAt = s.late.floor/2, now
	}
	if !s.late.sure || s.late.lag == 0 || !s.probe.tight && s.late.lag-s.late.floor < s.late.lag/3 || s.late.early != nil || s.credit < 1 || s.late.lag-s.late.floor < max(s.late.lag/8, 20*time.Millisecond) {
		return nil
	}
	half := (s.late.floor + s.late.lag) / 2
	for _, c := range list {
		ended, _ := c.Oldest(now)
		if ended.IsZero() || c.Vacant > 0 || !s.usable(now, c.Address) {
			continue
		}
		if now.Sub(ended) >= half {
			return c.Address
		}
		s.sooner(now, ended.Add(half))
	}
	return nil
}
