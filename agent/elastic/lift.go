package elastic

import "time"

// Lift ends the clamps that were put on for a reason. It is false if there were none.
func (s *Site) Lift(now time.Time, reason string) bool {
	if s.clamps == nil || !s.clamps.lift(now, reason) {
		return false
	}
	s.record(now, s.want, "no longer bounded: "+reason)
	return true
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
