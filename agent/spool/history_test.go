package spool

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	historySeed  = flag.Uint64("seed", defaultSeed, "first seed of TestHistories; 0: from the clock")
	historyCount = flag.Int("histories", defaultHistories/historyShare, "how many histories TestHistories runs")
	historySteps = flag.Bool("steps", false, "tell what the shortest failing history does")
)

// TestHistories lives through many short random lives of a spool and looks
// after each crash whether what was promised holds. A failure tells its seed,
// and the shortest list of actions found that fails too.
func TestHistories(t *testing.T) {
	t.Parallel()
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	var events tally
	t.Cleanup(func() { events.check(t) })
	shards := uint64(runtime.GOMAXPROCS(0))
	for shard := range shards {
		t.Run(fmt.Sprint("shard", shard), func(t *testing.T) {
			t.Parallel()
			for n := shard; n < uint64(*historyCount); n += shards {
				actions := history(seed + n)
				err := live(t, actions, &events, nil)
				if err == nil {
					continue
				}
				short := shorten(actions, func(a []action) bool { return live(t, a, nil, nil) != nil })
				var trace io.Writer
				if *historySteps {
					trace = os.Stdout
				}
				if e := live(t, short, nil, trace); e != nil {
					err = fmt.Errorf("%w\n%w", err, e)
				}
				t.Fatalf("-seed %d -histories 1: %v\nshortest:\n\t%s", seed+n, err, lineUp(short))
			}
		})
	}
}

// TestHistoriesThatOnceFailed lives through them again.
func TestHistoriesThatOnceFailed(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{
		1795446533339584272, // a journal took back what its checkpoint said
		1795446533339595325,
		1795447000000005285, // the verdict of a void blob got lost in a failed sync
		1795447100000011305,
	} {
		if err := live(t, history(seed), nil, nil); err != nil {
			t.Errorf("-seed %d -histories 1: %v", seed, err)
		}
	}
}

// tally counts what happened in all histories.
type tally struct {
	mu     sync.Mutex
	events map[string]int
}

func (t *tally) add(events map[string]int) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.events == nil {
		t.events = make(map[string]int)
	}
	for what, n := range events {
		t.events[what] += n
	}
}

// check sees to it that the histories go where the dangers are.
func (t *tally) check(tb testing.TB) {
	for _, what := range slices.Sorted(maps.Keys(t.events)) {
		tb.Logf("%8d %s", t.events[what], what)
	}
	if *historyCount < 1000 {
		return
	}
	for _, what := range []string{
		"acknowledged", "refused", "given up", "not answered", "power lost", "writer killed", "agent killed",
		"orphan", "state after power loss", "checkpoint", "punch", "segment removed", "blob removed",
	} {
		if t.events[what] == 0 {
			tb.Errorf("it never happened: %s", what)
		}
	}
}

// action is one step. Its own seed makes it the same whatever is before it.
type action struct {
	kind string
	seed uint64
}

func (a action) String() string { return fmt.Sprintf("{%q, %d}", a.kind, a.seed) }

func lineUp(actions []action) string {
	var l []string
	for _, a := range actions {
		l = append(l, a.String())
	}
	return strings.Join(l, "\n\t")
}

// weights says how often each action comes.
var weights = []struct {
	kind string
	n    int
}{
	{"append", 12}, {"append many", 5}, {"release", 14}, {"void", 4}, {"open writer", 3},
	{"follow", 12}, {"read", 3}, {"record", 24}, {"sync", 4}, {"upkeep", 9}, {"key", 1},
	{"close writer", 2}, {"close agent", 2}, {"kill writer", 2}, {"kill agent", 3}, {"power loss", 2},
	{"fuse", 4}, {"trouble", 3}, {"one fault", 4}, {"calm", 3}, {"check", 3},
}

func history(seed uint64) []action {
	rng := rand.New(rand.NewPCG(seed, 0))
	total := 0
	for _, w := range weights {
		total += w.n
	}
	var list []action
	for range 20 + rng.IntN(80) {
		n := rng.IntN(total)
		for _, w := range weights {
			if n -= w.n; n < 0 {
				list = append(list, action{w.kind, rng.Uint64()})
				break
			}
		}
	}
	return list
}

// shorten takes actions out for as long as it still fails.
func shorten(list []action, fails func([]action) bool) []action {
	for size := (len(list) + 1) / 2; size > 0; {
		removed := false
		for from := 0; from < len(list); {
			less := slices.Concat(list[:from], list[min(from+size, len(list)):])
			if len(less) > 0 && fails(less) {
				list, removed = less, true
			} else {
				from += size
			}
		}
		if !removed || size > 1 {
			size /= 2
		}
	}
	return list
}

// live runs one history and returns what went wrong.
func live(t *testing.T, actions []action, events *tally, trace io.Writer) (err error) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(actions[0])
		w.trace = trace
		defer func() { events.add(w.events) }()
		for _, a := range actions {
			w.act(a)
			if w.err != nil {
				break
			}
		}
		if w.err == nil {
			w.finale()
		}
		w.abandon()
		err = w.err
	})
	return err
}
