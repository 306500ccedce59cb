package lease

import "testing"

// Demand is followed within 10 s, equal demands have equal shares within one, and what a
// member had above its floor is lent again once its lease is over.
func TestDemandIsFollowed(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 20)
	w.nodes[0].wants[0] = 20
	w.run(200_000)
	if u := w.use(); u[0] != 8 {
		t.Errorf("%v: the floors of others are not lent", u)
	}
	for _, h := range w.nodes {
		h.wants[0] = 20
	}
	w.run(w.now + 10_100)
	if u := w.use(); min(u[0], u[1], u[2]) != 6 || u[0]+u[1]+u[2] != 20 {
		t.Errorf("%v, want 20 in shares of 6 and 7", u)
	}
	w.nodes[2].stop()
	w.nodes[1].wants[0] = 0
	w.run(w.now + 10_100)
	w.run(w.now + 31_000 + 5_100)
	if u := w.use(); u[0] != 8 || u[1] != 6 {
		t.Errorf("%v, want what is above the floors with the first", u)
	}
	w.fine(t)
}

// Below one for each, the places go round: each node has one within two minutes for each node.
func TestTurns(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 2)
	for _, h := range w.nodes {
		h.wants[0] = 2
	}
	w.run(100_000)
	had, total, moments := make([]int, 3), 0, 0
	for end := w.now + 3*120_000 + 10_000; w.now < end; {
		w.run(w.now + 1000)
		moments++
		for i, u := range w.use() {
			total += int(u)
			if u > 0 {
				had[i]++
			}
		}
	}
	if min(had[0], had[1], had[2]) == 0 || float64(total) < 1.8*float64(moments) {
		t.Errorf("moments with a place %v, %d places in %d moments of two", had, total, moments)
	}
	w.fine(t)
}

// A store that comes back empty lends again after a lease and 10 s.
func TestEmptyStoreLendsAgain(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 20)
	for _, h := range w.nodes {
		h.wants[0] = 1
	}
	w.run(200_000)
	w.empty()
	w.nodes[0].wants[0] = 20
	w.run(w.now + 31_000 + 10_000)
	if u := w.use(); u[0] != 8 {
		t.Errorf("%v, want 8 for the first", u)
	}
	w.fine(t)
}
