package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/tidy"
)

func TestMain(m *testing.M) { tidy.Main(m, lab.WithPrograms) }

// A short run with a seed that brings crashes of everything.
func TestShortSoak(t *testing.T) {
	err := soak(t.Context(), settings{
		duration: 45 * time.Second, seed: 4567, rate: 30, drain: 7 * time.Minute,
		evidence: filepath.Join(t.TempDir(), "evidence"),
	}, t.Output())
	if err != nil {
		t.Error(err)
	}
}

func TestSeedRepeatsSchedule(t *testing.T) {
	t.Parallel()
	text := func(seed uint64) string {
		var b bytes.Buffer
		all := lanes()
		printSchedule(&b, all, schedule(seed, 10*time.Minute, all))
		return b.String()
	}
	one := text(1)
	if one != text(1) {
		t.Error("seed 1 gives two schedules")
	}
	if one == text(2) {
		t.Error("seeds 1 and 2 give the same schedule")
	}
	for _, l := range lanes() {
		for _, k := range l.kinds {
			if !strings.Contains(text(1)+text(2)+text(3), k.name) {
				t.Errorf("%s: %s comes in none of three schedules", l.name, k.name)
			}
		}
	}
}

func TestScheduleKeepsToItsTime(t *testing.T) {
	t.Parallel()
	const duration = 3 * time.Minute
	all := lanes()
	free := make([]time.Duration, len(all)) // when the lane's last fault is over
	faults := schedule(7, duration, all)
	if !slices.IsSortedFunc(faults, func(a, b fault) int { return int(a.at - b.at) }) {
		t.Error("not in order")
	}
	for _, f := range faults {
		if f.at < free[f.lane] || f.at < warmUp(duration) || f.at+f.lasts > duration {
			t.Errorf("%s: %s at %v for %v, the one before ends at %v", all[f.lane].name, f.kind.name, f.at, f.lasts, free[f.lane])
		}
		free[f.lane] = f.at + f.lasts
	}
}
