package lease

import (
	"fmt"
	"testing"
	"time"
)

// What is waiting is asked for at once where that is little. The more a call asks for the more time
// there is to the next, so that a node's calls take less than 1% of a processor, and of the store's.
func TestMuchIsAskedForLessOften(t *testing.T) {
	t.Parallel()
	for limits, wait := range map[int]time.Duration{0: Shortest, 100: 300 * time.Millisecond, 1000: 1200 * time.Millisecond, 10_000: Interval} {
		const now = time.Hour
		m := begin("", nil, Options{Fleet: "f", Node: "a", Nodes: 3, Boot: func() time.Duration { return now }})
		m.replace = func(string, []byte) error { return nil }
		list := make([]Demand, limits)
		for i := range list {
			list[i] = Demand{Key: fmt.Sprint(i), Limit: 2, Want: 2}
		}
		s := Store{Run: "first"}
		for range 2 { // the first asks for a token
			m.Want(list)
			c := m.Call()
			m.Done(c, s.Do(c), nil)
		}
		m.Soon()
		if got := m.Due() - now; got != wait {
			t.Errorf("%v to the next call where the last asked for %d limits, want %v", got, limits, wait)
		}
	}
}
