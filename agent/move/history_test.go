package move

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/agent/queue"
)

// histories is how many random histories are played.
var histories = 6

// TestRandomHistories lets mail come, be sent, be moved between three nodes that die at random
// steps, and be kept by admins. In the end each recipient was sent to once.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	for seed := range histories {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, uint64(seed)+100, "a", "b", "c")
			names := []string{"a", "b", "c"}
			steps := append(append([]string{"back"}, atOrigin...), atTarget...)
			serial := 0
			for range 14 {
				n := w.nodes[names[w.rnd.IntN(3)]]
				some := func(in int) func(*queue.Entry) bool {
					return func(*queue.Entry) bool { return w.rnd.IntN(in) == 0 }
				}
				switch k := w.rnd.IntN(10); {
				case n.p == nil || n.p.isDead():
					n.kill()
					n.start()
				case k < 3:
					for range 1 + w.rnd.IntN(40) {
						n.accept(serial, 1+w.rnd.IntN(3))
						serial++
					}
				case k < 4:
					n.p.send(some(4))
				case k < 5:
					n.kill()
				case k < 6:
					for _, x := range n.p.mover.Transfers() {
						if !x.In {
							n.p.mover.Abandon(x.ID)
						}
					}
				default:
					to := w.nodes[names[w.rnd.IntN(3)]]
					if w.rnd.IntN(3) > 0 {
						for _, x := range []*node{n, to} {
							if x.p != nil && w.rnd.IntN(2) == 0 {
								x.p.dieAt(steps[w.rnd.IntN(len(steps))], w.rnd.IntN(8))
							}
						}
					}
					n.p.move(to.name, some(1+w.rnd.IntN(3)))
				}
			}
			w.ledger()
		})
	}
}
