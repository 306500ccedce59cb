package lease

import (
	"errors"
	"testing"
)

// outcome is what came of a Forget.
func outcome(t *testing.T, said <-chan error) error {
	t.Helper()
	select {
	case err := <-said:
		return err
	default:
		t.Fatal("nothing is said of it")
		return nil
	}
}

// trio has three members of which the third is off, and was forgotten; its file is there.
func trio(t *testing.T) (w *world, c *host) {
	t.Helper()
	w = calmWorld(3, 12)
	w.run(200_000)
	c = w.nodes[2]
	c.stop()
	w.run(w.now + 60_000)
	said := w.nodes[0].m.Forget("c")
	w.run(w.now + 5000)
	if err := outcome(t, said); err != nil {
		t.Fatal(err)
	}
	w.nodes[0].wants[0], w.nodes[1].wants[0] = 12, 12
	w.run(w.now + 100_000)
	if u := w.use(); u[0] != 6 || u[1] != 6 {
		t.Fatalf("%v: the test shows nothing", u)
	}
	return w, c
}

// A node that was forgotten and comes back with its file uses nothing of what it had, from the
// first moment, says so, and joins anew.
func TestForgottenNodeComesBack(t *testing.T) {
	t.Parallel()
	w, c := trio(t)
	for range 2 { // the second time the first answers never came
		c.start()
		c.m.Want(nil)
		w.exchange(c)
		w.store.Do(c.m.Call())
		c.stop()
	}
	c.start()
	w.run(w.now + 2000)
	w.fine(t)
	if st := c.m.Status(); st.Active || !st.Forgot || st.Doubts {
		t.Errorf("%+v", st)
	}
	c.wants[0] = 12
	w.run(w.now + 100_000)
	w.fine(t)
	if st := c.m.Status(); c.m.floor(12) != 4 || st.Forgot {
		t.Errorf("floor %d, %+v of one that has joined anew", c.m.floor(12), st)
	}
}

// Whose state file cannot be written does not use what was given away either.
func TestForgottenNodeWithABadDisk(t *testing.T) {
	t.Parallel()
	w, c := trio(t)
	c.start()
	c.m.replace = func(string, []byte) error { return errors.New("no space") }
	w.run(w.now + 30_000)
	w.fine(t)
	if n := c.m.Sessions("x", 12); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// A store that was started anew does not learn who is a member from one that may have been
// forgotten, while others call: one that is cut off has not heard that it is back.
func TestForgottenNodeAtANewStore(t *testing.T) {
	t.Parallel()
	w, c := trio(t)
	w.nodes[1].cut = true
	w.storeLoses(w.store.Clone())
	c.start()
	c.m.Want(nil)
	for range 4 {
		w.exchange(c)
	}
	w.run(w.now + 100_000)
	w.fine(t)
	if c.m.active {
		t.Error("it has a floor, while one is cut off that has not heard of it")
	}
}

// While leases of the store's former life may run, a table does not confirm floors: it may be
// that of a node which has not heard that they were given away.
func TestForgottenNodeInRecovery(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 12)
	w.nodes[0].wants[0] = 12
	w.run(200_000)
	a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
	c.stop()
	b.cut = true
	w.run(w.now + 60_000)
	a.m.Forget("c")
	w.run(w.now + 10_000)
	if u := w.use(); u[0] != 8 || u[1] != 4 {
		t.Fatalf("%v: the test shows nothing", u)
	}
	a.cut, b.cut = true, false
	w.empty()
	w.run(w.now + 3000)
	c.start()
	w.run(w.now + 5000)
	if c.m.table.Version != w.store.state.v() {
		t.Fatal("it has not called: the test shows nothing")
	}
	w.fine(t)
}

