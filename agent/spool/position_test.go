package spool

import (
	"testing"
)

// TestPositionHasWhatCameBeforeIt has two writers, each with a segment of its own: what the older
// segment gets later is beyond, though its ids are less. Segments that are full, reclaimed or new
// meanwhile are told from it, and another spool is another.
func TestPositionHasWhatCameBeforeIt(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, elsewhere} {
		if _, err := LoopKey(d); err != nil {
			t.Fatal(err)
		}
	}
	first, second := openWriter(t, dir, smallWriter(t, nil)), openWriter(t, dir, smallWriter(t, nil))
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	seed := 0
	put := func(w *Writer) ID {
		seed++
		r := post(t, w, seed, 1)
		release(t, r)
		got.await(t, got.has(r.ID()))
		return r.ID()
	}
	if p := s.Position(); p.Has(MakeID(1, recordsAt)) {
		t.Errorf("of an empty spool: %v", p)
	}
	before := []ID{put(first), put(second), put(first), put(second)}
	p := s.Position()
	after := []ID{put(first), put(second)}
	first.Close()
	third := openWriter(t, dir, smallWriter(t, nil))
	for range 3 {
		after = append(after, put(third), put(second))
	}
	if after[0] > before[3] && before[3] > before[0] {
		t.Fatalf("ids do not show it: %v, then %v", before, after)
	}
	again, err := ParsePosition(p.String())
	if err != nil || again.String() != p.String() || !s.IsAt(again) {
		t.Fatalf("%v is read as %v, %v", p, again, err)
	}
	for _, id := range before {
		if !again.Has(id) {
			t.Errorf("%v is not before %v", id, p)
		}
	}
	for _, id := range after {
		if again.Has(id) {
			t.Errorf("%v is before %v", id, p)
		}
	}
	if now := s.Position(); !now.Has(after[0]) || !now.Has(after[len(after)-1]) {
		t.Errorf("later: %v", now)
	}
	all := append(before, after...)
	s, _ = reopened(t, s, dir, smallStore(t, nil))
	last := s.Position()
	for _, id := range all {
		if !last.Has(id) {
			t.Errorf("after a restart %v is not before %v", id, last)
		}
	}
	other := openStore(t, elsewhere, smallStore(t, nil))
	newSeen().load(t, other)
	if other.IsAt(p) {
		t.Error("a position is one of another spool")
	}
	if none := (Position{}); none.String() != "" || none.Has(before[0]) {
		t.Errorf("none: %v", none)
	}
	for _, text := range []string{"", "x", "x y", "x 1 2", "x 4294967296"} {
		if p, err := ParsePosition(text); err == nil {
			t.Errorf("%q is %v", text, p)
		}
	}
}
