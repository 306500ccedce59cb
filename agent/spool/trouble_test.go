package spool

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// eioFS cannot read one place of one segment.
type eioFS struct {
	disk
	name string
	off  int64
}

func (f eioFS) Open(name string, flag int, perm os.FileMode) (File, error) {
	file, err := f.disk.Open(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, f.name) {
		return file, err
	}
	return eioFile{file, f.off}, nil
}

type eioFile struct {
	File
	bad int64
}

func (f eioFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.bad && f.bad < off+int64(len(p)) {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(p, off)
}

func TestOneUnreadableSegmentDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(t *testing.T, o *StoreOptions, name string){
		"verdicts":   func(_ *testing.T, o *StoreOptions, _ string) { o.FS = eioFS{name: segmentName(1), off: verdictsAt} },
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
			err = s.lookAtAll(func(id ID, e *Envelope, orphan bool) error { got.add(id, e, nil, orphan); return nil })
			if err != nil {
				t.Fatal(err)
			}
			if len(got.ids) != 1 || got.ids[rs[1].ID()] != 1 {
				t.Errorf("loaded %v", got.ids)
			}
			if d := s.Damaged(); len(d) == 0 || d[0].Segment != 1 {
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

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}
