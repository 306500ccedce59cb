package spool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// readFS notes which octets of segments are read.
type readFS struct {
	disk
	mu    sync.Mutex
	reads []span
}

func (f *readFS) Open(name string, flag int, perm os.FileMode) (File, error) {
	file, err := f.disk.Open(name, flag, perm)
	if err != nil || filepath.Base(filepath.Dir(name)) != segmentsDir {
		return file, err
	}
	return &readFile{file, f}, nil
}

type readFile struct {
	File
	fs *readFS
}

func (f *readFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	f.fs.reads = append(f.fs.reads, span{uint32(off), uint32(off) + uint32(len(p))})
	f.fs.mu.Unlock()
	return f.File.ReadAt(p, off)
}

// sealedSegment makes one with a footer, of messages with equal and with
// different envelopes, one void and one with a very long envelope.
func sealedSegment(t *testing.T) (dir string, ids map[ID]string) {
	t.Helper()
	dir = t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	ids = make(map[ID]string)
	for i := range 20 {
		e, content := letter(i/3, i%4+1)
		if i == 9 {
			e.Recipients[0].Args = []string{strings.Repeat("x", maxEntry+1)}
		}
		r, err := w.Append(t.Context(), e, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			if err := r.Void(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		release(t, r)
		ids[r.ID()] = fmt.Sprintf("%+v", e)
	}
	w.Close()
	return dir, ids
}

func wantEnvelopes(t *testing.T, got *seen, want map[ID]string) {
	t.Helper()
	if len(got.ids) != len(want) {
		t.Errorf("loaded %d messages, want %d", len(got.ids), len(want))
	}
	for id, e := range want {
		if have := fmt.Sprintf("%+v", got.env[id]); have != e {
			t.Errorf("%s: envelope %s, want %s", id, have, e)
		}
	}
}

func TestStartReadsTheFooterAndNotTheRecords(t *testing.T) {
	t.Parallel()
	dir, want := sealedSegment(t)
	files := &readFS{}
	s := openStore(t, dir, smallStore(t, files))
	got := newSeen()
	got.load(t, s)
	end := s.segments[1].scanned
	inside := 0
	for _, r := range files.reads {
		if r.to > recordsAt && int64(r.from) < end {
			inside++
		}
	}
	if inside != 2 { // header and envelope of the long one
		t.Errorf("%d reads of records", inside)
	}
	wantEnvelopes(t, got, want)
}

func TestDamagedFooterFallsBackToTheRecords(t *testing.T) {
	t.Parallel()
	dir, want := sealedSegment(t)
	name := filepath.Join(dir, segmentsDir, segmentName(1))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := readSegmentHeader(bytes.NewReader(whole))
	sealed, ok := readSeal(bytes.NewReader(whole), h.salt)
	if !ok || sealed.footer == 0 || sealed.footer+int64(sealed.size) != int64(len(whole)) {
		t.Fatalf("seal %+v, segment of %d", sealed, len(whole))
	}
	o := smallStore(t, &faultFS{root: dir, quick: true})
	o.byHand = true
	try := func(what string, b []byte) {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openStore(t, dir, o)
		got := newSeen()
		got.load(t, s)
		if len(s.Damaged()) > 0 {
			t.Errorf("%s: damage %+v", what, s.Damaged())
		}
		wantEnvelopes(t, got, want)
		s.Close()
	}
	for at := sealed.footer; at < int64(len(whole)); at += 11 * historyShare {
		b := slices.Clone(whole)
		b[at] ^= 1
		try(fmt.Sprint("flip at ", at), b)
	}
	try("cut", whole[:sealed.end])
	try("cut in the middle", whole[:sealed.end+9])
}

func TestFullDiskLeavesTheFooterOut(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	r := post(t, w, 1, 1)
	release(t, r)
	end := w.seg.end
	files.setHook(func(op operation) error {
		if op.kind == "write" && op.off == end {
			return fmt.Errorf("no room")
		}
		return nil
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files.setHook(nil)
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	if got.ids[r.ID()] != 1 || !s.segments[1].sealed {
		t.Errorf("loaded %v", got.ids)
	}
}

// FuzzFooter walks hostile footers: it ends, and stays inside.
func FuzzFooter(f *testing.F) {
	build := func(n int) []byte {
		ft := newFooter()
		for i := range n {
			e, _ := letter(i/2, i)
			h := recordHeader{id: MakeID(1, uint32(recordsAt+i*800)), index: uint32(i), recipients: uint32(i), content: 7, header: 5}
			ft.add(&h, appendEnvelope(nil, e))
		}
		return ft.bytes()
	}
	f.Add(build(0))
	f.Add(build(1))
	f.Add(build(5))
	f.Fuzz(func(t *testing.T, b []byte) {
		const salt = 9
		s := seal{end: recordsAt + 1<<20, footer: recordsAt + 1<<20, size: uint32(len(b)), crc: salted(salt, recordsAt+1<<20, b)}
		if len(b) >= 8 {
			s.count = uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
		}
		table, err := readFooter(at{b, s.footer}, salt, s, nil)
		if err != nil {
			return
		}
		last := int64(-1)
		for e := readEntries(1, table); len(e.rest) > 0; {
			rec, ok := e.next()
			if !ok {
				t.Fatal("a footer that was checked cannot be read")
			}
			if o := int64(rec.head.id.Offset()); o < recordsAt || o >= s.end || o < last {
				t.Fatalf("record at %d after %d", o, last)
			} else {
				last = o
			}
			if rec.envelope != nil {
				decodeEnvelope(rec.envelope)
			}
		}
	})
}

// at is octets at an offset.
type at struct {
	b   []byte
	off int64
}

func (a at) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(a.b).ReadAt(p, off-a.off)
}
