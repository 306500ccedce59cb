package milter

import (
	"slices"
	"testing"
	"time"
)

// pauses are lengths in milliseconds, by turns of so many connections.
type pauses struct {
	connections int
	lengths     []int
}

func repeat(n, length int) []int { return slices.Repeat([]int{length}, n) }

func TestFlowDelayIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pauses
		want bool
	}{
		"a second each time":                 {pauses{30, repeat(flowPauses, 1005)}, true},
		"too few":                            {pauses{30, repeat(flowPauses-1, 1005)}, false},
		"after the tokens are gone":          {pauses{30, slices.Concat(repeat(80, 5), repeat(flowPauses, 1008))}, true},
		"one still fast":                     {pauses{30, slices.Concat(repeat(1, 5), repeat(flowPauses-1, 1008))}, false},
		"a busy host":                        {pauses{30, slices.Concat(repeat(flowLonger, 1900), repeat(flowPauses-flowLonger, 1150))}, true},
		"slow clients":                       {pauses{30, slices.Concat(repeat(flowLonger+1, 1900), repeat(flowPauses, 1150)[flowLonger+1:])}, false},
		"a client that paces itself":         {pauses{flowConnections - 1, repeat(100, 1001)}, false},
		"as few connections as are evidence": {pauses{flowConnections, repeat(flowPauses, 1001)}, true},
		"idle connections of two seconds":    {pauses{30, repeat(100, 2001)}, false},
		"clients at once":                    {pauses{30, repeat(100, 1)}, false},
	} {
		var f flowDelay
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		told := 0
		for i, ms := range c.lengths {
			verdict := now
			now = now.Add(time.Duration(ms) * time.Millisecond)
			if f.note(uint64(i%c.connections), verdict, now) {
				told++
			}
		}
		if (told == 1) != c.want || told > 1 {
			t.Errorf("%s: told %d times, want %t", name, told, c.want)
		}
	}
}

func TestFlowDelayIsToldOnceAnHour(t *testing.T) {
	t.Parallel()
	var f flowDelay
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var told []time.Duration
	for i := range 3 * 3600 {
		now := start.Add(time.Duration(i) * time.Second)
		if f.note(uint64(i%5), now.Add(-1005*time.Millisecond), now) {
			told = append(told, now.Sub(start))
		}
	}
	first := time.Second * (flowPauses - 1)
	if want := []time.Duration{first, first + time.Hour, first + 2*time.Hour}; !slices.Equal(told, want) {
		t.Errorf("told after %v, want %v", told, want)
	}
}
