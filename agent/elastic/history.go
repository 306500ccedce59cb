package elastic

import "time"

// historySize is how many changes a Control remembers.
const historySize = 32

// Change is one change of what the controller wants, and why.
type Change struct {
	At       time.Time
	From, To int     // sessions before and after
	Pace     float64 // messages per second after the change; 0: unlimited
	Cause    string  // the measurement or reply behind it
}

// history is a ring of the last changes.
type history struct {
	ring [historySize]Change
	n    int // changes ever made
}

func (h *history) add(c Change) {
	h.ring[h.n%historySize] = c
	h.n++
}

// last is the cause of the newest change.
func (h *history) last() string { return h.ring[(h.n-1)%historySize].Cause }

// History returns the last changes, oldest first.
func (c *Control) History() []Change { return c.history.list() }

func (h *history) list() []Change {
	first := max(0, h.n-historySize)
	out := make([]Change, 0, h.n-first)
	for i := first; i < h.n; i++ {
		out = append(out, h.ring[i%historySize])
	}
	return out
}

// record notes a change that has just been made.
func (c *Control) record(now time.Time, from int, cause string) {
	c.history.add(Change{At: now, From: from, To: c.want, Pace: c.pace.value, Cause: cause})
}
