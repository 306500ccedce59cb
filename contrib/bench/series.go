package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// series is one figure over the rounds. +Inf is a time that never came; NaN is
// no figure at all.
type series []float64

// over takes one figure out of each round.
func over[T any](rounds []T, of func(T) float64) series {
	s := make(series, len(rounds))
	for i, r := range rounds {
		s[i] = of(r)
	}
	return s
}

// to divides round by round: what went on in the machine during a round
// affects both sides of its ratio.
func (s series) to(base series) series {
	r := make(series, len(s))
	for i := range s {
		r[i] = s[i] / base[i]
	}
	return r
}

func (s series) median() float64 {
	if len(s) == 0 || slices.ContainsFunc(s, math.IsNaN) {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n%2 == 1 || sorted[n/2-1] == sorted[n/2] {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// cell is the median and, of more than one round, the least and the most.
func (s series) cell(format func(float64) string) string {
	m := s.median()
	if math.IsNaN(m) {
		return "-"
	}
	least, most := format(slices.Min(s)), format(slices.Max(s))
	if len(s) == 1 || least == most {
		return format(m)
	}
	return fmt.Sprintf("%s (%s-%s)", format(m), least, most)
}

// Formats of figures. Times are in seconds.

func count(v float64) string   { return fmt.Sprintf("%.0f", v) }
func percent(v float64) string { return fmt.Sprintf("%.1f%%", 100*v) }

// percent2 is for small shares.
func percent2(v float64) string { return fmt.Sprintf("%.2f%%", 100*v) }

func ratio(v float64) string {
	if math.IsInf(v, 1) {
		return "unbounded"
	}
	return fmt.Sprintf("%.3g", v)
}

func seconds(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "never"
	case v < 0.001:
		return fmt.Sprintf("%.0f us", v*1e6)
	case v < 1:
		return fmt.Sprintf("%.3g ms", v*1e3)
	}
	return fmt.Sprintf("%.3g s", v)
}

func millis(v float64) string { return fmt.Sprintf("%.2g", v*1e3) }
func micros(v float64) string { return count(v * 1e6) }

// never stands for the latency of what did not arrive.
const never = time.Duration(math.MaxInt64)

// quantile of a sorted list in seconds, by nearest rank; NaN of an empty one.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	d := sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
	if d == never {
		return math.Inf(1)
	}
	return d.Seconds()
}