// A node that starts does not know yet whether its floors are its own; the store's word, or ten
// seconds without one, have it use them.
func TestFloorsWaitForTheStore(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 12)
	w.run(100_000)
	c := w.nodes[1]
	c.stop()
	c.start()
	if n := c.m.Sessions("x", 12); n != 0 || !c.m.Status().Doubts {
		t.Errorf("%d sessions before the store has answered", n)
	}
	w.run(w.now + 1000)
	if n := c.m.Sessions("x", 12); n != 6 {
		t.Errorf("%d sessions after", n)
	}
	w.up = false
	c.stop()
	c.start()
	w.run(w.now + 9000)
	if n := c.m.Sessions("x", 12); n != 0 {
		t.Errorf("%d sessions after 9 s without a store", n)
	}
	w.run(w.now + 1000)
	if n := c.m.Sessions("x", 12); n != 6 {
		t.Errorf("%d sessions after 10 s without a store", n)
	}
}

// What the admin said of a node that is off does not hit it when it comes back, however late the
// store hears it.
func TestLateForget(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 12)
	w.run(100_000)
	a, c := w.nodes[0], w.nodes[1]
	c.stop()
	w.run(w.now + 60_000)
	w.byHand(a)
	said := a.m.Forget("b")
	late := a.m.Call()
	c.start()
	c.m.Want(nil)
	for range 3 {
		w.now += 1000
		w.exchange(c)
	}
	for range 10 { // it is cut off, and time passes
		w.now += 5000
		w.store.state.dead = w.store.state.seq
	}
	if w.store.Do(late); len(w.store.state.members) != 2 {
		t.Error("forgotten, while it uses its floors")
	}
	w.now += 1000
	a.m.Done(late, nil, errors.New("no reply"))
	w.now += 10_000
	if c := a.m.Call(); c.Forget != "" {
		t.Error("it is said again after ten seconds")
	}
	if err := outcome(t, said); !errors.Is(err, ErrNotSaid) {
		t.Error(err)
	}
}

// The admin hears that the store has not forgotten a node, and why.
func TestForgetIsRefused(t *testing.T) {
	t.Parallel()
	w := calmWorld(3, 12)
	w.run(100_000)
	said := w.nodes[0].m.Forget("b")
	w.run(w.now + 5000)
	if err := outcome(t, said); !errors.Is(err, ErrCalls) {
		t.Error(err)
	}
	w.empty()
	w.run(w.now + 10_000)
	said = w.nodes[0].m.Forget("b")
	w.run(w.now + 5000)
	if err := outcome(t, said); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	said = w.nodes[0].m.Forget("b")
	w.each = func(_ bool, c *Call, r *Reply) {
		if c.Forget != "" && r.Why != Hello {
			t.Error("what was said of a former life of the store is said to the next")
		}
	}
	w.empty()
	w.run(w.now + 5000)
	if err := outcome(t, said); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// Of a limit that is not the same with all the smaller one is lent, and who has the greater one hears it.
func TestLimitsThatDiffer(t *testing.T) {
	t.Parallel()
	w := calmWorld(2, 20)
	w.nodes[0].wants[0], w.nodes[1].wants[0] = 40, 11
	w.run(100_000)
	w.keys[0].limits[0] = 40
	w.run(w.now + 20_000)
	if n := w.nodes[0].m.Sessions("x", 40); n != 20 {
		t.Errorf("%d sessions, want 20, its floor of 40", n)
	}
	less := w.nodes[0].m.Status().Less
	if len(less) != 1 || less[0] != (Less{"s:x", 20, "b"}) {
		t.Errorf("%+v", less)
	}
	if less := w.nodes[1].m.Status().Less; len(less) != 0 {
		t.Errorf("%+v of who has the smaller one", less)
	}
	w.nodes[1].wants[0] = 0
	w.run(w.now + 60_000)
	w.keys[0].limits[1] = 40
	w.run(w.now + 20_000)
	if less := w.nodes[0].m.Status().Less; len(less) != 0 {
		t.Errorf("%+v of equal limits", less)
	}
}
