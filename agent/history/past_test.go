package history

import (
	"math"
	"testing"
	"time"
)

// What was counted before the start stands before our own samples, and in no other place.
func TestPastStandsBeforeOurOwnSamples(t *testing.T) {
	t.Parallel()
	c := newClock()
	if r := c.Reach(start.Add(time.Minute)); r != time.Minute {
		t.Errorf("reaches back %v", r)
	}
	c.step(Sample{Waiting: 7})
	now := c.now
	c.SetPast([]Count{
		{Start: start.Add(-30 * 24 * time.Hour), Width: 24 * time.Hour, Sent: 86400},
		{Start: start.Add(-5 * time.Minute), Width: 5 * time.Minute, Sent: 600, Bounces: 300},
		{Start: start, Width: 5 * time.Minute, Sent: 1},
	}, now)
	all := c.Total(start.Add(-400 * 24 * time.Hour)).Moments
	if len(all) != 32 || all[0].Sent != 1 || !all[0].At.Equal(start.Add(-30*24*time.Hour+12*time.Hour)) {
		t.Fatalf("%d moments, the first %+v", len(all), all[0])
	}
	for _, m := range all[1:31] {
		if m.Sent != 2 || m.Bounces != 1 || !math.IsNaN(float64(m.Waiting)) || m.At.After(start) {
			t.Errorf("%+v", m)
		}
	}
	if last := all[31]; last.Waiting != 7 || math.IsNaN(float64(last.Sessions)) {
		t.Errorf("our own: %+v", last)
	}
	if n := len(c.Total(start.Add(-time.Minute)).Moments); n != 8 {
		t.Errorf("%d moments of a minute", n)
	}
	if r := c.Reach(now); r < 29*24*time.Hour {
		t.Errorf("reaches back %v", r)
	}
}
