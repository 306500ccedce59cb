package lease

import (
	"errors"
	"testing"
	"time"
)

// What the admin said of one life of the store is not said of the next: by then others may
// have been granted something.
func TestFoundIsForOneEpoch(t *testing.T) {
	t.Parallel()
	w := newWorld(1, 2)
	w.share(Sessions, "x", "", 10)
	var members []*Member
	for _, h := range w.nodes {
		h.m = begin(h.name, nil, Options{Fleet: "f", Node: h.name, Boot: h.boottime})
		h.m.replace = func(string, []byte) error { return nil }
		h.m.Want([]Demand{{Key: "x", Limit: 10, Want: 10}})
		members = append(members, h.m)
	}
	a, b := w.nodes[0], w.nodes[1]
	members[0].Found()
	w.exchange(a)
	c := members[0].Call() // the store hears of it, and the node for long nothing of the store
	w.store.Do(c)
	members[0].Done(c, nil, errors.New("no reply"))
	for range 30 {
		w.now += 5000
		w.exchange(b)
	}
	if b.m.floor(10) == 0 {
		t.Fatal("the second node has no floor: the test shows nothing")
	}
	w.empty()
	for range 30 {
		if r := w.exchange(a); r.Table.Version != "" {
			t.Fatalf("founded again, with %v", r.Table.Members)
		}
		w.now += 5000
	}
	w.fine(t)
}

// A state file whose writing failed may be either one after a crash: until it has been
// written the store hears nothing of the member that would let others have what one of them allows.
func TestStateFileIsEitherOne(t *testing.T) {
	t.Parallel()
	w := newWorld(1, 1)
	h := w.nodes[0]
	h.m = begin(h.name, nil, Options{Fleet: "f", Node: h.name, Boot: h.boottime})
	bad := true
	h.m.replace = func(_ string, text []byte) error {
		h.file = text
		if bad {
			return errors.New("the directory cannot be synced")
		}
		return nil
	}
	h.m.Want(nil)
	h.m.Found()
	w.exchange(h)
	if r := w.exchange(h); r.Table.Version == "" || len(h.file) == 0 {
		t.Fatalf("%+v: no table was written", r)
	}
	if v := h.m.Status().Table.Version; v != "" {
		t.Errorf("table %s is used, which may not be in the file", v)
	}
	if c := h.m.Call(); c != nil {
		t.Fatalf("called, with %+v, while the file may say %s", c.Table, h.file)
	}
	if due := h.m.Due() - h.boottime(); due < time.Second {
		t.Errorf("the disk is asked again after %v", due)
	}
	bad = false
	if c := h.m.Call(); c == nil {
		t.Error("no call, though the file could be written")
	}
}

// After a member has left, floors grow only when what was lent beside the smaller ones is over.
func TestFloorsGrowLate(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 20)
	w.nodes[0].wants[0] = 20
	w.run(200_000)
	c := w.nodes[2]
	c.leave(t)
	if m := begin(c.name, c.file, Options{Fleet: "f", Node: c.name, Boot: c.boottime}); m.floor(20) != 0 {
		t.Errorf("a floor of %d after a restart, of a node that has left", m.floor(20))
	}
	w.nodes[1].cut = true
	w.run(w.now + 50_000)
	w.nodes[1].cut = false
	if u := w.use(); u[0] != 14 || u[1] != 6 {
		t.Errorf("%v, want what the third left with the first", u)
	}
	w.run(w.now + 50_000)
	if u := w.use(); u[0] != 10 || u[1] != 10 {
		t.Errorf("%v, want floors of a half", u)
	}
	w.fine(t)
}

// Floors do not grow while a member has not heard of who left: a store that loses its data
// might take that member's table, by which they are smaller.
func TestFloorsWaitForAll(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 2)
	w.run(200_000)
	a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
	b.cut = true
	b.wants[0] = 2
	c.leave(t)
	w.run(w.now + 100_000)
	a.cut, b.cut = true, false
	w.empty()
	w.run(w.now + 100_000)
	if u := w.use(); u[1] == 0 {
		t.Errorf("%v: nothing was lent, the test shows nothing", u)
	}
	w.fine(t)
}

// A member that knows a later life of the store than the store does has it begin one.
func TestStoreOfAFormerEpochBeginsAnew(t *testing.T) {
	t.Parallel()
	w, a, b := lending(t)
	former, run := w.store, w.store.Run
	w.storeLoses(w.store.Clone())
	w.run(w.now + 100_000)
	if u := w.use(); u[0] != 11 {
		t.Fatalf("%v: nothing is lent", u)
	}
	later := w.store.state.epoch.N
	w.store, w.store.Run = former, run // it was not restarted
	a.cut = true
	b.wants[0] = 21
	w.run(w.now + 12_000)
	if n := w.store.state.epoch.N; n <= later {
		t.Errorf("epoch %d after %d", n, later)
	}
	w.fine(t)
}

// A copy of the data from before, on another server, is not taken for what it was, also by a
// member that has noticed nothing.
func TestOldCopyIsOfAnotherEpoch(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 21)
	w.run(100_000)
	b := w.nodes[1]
	b.cut = true
	w.run(w.now + 3000)
	copied := w.store.Clone()
	w.run(w.now + 31_000)
	w.nodes[0].wants[0] = 21
	w.run(w.now + 6000)
	if u := w.use(); u[0] != 11 {
		t.Fatalf("%v: nothing is lent", u)
	}
	w.storeLoses(copied)
	w.nodes[0].cut, b.cut = true, false
	b.wants[0] = 21
	w.run(w.now + 20_000)
	if r := w.store.state; r.epoch.N != 2 {
		t.Errorf("epoch %d", r.epoch.N)
	}
	w.fine(t)
}

