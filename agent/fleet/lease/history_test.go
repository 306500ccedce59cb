package lease

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// histories runs that many, from a first seed.
func histories(t *testing.T, first, number uint64) {
	t.Helper()
	var next, wrong, lent, active, spent, shrunk, back, told atomic.Int64
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for {
				i := uint64(next.Add(1) - 1)
				if i >= number {
					return
				}
				w := history(first+i, func(*world) {})
				lent.Add(int64(w.lent))
				active.Add(int64(w.active))
				spent.Add(w.spent)
				shrunk.Add(int64(w.shrunk))
				back.Add(int64(w.told))
				if w.wrong != "" {
					wrong.Add(1)
					if told.Add(1) <= 5 {
						t.Errorf("seed %d: %s", first+i, w.wrong)
					}
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d histories, %d wrong; moments with more than a floor %d, with a floor %d; counted %d; floors grew %d times; %d came back that were forgotten", number, wrong.Load(), lent.Load(), active.Load(), spent.Load(), shrunk.Load(), back.Load())
	if shrunk.Load() == 0 || lent.Load() == 0 || active.Load() == 0 || spent.Load() == 0 || back.Load() == 0 {
		t.Error("nothing was lent, counted or grew: the histories show nothing")
	}
}

func TestHistories(t *testing.T) {
	t.Parallel()
	first, number := uint64(1), uint64(1000)
	if s := os.Getenv("LEASE_HISTORIES"); s != "" { // FIRST,NUMBER
		a, b, _ := strings.Cut(s, ",")
		x, err1 := strconv.ParseUint(a, 10, 64)
		y, err2 := strconv.ParseUint(b, 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(s)
		}
		first, number = x, y
	}
	if number == 1 {
		w := history(first, func(w *world) { w.verbose = true })
		t.Log("\n" + strings.Join(w.trace, "\n"))
		t.Log(w.wrong)
		return
	}
	histories(t, first, number)
}
