package elastic

import (
	"slices"
	"time"
)

// historySize is how many changes a Site remembers.
const historySize = 16

// Change is one change of what a Site wants, and why.
type Change struct {
	At       time.Time
	From, To int     // slots wanted before and after
	Pace     float64 // messages per second at each address after the change; 0: no limit is known
	Cause    string  // the measurement or reply behind it
}

// record notes a change that has just been made.
func (s *Site) record(now time.Time, from int, cause string) {
	if len(s.history) == historySize {
		s.history = append(s.history[:0], s.history[1:]...)
	}
	s.history = append(s.history, Change{At: now, From: from, To: s.want, Pace: s.pace.Value, Cause: cause})
}

// History returns the last changes, oldest first.
func (s *Site) History() []Change { return slices.Clone(s.history) }