// What was lent under another limit is let go, not claimed of the new one: a store that does
// not know the others yet would lend it again, beside their floors.
func TestChangedLimitIsNotClaimed(t *testing.T) {
	t.Parallel()
	w, a, _ := lending(t)
	for i := range w.keys[0].limits {
		w.keys[0].limits[i] = 20
	}
	m := a.m
	if n := m.Sessions("x", 20); n != 10 {
		t.Errorf("%d in use, want 10, the floor of the new limit", n)
	}
	m.Want([]Demand{{Key: "x", Limit: 20, Want: 20}})
	if c := m.Call(); c == nil || len(c.Asks) != 1 || c.Asks[0].Claim != 10 {
		t.Errorf("%+v, want a claim of 10, the floor of the new limit", c)
	}
	if n := m.Sessions("x", 21); n != 10 {
		t.Errorf("%d in use of the former limit, which was not claimed", n)
	}
}

// The table of a member without a floor may not name all that have one.
func TestTableIsOfAMemberWithAFloor(t *testing.T) {
	t.Parallel()
	w := stillWorld(3, Sessions, "x", "", 21)
	a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
	a.start()
	w.run(100_000)
	b.start()
	w.run(w.now + 12_000)
	b.cut = true
	c.start()
	w.run(w.now + 100_000)
	if b.m.active || b.m.table.Version == "" || c.m.floor(21) == 0 {
		t.Fatalf("%+v %+v: the test shows nothing", b.m.table, c.m.table)
	}
	a.cut, c.cut, b.cut = true, true, false
	b.wants[0] = 21
	w.empty()
	w.run(w.now + 100_000)
	w.fine(t)
	a.cut = false
	w.run(w.now + 100_000)
	w.fine(t)
}

// Data of before on the same server are noticed by a member whose call they do not have.
func TestRollbackBeginsAnew(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 21)
	w.run(100_000)
	before := w.store.Clone()
	w.nodes[0].wants[0] = 21
	w.run(w.now + 6000)
	w.store = before
	w.nodes[0].cut = true
	w.nodes[1].wants[0] = 21
	w.run(w.now + 20_000)
	if n := w.store.state.epoch.N; n != 2 {
		t.Errorf("epoch %d", n)
	}
	w.fine(t)
}

// A lease ends 30 s after the call was sent, however late the reply comes.
func TestLeaseIsFromTheCall(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 21)
	w.run(100_000)
	h := w.nodes[0]
	w.byHand(h)
	h.m.Want([]Demand{{Key: "x", Limit: 21, Want: 21}})
	c := h.m.Call()
	r := w.store.Do(c)
	w.now += 20_000
	h.m.Done(c, r, nil)
	if n := h.m.Sessions("x", 21); n != 11 {
		t.Fatalf("%d, want 11 lent: the test shows nothing", n)
	}
	w.now += 10_000
	if n := h.m.Sessions("x", 21); n != 10 {
		t.Errorf("%d, want the floor", n)
	}
}

// Of a count whose bound fell, and of which nobody says what was used, the former bound is claimed.
func TestFallenBoundIsClaimed(t *testing.T) {
	t.Parallel()
	w := calmWorld(1, 21)
	w.run(100_000)
	h := w.nodes[0]
	w.byHand(h)
	reply := func(used, grant int64) *Call {
		h.m.Want([]Demand{{Key: "q", Kind: Count, Day: "1", Limit: 100, Used: used}})
		c := h.m.Call()
		h.m.Done(c, &Reply{Epoch: c.Epoch, Token: c.Token, Grants: []int64{grant, 0, 0}}, nil)
		return c
	}
	reply(0, 40)
	reply(5, 10) // while the reply was on its way, 35 may have been counted
	h.m.Want(nil)
	if c := h.m.Call(); len(c.Asks) == 0 || c.Asks[0].Claim != 40 {
		t.Errorf("%+v, want a claim of 40", c.Asks)
	}
}

// A new store lends of counts once all members have called.
func TestCountsWaitForAll(t *testing.T) {
	t.Parallel()
	w := stillWorld(3, Count, "q", "1", 10_000)
	for _, h := range w.nodes {
		h.wants[0] = 3
		h.start()
	}
	w.run(200_000)
	b := w.nodes[1]
	b.cut = true
	w.empty()
	for _, h := range w.nodes {
		h.wants[0] = 10_000
	}
	w.run(w.now + 200_000)
	before, bound := w.spent-b.counts["q1"], b.m.Bound("q", "1", 10_000)
	for range 100 {
		b.spend()
	}
	if w.check(); int(b.counts["q1"]) != bound || bound < 1000 || before < 2000 {
		t.Errorf("%d counted with a bound of %d, %d by the others", b.counts["q1"], bound, before)
	}
	w.fine(t)
	b.cut = false
	w.run(w.now + 60_000)
	if w.spent < 9900 {
		t.Errorf("only %d of 10,000 counted with all there", w.spent)
	}
	w.fine(t)
}
