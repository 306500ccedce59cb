package spool

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// eioFS cannot read one place of one segment.
type eioFS struct {
	disk
	name string
	off  int64
	well *atomic.Bool // if it is: the disk reads everything again
}

func (f eioFS) Open(name string, flag int, perm os.FileMode) (File, error) {
	file, err := f.disk.Open(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, f.name) {
		return file, err
	}
	return eioFile{file, f}, nil
}

type eioFile struct {
	File
	fs eioFS
}

func (f eioFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.fs.off && f.fs.off < off+int64(len(p)) && !f.fs.well.Load() {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(p, off)
}

func TestOneUnreadableSegmentDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(t *testing.T, o *StoreOptions, name string){
		"verdicts": func(_ *testing.T, o *StoreOptions, _ string) {
			o.FS = eioFS{name: segmentName(1), off: verdictsAt, well: new(atomic.Bool)}
		},
		"cut short":  func(t *testing.T, _ *StoreOptions, name string) { truncate(t, name, 5000) },
		"cut to 100": func(t *testing.T, _ *StoreOptions, name string) { truncate(t, name, 100) },
		"empty":      func(t *testing.T, _ *StoreOptions, name string) { truncate(t, name, 0) },
		"foreign": func(t *testing.T, _ *StoreOptions, name string) {
			if err := os.WriteFile(name, []byte(strings.Repeat("not a segment", 10000)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var rs []Receipt
			for i := range 2 {
				w := openWriter(t, dir, smallWriter(t, nil))
				rs = append(rs, post(t, w, i, 2))
				release(t, rs[i])
				w.Close()
			}
			o := smallStore(t, nil)
			o.byHand = true
			s := openStore(t, dir, o)
			newSeen().load(t, s)
			settle(t, s, rs[0].ID(), Delivered, 0)
			s.Close()
			name := filepath.Join(dir, segmentsDir, segmentName(1))
			whole, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			bad := o
			spoil(t, &bad, name)
			s = openStore(t, dir, bad)
			got := newSeen()
			got.load(t, s)
			err = s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
				got.add(id, e, states, orphan)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.ids) != 1 || got.ids[rs[1].ID()] != 1 {
				t.Errorf("loaded %v", got.ids)
			}
			if d := append(s.Damaged(), s.Unreadable()...); len(d) == 0 || d[0].Segment != 1 {
				t.Errorf("damage %+v", d)
			}
			s.upkeep()
			if err := s.rotate(); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if err := os.WriteFile(name, whole, 0o600); err != nil { // repaired
				t.Fatal(err)
			}
			s = openStore(t, dir, o)
			got = newSeen()
			got.load(t, s)
			if st := got.states[rs[0].ID()]; len(st) != 2 || st[0].Status != Delivered || st[1].Status != Queued {
				t.Errorf("after the repair: %v", st)
			}
		})
	}
}

// TestUnreadableSegmentIsTriedAgain starts an agent while the disk refuses to
// read one place of a segment, and then reads it.
func TestUnreadableSegmentIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	// The envelope of the second is too long for the footer.
	rs := []Receipt{post(t, w, 0, 2), post(t, w, 1, 300), post(t, w, 2, 2)}
	release(t, rs...)
	w.Close()
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	for _, r := range rs {
		settle(t, s, r.ID(), Delivered, 1)
	}
	s.Close()
	for what, off := range map[string]int64{"verdicts": verdictsAt, "envelope": int64(rs[1].ID().Offset()) + 100} {
		bad := o
		well := new(atomic.Bool)
		bad.FS = eioFS{name: segmentName(1), off: off, well: well}
		s := openStore(t, dir, bad)
		got := newSeen()
		got.load(t, s)
		if d := s.Unreadable(); len(d) != 1 || d[0].Segment != 1 || !strings.Contains(d[0].Reason, "input/output error") {
			t.Errorf("%s: unreadable: %+v", what, d)
		}
		s.upkeep()
		if err := s.rotate(); err != nil {
			t.Fatal(err)
		}
		well.Store(true)
		if err := s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
			got.add(id, e, states, orphan)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if st := got.states[r.ID()]; got.ids[r.ID()] != 1 || len(st) < 2 || st[0].Status != Queued || st[1].Status != Delivered {
				t.Errorf("%s: %s came %d times: %v", what, r.ID(), got.ids[r.ID()], st)
			}
		}
		if d := append(s.Damaged(), s.Unreadable()...); len(d) > 0 {
			t.Errorf("%s: damage after it could be read: %+v", what, d)
		}
		s.Close()
	}
}

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}
