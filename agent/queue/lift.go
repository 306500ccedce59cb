package queue

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// Lift ends the clamps of a site that were put on for a reason. It is false if the site is
// not known, or has none.
func (q *Queue) Lift(name, reason string) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sites[name]
	if x, ok := q.recalled[name]; ok {
		x.Clamps = slices.DeleteFunc(slices.Clone(x.Clamps), func(cl elastic.Clamp) bool { return cl.Reason == reason })
		q.recalled[name] = x
	}
	if s == nil || !q.control(s).Lift(now, reason) {
		return false
	}
	q.bound(s, now)
	return true
}

// Clamped is the bound that is on a site; false if there is none, or no such site.
func (q *Queue) Clamped(name string) (elastic.Clamp, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sites[name]
	if s == nil {
		return elastic.Clamp{}, false
	}
	return q.control(s).Clamped(time.Now())
}
