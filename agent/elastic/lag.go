package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// late is what is known of how late the receiver frees a slot.
type late struct {
	ends     []end         // of the last sessions, oldest first
	votes    *votes        // nil: none was refused
	lag      time.Duration // so long after its end a slot is free
	from, to uint8         // of lags, those that it may be
	early    *slots.Slot   // the one that finds out whether less would do
}

// met learns from what a connect met.
func (s *Site) met(now time.Time, x *slots.Slot, letIn bool) {
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
		return
	}
	for _, a := range s.addresses {
		a.Relag(&s.Count, l.lag, now)
	}
	if l.lag > was {
		s.window = 1
		s.set(now, s.want+s.recount(), fmt.Sprintf("a slot is free %.2g s after its session ended", l.lag.Seconds()))
	}
}

// recount adds to what counts as accepted the slots that were held when growth was refused,
// though by the lag that was thought then they were free, and says how many.
func (s *Site) recount() (n int) {
	r := &s.refusals
	from, to := r.bounded-int64(s.late.lag), r.bounded-int64(r.counted)
	r.counted = max(r.counted, s.late.lag)
	for _, e := range s.late.ends {
		if from < e.at && e.at <= to {
			n++
			e.of.Accepted++
		}
	}
	return n
}

// replaceEarly finds a slot to replace before its lag is over, halfway to what was too soon.
func (s *Site) replaceEarly(now time.Time, list []Candidate) (best *slots.Address) {
	if s.refusals.row > 0 || s.late.lag == 0 || s.late.from == s.late.to || s.late.early != nil {
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
