package lease

import "testing"

// stillWorld has n nodes that are off, a store that is well, and one limit. Nothing is lost or late.
func stillWorld(n int, kind Kind, key, day string, limit int64) *world {
	w := newWorld(7, n)
	w.calm = true
	w.share(kind, key, day, limit)
	return w
}

// calmWorld has n nodes and a store that are well, and one limit.
func calmWorld(n int, limit int64) *world {
	w := stillWorld(n, Sessions, "x", "", limit)
	for _, h := range w.nodes {
		h.start()
	}
	return w
}

func (w *world) use() (list []int64) {
	for _, h := range w.nodes {
		use := int64(0)
		if h.m != nil {
			use = int64(h.m.Sessions("x", int(w.keys[0].limits[h.i])))
		}
		list = append(list, use)
	}
	return list
}

func (w *world) fine(t *testing.T) {
	t.Helper()
	if w.wrong != "" {
		t.Fatal(w.wrong)
	}
}

// pair is a world in which two of three nodes are members.
func pair(limit int64) (w *world, a, b, c *host) {
	w = stillWorld(3, Sessions, "x", "", limit)
	a, b, c = w.nodes[0], w.nodes[1], w.nodes[2]
	a.start()
	b.start()
	w.run(100_000)
	return w, a, b, c
}

// lending is a world of two members in which all that is above the floors is lent to the first.
func lending(t *testing.T) (w *world, a, b *host) {
	t.Helper()
	w = calmWorld(2, 21)
	a, b = w.nodes[0], w.nodes[1]
	a.wants[0] = 21
	w.run(100_000)
	if u := w.use(); u[0] != 11 {
		t.Fatalf("%v: nothing is lent", u)
	}
	return w, a, b
}

// empty gives the store's place to one that knows nothing.
func (w *world) empty() { w.storeLoses(&Store{Unique: func() string { return w.call }}) }

// leave has a node leave, and the store hear of it.
func (h *host) leave(t *testing.T) {
	t.Helper()
	c, err := h.m.Leave()
	if err != nil {
		t.Fatal(err)
	}
	h.send(h.m, c)
}

// exchange has the store execute a member's next call, and the member take the reply.
func (w *world) exchange(h *host) *Reply {
	c := h.m.Call()
	if c == nil {
		return nil
	}
	w.call = w.serial()
	r := w.store.Do(c)
	h.m.Done(c, r, nil)
	w.check()
	return r
}

// byHand ends that a member's calls are made by the world: the test makes them.
func (w *world) byHand(h *host) { w.queue, h.m.call = nil, nil }
