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
	ends     []end         // of the last sessions, oldest first
	votes    *votes        // nil: none was refused
	lag      time.Duration // so long after its end a slot is free
	from, to uint8         // of lags, those that it may be
	sure     bool          // a replacement was accepted since it was found to be longer
	early    *slots.Slot   // the one that finds out whether less would do
	passed   int           // replacements accepted while it is not sure
}

// met learns from what a connect met, and says whether slots are freed later than was
// thought.
func (s *Site) met(now time.Time, x *slots.Slot, letIn bool) (later bool) {
	l := &s.late
	l.meet(now, x, letIn)
	l.from, l.to = l.votes.least()
	was := l.lag
	switch {
	case l.from == 0:
		l.lag = 0
	case l.to == lagSteps-1: // nothing speaks against the longest
		l.lag = lags[(l.from+l.to+1)/2]
	default:
		l.lag = lags[l.to]
	}
	if l.lag == was {
		return false
	}
	for _, a := range s.addresses {
		a.Relag(&s.Count, l.lag, now)
	}
	if later = l.lag > was; later {
		l.sure = false
		cause := fmt.Sprintf("a slot is free %.2g s after its session ended", l.lag.Seconds())
		if l.lag > s.refusals.counted {
			s.recount()
			s.takeBack(now, cause)
		} else {
			s.set(now, s.want, cause)
		}
	}
	return later
}

// recount adds to what was given up the slots that were held when growth was refused, though
// by the lag that was thought then they were free.
func (s *Site) recount() {
	r := &s.refusals
	from, to := r.bounded-int64(s.late.lag), r.bounded-int64(r.counted)
	r.counted = s.late.lag
	for _, e := range s.late.ends {
		if from < e.at && e.at <= to {
			r.given++
			e.of.Given++
		}
	}
}

// accepted learns from a replacement that was accepted.
func (s *Site) accepted(x *slots.Slot) {
	switch {
	case x.Why == slots.Early || s.late.sure:
	case s.late.from == 0 && !x.Last && s.late.passed < passedMost:
		s.late.passed++
	default:
		s.late.sure = true
	}
}

// replaceEarly finds a slot to replace before its lag is over, halfway to what was too soon.
func (s *Site) replaceEarly(now time.Time, list []Candidate) (best *slots.Address) {
	if !s.late.sure || s.late.lag == 0 || s.late.from == s.late.to || s.late.early != nil || s.credit < 1 {
		return nil
	}
	half := lags[(int(s.late.from)+step(s.late.lag))/2]
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
