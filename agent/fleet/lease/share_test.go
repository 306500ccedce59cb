package lease

import "testing"

// What others hold counts, whether the table names them or not, though they want less by now.
func TestWhatOthersHoldCounts(t *testing.T) {
	t.Parallel()
	st := &state{members: []string{"a", "b"}, nodes: map[string]node{"a": {called: true}, "b": {called: true}}}
	terms := terms{state: st, call: &Call{Node: "a"}, serving: true, div: []int64{0, 0}}
	rc := rec{parts: map[string]part{"b": {want: 5, hold: 10, seq: 1, limit: 20}, "c": {want: 5, hold: 5, seq: 1, limit: 20}}}
	if n := terms.lease(&rc, Ask{Field: "f", Limit: 20, Want: 20}); n != 5 {
		t.Errorf("%d lent, want 5: 10 and 5 of 20 are held", n)
	}
}

// Who has called within a lease time is not off, whatever the admin says.
func TestWhoCallsIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 20)
	w.run(100_000)
	w.nodes[0].m.Forget("b")
	w.nodes[1].cut = true
	w.run(w.now + 10_000)
	if n := len(w.store.state.members); n != 2 {
		t.Errorf("%d members, want 2", n)
	}
}
