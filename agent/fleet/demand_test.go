package fleet

import (
	"testing"
	"time"
)

// A node that waited in vain and has no mail left keeps no place from the others when its turn comes.
func TestDemandThatEndedKeepsNoPlaceFromOthers(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 5} {
		for who := range 3 {
			bubble(t, limit, func(r *receiver, s *twin, nodes []*node) {
				for _, n := range nodes {
					n.set(limit)
				}
				wait(2 * time.Minute) // some turn begins within the next seconds
				nodes[who].set(0)
				unused := 0
				for range 90 {
					wait(time.Second)
					if o := open(nodes); o[0]+o[1]+o[2] >= limit-limit/3 {
						unused = 0
					} else if unused++; unused > 10 {
						t.Fatalf("limit %d: a place is unused for %d s after %s has no mail left", limit, unused, "abc"[who:who+1])
					}
				}
			})
		}
	}
}
