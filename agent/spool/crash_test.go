package spool

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
)

// crashes collects what power losses leave of /d/f.
func crashes(t *testing.T, write func(p *memFS, f File)) map[string]bool {
	t.Helper()
	left := make(map[string]bool)
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := newMachine(rng)
		p := m.process()
		if err := p.MkdirAll("/d", 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := p.Open("/d/f", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		write(p, f)
		after := m.crash(rng).process()
		g, err := after.Open("/d/f", os.O_RDONLY, 0)
		if err != nil {
			left["gone"] = true
			continue
		}
		size, _ := g.Size()
		b := make([]byte, size)
		g.ReadAt(b, 0)
		if size == 0 {
			left["empty"] = true
			continue
		}
		// One letter for each sector.
		var text strings.Builder
		for ; len(b) > 0; b = b[min(sectorSize, len(b)):] {
			c := b[0]
			if c == 0 {
				c = '0'
			}
			text.WriteByte(c)
		}
		left[text.String()] = true
	}
	return left
}

func sectors(text string) []byte {
	var b []byte
	for i := range text {
		b = append(b, bytes.Repeat([]byte{text[i]}, sectorSize)...)
	}
	return b
}

// TestCrashModel sees to it that the machine of these tests forgets what it may
// forget, and nothing else.
func TestCrashModel(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	write := func(f File, text string) {
		_, err := f.WriteAt(sectors(text), 0)
		must(err)
	}
	for _, c := range []struct {
		name  string
		write func(p *memFS, f File)
		want  []string // all of these, and no others
	}{
		{"name not synced", func(_ *memFS, f File) { write(f, "ab"); must(f.Sync()) }, []string{"gone", "ab"}},
		{"all synced", func(p *memFS, f File) { write(f, "ab"); must(f.Sync()); must(p.SyncDir("/d")) }, []string{"ab"}},
		{"data not synced", func(p *memFS, f File) { must(p.SyncDir("/d")); write(f, "ab") }, []string{"empty", "ab", "0b", "a0", "00"}},
		{"overwritten", func(p *memFS, f File) {
			must(p.SyncDir("/d"))
			write(f, "ab")
			must(f.Sync())
			write(f, "AB")
			write(f, "xx")
		}, []string{"ab", "aB", "Ab", "AB", "xb", "ax", "xB", "Ax", "xx"}},
		{"truncated", func(p *memFS, f File) {
			must(p.SyncDir("/d"))
			write(f, "ab")
			must(f.Sync())
			must(f.Truncate(sectorSize))
		}, []string{"a", "ab", "a0"}},
		{"hole", func(p *memFS, f File) {
			must(p.SyncDir("/d"))
			write(f, "aaaaaaaabbbbbbbb")
			must(f.Sync())
			must(f.(*memFile).Punch(0, 4096))
		}, []string{"aaaaaaaabbbbbbbb", "00000000bbbbbbbb"}},
		{"failed sync", func(p *memFS, f File) {
			must(p.SyncDir("/d"))
			write(f, "ab")
			must(f.Sync())
			write(f, "AB")
			p.m.fault = func(memOp) error { return syscall.EIO }
			if f.Sync() == nil {
				t.Error("no error")
			}
			p.m.fault = nil
			must(f.Sync()) // says nothing of it
			b := make([]byte, 1)
			if f.ReadAt(b, 0); b[0] != 'A' {
				t.Errorf("reads %q", b)
			}
		}, []string{"ab", "AB", "aB", "Ab"}},
		{"renamed", func(p *memFS, f File) {
			write(f, "ab")
			must(f.Sync())
			must(p.SyncDir("/d"))
			g, err := p.Open("/d/g", os.O_RDWR|os.O_CREATE, 0o600)
			must(err)
			write(g, "xy")
			must(g.Sync())
			must(p.Rename("/d/g", "/d/f"))
		}, []string{"ab", "xy"}},
	} {
		left := crashes(t, c.write)
		for _, w := range c.want {
			if !left[w] {
				t.Errorf("%s: never left %q", c.name, w)
			}
			delete(left, w)
		}
		if len(left) > 0 {
			t.Errorf("%s: left %v", c.name, left)
		}
	}
}

// TestSweepLeavesContentsOfYoungSegments starts an agent while a writer makes a
// segment that the agent's first look at the directory did not show.
func TestSweepLeavesContentsOfYoungSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	e, _ := letter(1, 1)
	text := strings.Repeat("x", blobSize)
	r, err := w.Append(t.Context(), e, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	release(t, r)
	got := newSeen()
	got.load(t, s)
	if err := s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
		got.add(id, e, states, orphan)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got.ids[r.ID()] != 1 || content(t, s, r.ID()) != text {
		t.Errorf("yielded %v", got.ids)
	}
}

// TestVerdictIsDurableBeforeItsContentGoes voids a large message, and has the
// first sync of its verdict, by an agent, fail.
func TestVerdictIsDurableBeforeItsContentGoes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		m := newMachine(rand.New(rand.NewPCG(seed, 0)))
		fs := m.process()
		w, err := OpenWriter("/spool", WriterOptions{FS: fs, SegmentSize: wide})
		if err != nil {
			t.Fatal(err)
		}
		e, _ := letter(1, 1)
		r, err := w.Append(t.Context(), e, strings.NewReader(strings.Repeat("x", blobSize)))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Void(); err != nil {
			t.Fatal(err)
		}
		fs.kill()
		w.Close()
		m.fault = func(op memOp) error {
			if op.kind == "sync" && strings.Contains(op.name, segmentsDir) {
				return syscall.EIO
			}
			return nil
		}
		o := StoreOptions{FS: m.process(), journalStep: 4096, byHand: true}
		s, err := OpenStore("/spool", o)
		if err != nil {
			t.Fatal(err)
		}
		newSeen().load(t, s)
		m.fault = nil
		s.upkeep()
		o.FS = m.crash(m.rng).process()
		if s, err = OpenStore("/spool", o); err != nil {
			t.Fatal(err)
		}
		got := newSeen()
		got.load(t, s)
		if err := s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
			got.add(id, e, states, orphan)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for id := range got.ids { // it may come, but then with its content
			content(t, s, id)
		}
		s.Close()
	}
}
