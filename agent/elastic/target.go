package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// Target is what the site wants, for listings.
func (s *Site) Target(now time.Time) Target {
	t := Target{Sessions: max(1, min(s.want, s.limits.MaxSessions)-s.host.kept), Cause: s.history[len(s.history)-1].Cause}
	each, all := s.pace.Value, 0.0
	for _, a := range s.addresses {
		if a.Live == 0 {
			continue
		}
		p := tighter(each, a.Pace.Value)
		if p == 0 {
			all = 0
			break
		}
		all += p
	}
	t.Slowed = all > 0
	t.Pace = tighter(all, s.limits.MaxRate)
	if cl, ok := s.clamps.tightest(now); ok {
		if cl.Sessions >= 0 {
			t.Sessions = min(t.Sessions, cl.Sessions)
		}
		t.Pace, t.Cause = tighter(t.Pace, cl.Pace), cl.Reason
		t.Slowed = t.Slowed || cl.Pace > 0 && cl.Pace == t.Pace
	}
	return t
}

// Paced says whether anything bounds the rate of messages.
func (s *Site) Paced(now time.Time) bool {
	if s.pace.Value > 0 || s.limits.MaxRate > 0 || s.fast != nil {
		return true
	}
	cl, ok := s.clamps.tightest(now)
	return ok && cl.Pace > 0
}

// Full says whether all the slots are held that the site wants: another connect would
// have to be in the stead of a session that is up.
func (s *Site) Full() bool { return s.Held()-s.Hanging >= s.want-s.host.kept }

// Clamped is the bound that the clamps in force make together, and the reason and the
// end of the tightest one; false if there is none.
func (s *Site) Clamped(now time.Time) (Clamp, bool) { return s.clamps.tightest(now) }

// Latency is the time of a transaction, smoothed.
func (s *Site) Latency() time.Duration { return time.Duration(s.latency * float64(time.Second)) }

// Lift ends the clamps of a reason before their time.
func (s *Site) Lift(now time.Time, reason string) {
	for i := range s.clamps {
		if x := &s.clamps[i]; x.Reason == reason && now.Before(x.Until) {
			x.Until = now
			s.record(now, s.want, "no more: "+reason)
		}
	}
}

// Void notes a connect that came to nothing in a way that tells nothing of limits, nor of
// whether the address answers.
func (s *Site) Void(x *slots.Slot, now time.Time) {
	s.run(now)
	s.unprobe(x)
	if !x.Up() {
		s.grown(x)
	}
	x.Void(now, now)
}

// clamped is how a clamp reads in the history.
func clamped(cl Clamp) string {
	what := "suspended"
	switch {
	case cl.Sessions > 0:
		what = fmt.Sprintf("at most %d sessions", cl.Sessions)
	case cl.Sessions < 0:
		what = fmt.Sprintf("at most %.3g messages/s", cl.Pace)
	}
	return fmt.Sprintf("%s until %s: %s", what, cl.Until.UTC().Format(time.RFC3339), cl.Reason)
}
