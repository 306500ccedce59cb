package spool

import (
	"fmt"
	"testing"
	"time"
)

// Where the mail leaves from is settled once: it outlives restarts, checkpoints and events that
// do not speak of it, and more of them than there is room for are forgotten, not cut.
func TestWhereMailLeavesFromIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	one, three := post(t, w, 1, 1), post(t, w, 2, 3)
	release(t, one)
	release(t, three)
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	due := time.Unix(1_800_000_000, 0)
	record := func(r Receipt, n uint32, st State) {
		t.Helper()
		st.Due = due
		if err := s.Record(Event{ID: r.ID(), Recipient: n, State: st}); err != nil {
			t.Fatal(err)
		}
	}
	record(one, 0, State{Tries: 1, Reply: "450 later", From: "news 192.0.2.1 2001:db8::1"})
	record(three, 1, State{Tries: 1, From: "- 192.0.2.2"})
	record(three, 2, State{Tries: 1})
	check := func(when string) {
		t.Helper()
		got := newSeen()
		got.load(t, s)
		for _, x := range []struct {
			r    Receipt
			n    int
			from string
		}{{one, 0, "news 192.0.2.1 2001:db8::1"}, {three, 0, ""}, {three, 1, "- 192.0.2.2"}, {three, 2, ""}} {
			if st := got.states[x.r.ID()][x.n]; st.From != x.from {
				t.Errorf("%s: %s/%d from %q, not %q", when, x.r.ID(), x.n, st.From, x.from)
			}
		}
	}
	reopen := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, o)
	}
	reopen()
	check("after a restart")
	record(one, 0, State{Tries: 2, Reply: "450 later still"})
	record(three, 1, State{Held: true})
	reopen()
	check("after events that do not speak of it")
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	reopen()
	check("after a checkpoint")
}

func TestMoreSourcesThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	x := newFroms()
	for i := range maxReplies {
		x.hold(fmt.Sprintf("news 10.0.%d.%d", i>>8, i&0xff))
	}
	if no := x.hold("news 192.0.2.1 2001:db8::1"); no != 0 {
		t.Errorf("%q", x.text(no))
	}
	x.drop(1)
	if no := x.hold("news 192.0.2.1 2001:db8::1"); x.text(no) != "news 192.0.2.1 2001:db8::1" {
		t.Errorf("%q", x.text(no))
	}
}

// TestPoolOfARuleIsKept has it in the envelope, and reads what was written before there was one.
func TestPoolOfARuleIsKept(t *testing.T) {
	t.Parallel()
	for _, e := range []Envelope{{Stream: "acme", Pool: "news"}, {Stream: "acme", Formerly: "r-77:acme", Pool: "news"}, {Pool: "news"}, {Stream: "acme", Formerly: "x"}, {}} {
		got, err := decodeEnvelope(appendEnvelope(nil, &e))
		if err != nil || got.Stream != e.Stream || got.Formerly != e.Formerly || got.Pool != e.Pool {
			t.Errorf("%+v came back as %+v, %v", e, got, err)
		}
	}
}
