package lease

import (
	"path/filepath"
	"testing"
	"time"
)

func TestTwoNodesShare(t *testing.T) {
	var now time.Duration = time.Hour
	boot := func() time.Duration { return now }
	dir := t.TempDir()
	s := &Store{Run: "one"}
	var ms []*Member
	for _, n := range []string{"a", "b"} {
		m, err := Open(filepath.Join(dir, n), Options{Fleet: "f", Node: n, Boot: boot})
		if err != nil {
			t.Fatal(err)
		}
		m.Want([]Demand{{Key: "k", Kind: Sessions, Limit: 10, Want: 10}})
		ms = append(ms, m)
	}
	ms[0].Found()
	for range 120 * 5 {
		now += 200 * time.Millisecond
		for _, m := range ms {
			if now >= m.Due() {
				c := m.Call()
				r := s.Do(c)
				m.Done(c, r, nil)
			}
		}
		if now%(5*time.Second) == 0 {
			t.Log(now, ms[0].Sessions("k", 10), ms[1].Sessions("k", 10), ms[0].Status(), ms[1].Status())
		}
	}
}
