package elastic

import (
	"fmt"
	"time"
)

// paceFloor is the least that Slow asks for, messages per second.
const paceFloor = 0.1

// Clamp is a bound put on a site from outside for a time, by a provider rule
// or the admin.
type Clamp struct {
	Sessions int     // at most so many; 0: the site is suspended, negative: no bound
	Pace     float64 // messages per second; 0: no bound
	Until    time.Time
	Reason   string
}

// clamps holds a few at once, so that a short hard one does not make a longer
// soft one forgotten.
type clamps [4]Clamp

// Clamp puts a bound on the site from outside. Of several in force the tightest counts; when
// there are too many, the one that would end first gives way.
func (s *Site) Clamp(now time.Time, cl Clamp) {
	if !cl.Until.After(now) {
		return
	}
	if s.clamps == nil { // most sites never have one
		s.clamps = new(clamps)
	}
	s.clamps.put(now, cl)
	s.record(now, s.want, asCause(cl))
}

// Clamped is the bound that the clamps in force make together, and the reason and the
// end of the tightest one; false if there is none.
func (s *Site) Clamped(now time.Time) (Clamp, bool) {
	if s.clamps == nil {
		return Clamp{}, false
	}
	return s.clamps.tightest(now)
}

// Slow puts a bound of half the present rate on the site.
func (s *Site) Slow(now, until time.Time, reason string) {
	s.Clamp(now, Clamp{Sessions: -1, Pace: max(s.pace.Rate(now, s.active())*float64(s.active())/2, paceFloor), Until: until, Reason: reason})
}

// Lift ends the clamps that were put on for a reason. It is false if there were none.
func (s *Site) Lift(now time.Time, reason string) bool {
	if s.clamps == nil || !s.clamps.lift(now, reason) {
		return false
	}
	s.record(now, s.want, "no longer bounded: "+reason)
	return true
}

// asCause is how a clamp reads in the history.
func asCause(cl Clamp) string {
	what := "suspended"
	switch {
	case cl.Sessions > 0:
		what = fmt.Sprintf("at most %d sessions", cl.Sessions)
	case cl.Sessions < 0:
		what = fmt.Sprintf("at most %.3g messages/s", cl.Pace)
	}
	return fmt.Sprintf("%s until %s: %s", what, cl.Until.UTC().Format(time.RFC3339), cl.Reason)
}

// put adds one; when there are too many, the one that would end first gives way.
func (cs *clamps) put(now time.Time, cl Clamp) {
	if !cl.Until.After(now) {
		return
	}
	oldest := 0
	for i := range cs {
		if cs[i].Until.Before(cs[oldest].Until) {
			oldest = i
		}
	}
	cs[oldest] = cl
}

// tightest is what the clamps in force allow.
func (cs *clamps) tightest(now time.Time) (cl Clamp, any bool) {
	cl.Sessions = -1
	for i := range cs {
		x := &cs[i]
		if !now.Before(x.Until) {
			continue
		}
		any = true
		if x.Sessions >= 0 && (cl.Sessions < 0 || x.Sessions < cl.Sessions) {
			cl.Sessions, cl.Reason, cl.Until = x.Sessions, x.Reason, x.Until
		}
		if pace := tighter(cl.Pace, x.Pace); pace != cl.Pace {
			if cl.Pace = pace; cl.Sessions < 0 {
				cl.Reason, cl.Until = x.Reason, x.Until
			}
		}
	}
	return cl, any
}

// lift ends those of a reason.
func (cs *clamps) lift(now time.Time, reason string) (any bool) {
	for i := range cs {
		if x := &cs[i]; x.Reason == reason && now.Before(x.Until) {
			*x, any = Clamp{}, true
		}
	}
	return any
}

// tighter is the lower of two rates of which 0 means none.
func tighter(a, b float64) float64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
