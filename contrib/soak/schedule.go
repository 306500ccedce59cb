package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// kind is a kind of fault.
type kind struct {
	name        string
	least, most time.Duration // how long it lasts
	weight      int           // how often beside others of its lane; 0 is 1
	// do lets it happen, waits for lasts or the end of ctx, and heals it; healing
	// does not depend on ctx. pick decides what the kind leaves open.
	do func(ctx context.Context, s *scene, lasts time.Duration, pick uint64) error
}

// lane is one thing that may fail. Its faults follow each other.
type lane struct {
	name  string
	every time.Duration // from the end of a fault to the begin of the next, on average
	kinds []kind
}

// fault is one entry of the schedule.
type fault struct {
	lane  int
	kind  *kind
	at    time.Duration // since the begin of the flow
	lasts time.Duration
	pick  uint64
}

// warmUp is the time at the begin in which nothing goes wrong: long enough to see
// what the daemons need when all is well.
func warmUp(d time.Duration) time.Duration { return min(20*time.Second, d/5) }

// schedule draws the faults of a run, in the order in which they begin. All are
// over by the end of the duration.
func schedule(seed uint64, duration time.Duration, lanes []lane) []fault {
	var all []fault
	for i, l := range lanes {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		weights := 0
		for _, k := range l.kinds {
			weights += max(k.weight, 1)
		}
		at := warmUp(duration)
		for {
			at += time.Duration(float64(l.every) * 2 * r.Float64())
			n := r.IntN(weights)
			k := slices.IndexFunc(l.kinds, func(k kind) bool { n -= max(k.weight, 1); return n < 0 })
			f := fault{lane: i, kind: &l.kinds[k], at: at, pick: r.Uint64()}
			f.lasts = f.kind.least + time.Duration(r.Float64()*float64(f.kind.most-f.kind.least))
			at += f.lasts
			if at > duration {
				break
			}
			all = append(all, f)
		}
	}
	slices.SortStableFunc(all, func(a, b fault) int { return int(a.at - b.at) })
	return all
}

// printSchedule writes what is going to happen.
func printSchedule(w io.Writer, lanes []lane, faults []fault) {
	for _, f := range faults {
		fmt.Fprintf(w, "%7.1fs  %-10s %s", f.at.Seconds(), lanes[f.lane].name, f.kind.name)
		if f.lasts > 0 {
			fmt.Fprintf(w, ", %.1fs", f.lasts.Seconds())
		}
		fmt.Fprintln(w)
	}
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
