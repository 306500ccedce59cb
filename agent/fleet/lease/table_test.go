package lease

import "testing"

// What a member has that the table does not name counts until it ends.
func TestLeaseOfWhoIsNotInTheTableCounts(t *testing.T) {
	t.Parallel()
	w, a, b, c := pair(5)
	a.cut = true
	c.wants[0] = 5
	c.start()
	w.run(w.now + 10_000)
	if u := w.use(); u[2] != 2 || u[1] != 1 {
		t.Fatalf("%v: the third has no lease, the test shows nothing", u)
	}
	b.cut = true
	w.empty()
	w.run(w.now + 20_000) // the third claims its lease again
	c.cut, a.cut, a.wants[0] = true, false, 5
	w.run(w.now + 100_000)
	w.fine(t)
	if u := w.use(); u[0] != 3 {
		t.Errorf("%v, want 3 for the first in the end", u)
	}
}

// A member that does not know yet that floors grew knows it by how few members there are.
func TestTableOfBeforeFloorsGrew(t *testing.T) {
	t.Parallel()
	w := calmWorld(4, 20)
	w.run(200_000)
	a, b := w.nodes[0], w.nodes[1]
	w.nodes[2].leave(t)
	w.nodes[3].leave(t)
	for end := w.now + 60_000; w.store.state.shrink < 0 && w.now < end; {
		w.run(w.now + 100)
	}
	w.run(w.now + 6000)
	b.cut = true
	w.run(w.now + 50_000)
	if u := w.use(); u[0] != 10 || u[1] != 5 {
		t.Fatalf("%v: the test shows nothing", u)
	}
	a.cut, b.cut, b.wants[0] = true, false, 20
	w.empty()
	w.run(w.now + 100_000)
	w.fine(t)
}

// A member's table says how great the floors of those may be that have not heard of it.
func TestFloorsOfWhoHasNotHeard(t *testing.T) {
	t.Parallel()
	w, a, b, c := pair(20)
	b.cut = true
	c.start()
	w.run(w.now + 12_000)
	if a.m.floor(20) != 6 || b.m.floor(20) != 10 {
		t.Fatalf("%v: the test shows nothing", w.use())
	}
	a.wants[0] = 20
	w.empty()
	w.run(w.now + 100_000)
	w.fine(t)
}

// Nobody gets a floor while a member has not called: its table, which a store might take, does
// not name the new one.
func TestNoFloorWhileAMemberIsAway(t *testing.T) {
	t.Parallel()
	w, a, b, c := pair(20)
	b.cut = true
	w.empty()
	w.run(w.now + 40_000)
	c.start()
	w.run(w.now + 100_000)
	a.cut, c.cut, b.cut, b.wants[0] = true, true, false, 20
	w.empty()
	w.run(w.now + 100_000)
	w.fine(t)
	if c.m.floor(20) != 0 || len(c.m.table.Members) != 3 {
		t.Errorf("the third has floors of %d, by %v", c.m.floor(20), c.m.table.Members)
	}
}
