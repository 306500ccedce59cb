package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func faults(t testing.TB, dir string) (list []Fault) {
	t.Helper()
	if _, err := Verify(dir, func(f Fault) { list = append(list, f) }); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestReaderSeesALiveSpoolWhole reads over and over while messages come, are
// done and go, with holes and checkpoints: it never sees a fault, and always
// those that do not change.
func TestReaderSeesALiveSpoolWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	wo := smallWriter(t, nil)
	wo.SegmentSize = recordsAt + 128<<10
	w := openWriter(t, dir, wo)
	so := smallStore(t, nil)
	so.journalMax = 8 << 10
	s := openStore(t, dir, so)
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	var fixed []ID
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 400 {
			r, _ := postBig(t, w, i)
			got.await(t, got.has(r.ID()))
			if i%100 == 0 {
				settle(t, s, r.ID(), Queued, 0)
				fixed = append(fixed, r.ID())
				continue
			}
			settle(t, s, r.ID(), Delivered, 0)
		}
	})
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	look := func() (ids []ID) {
		r, err := OpenReader(dir)
		if err != nil {
			t.Error(err)
			return nil
		}
		defer r.Close()
		if _, err := r.Stats(); err != nil {
			t.Error(err)
		}
		if err := r.Messages(func(m *Message) error {
			if !m.Done {
				ids = append(ids, m.ID)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if f := faults(t, dir); len(f) > 0 {
			t.Errorf("faults %v", f)
		}
		return ids
	}
	for live := true; live; {
		select {
		case <-ended:
			live = false
		default:
			look()
		}
	}
	if ids := look(); !slices.Equal(ids, fixed) {
		t.Errorf("left are %v, want %v", ids, fixed)
	}
}

func TestVerifyNamesEveryFault(t *testing.T) {
	t.Parallel()
	base := "testdata/format1.tar.gz"
	im := unpack(t, base)
	r, err := OpenReader(im)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var last, big ID
	if err := r.Messages(func(m *Message) error {
		if m.Blob {
			big = m.ID
		} else {
			last = m.ID
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	h, err := r.segments[last.Segment()].header(r.segments[last.Segment()].file, last)
	if err != nil {
		t.Fatal(err)
	}
	sealed, ok := readSeal(r.segments[1].file, r.segments[1].salt)
	if !ok {
		t.Fatal("no seal")
	}
	seg1, seg2 := "segments/00000001", "segments/00000002"
	for _, c := range []struct {
		what, file string
		flip, at   int64
		id         ID
	}{
		{"header", seg1, 20, 0, 0},
		{"copy of the header", seg1, headerCopyAt + 20, headerCopyAt, 0},
		{"watermark", seg1, watermarkAt + 1, watermarkAt, 0},
		{"seal", seg1, sealAt + 1, sealAt, 0},
		{"footer", seg1, sealed.footer + 100, sealed.footer, 0},
		{"record header", seg2, int64(last.Offset()) + 20, int64(last.Offset()), 0},
		{"envelope", seg2, int64(last.Offset()) + recordHeaderSize + 5, int64(last.Offset()) + recordHeaderSize, last},
		{"content", seg2, h.contentAt() + 5, h.contentAt(), last},
		{"blob", "blobs/" + blobName(big), 500000, 0, big},
		{"checkpoint", "journal/00000002.checkpoint", framesAt + 30, framesAt, 0},
		{"journal header", "journal/00000002.journal", 20, framesAt, 0},
		{"number", "next", 512, 512, 0},
	} {
		dir := unpack(t, base)
		flip(t, filepath.Join(dir, c.file), c.flip)
		list := faults(t, dir)
		hit := slices.ContainsFunc(list, func(f Fault) bool {
			return f.File == filepath.Join(dir, c.file) && (f.Offset == c.at || c.what == "journal header") && f.ID == c.id
		})
		if !hit {
			t.Errorf("%s: faults %v, want one at %s:%d", c.what, list, c.file, c.at)
		}
		if c.what != "seal" && c.what != "checkpoint" && len(list) != 1 {
			t.Errorf("%s: more faults than one: %v", c.what, list)
		}
	}
	dir := unpack(t, base)
	// One of a segment that is gone, one beside the records of a sealed one, and
	// one that a writer may be about to use.
	for _, id := range []ID{MakeID(99, recordsAt), MakeID(1, uint32(sealed.end)), MakeID(last.Segment(), 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, blobsDir, blobName(id)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list := faults(t, dir); len(list) != 2 || list[0].ID.Segment() != 1 || list[1].ID.Segment() != 99 {
		t.Errorf("contents of no message: %v", list)
	}
	dir = unpack(t, base)
	os.Remove(filepath.Join(dir, "blobs", blobName(big)))
	if list := faults(t, dir); len(list) != 1 || list[0].ID != big || !strings.Contains(list[0].String(), "missing") {
		t.Errorf("missing blob: %v", list)
	}
}

func TestReaderIsNotForOtherDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := OpenReader(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: %v", err)
	}
	if _, err := Verify(dir, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "format"), []byte("millrace spool 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReader(dir); !errors.Is(err, ErrNewer) {
		t.Errorf("newer: %v", err)
	}
}

func TestReaderFindsOneMessage(t *testing.T) {
	t.Parallel()
	s, _, last, text := nearlyDone(t, nil)
	s.upkeep()
	r, err := OpenReader(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m, err := r.Message(last.ID())
	if err != nil || len(m.States) != 1 || m.Verdict != Released || m.Done {
		t.Fatalf("%+v, %v", m, err)
	}
	c, err := r.Open(last.ID())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(c); err != nil || b.String() != text {
		t.Errorf("content of %d octets, %v", b.Len(), err)
	}
	c.Close()
	gone := MakeID(1, uint32(s.segments[1].done[0].from))
	for _, id := range []ID{gone + 8, MakeID(9, 64), MakeID(1, uint32(s.segments[1].done[0].from)+8192)} {
		if _, err := r.Message(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
	st, err := r.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if st.Messages != 1 || st.Recipients[Queued] != 1 || st.Holes < 450<<10 || st.Live < 8<<10 || st.Live > 10<<10 ||
		st.Live+st.Dead+st.Holes != st.SegmentOctets {
		t.Errorf("%+v", fmt.Sprintf("%+v", st))
	}
}
