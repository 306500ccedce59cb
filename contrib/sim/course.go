package sim

import "time"

// Course is a value that changes at known times. The zero Course means none:
// no limit.
type Course []Step

// Step is the value from a time on.
type Step struct {
	At    time.Duration
	Value float64
}

// Always is a value that does not change.
func Always(v float64) Course { return Course{{0, v}} }

// Then is the course with another value from then on.
func (c Course) Then(at time.Duration, v float64) Course {
	return append(append(Course{}, c...), Step{at, v})
}

// at is the value at a time, and whether there is one.
func (c Course) at(t time.Duration) (v float64, ok bool) {
	for _, s := range c {
		if s.At <= t {
			v, ok = s.Value, true
		}
	}
	return v, ok
}
