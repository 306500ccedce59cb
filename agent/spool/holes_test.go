package spool

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// postBig appends letter i with some 8 KB of content.
func postBig(t testing.TB, w *Writer, i int) (Receipt, string) {
	t.Helper()
	e, content := letter(i, 1)
	content += strings.Repeat("0123456789abcde\r\n", 480)
	r, err := w.Append(t.Context(), e, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	release(t, r)
	return r, content
}

// allocated returns the octets that a file takes on disk.
func allocated(t testing.TB, name string) int64 {
	t.Helper()
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}

// nearlyDone makes a sealed segment of 60 messages of which all but the 30th are
// done, and holes not yet made.
func nearlyDone(t *testing.T, files FS) (s *Store, o StoreOptions, last Receipt, text string) {
	t.Helper()
	dir := t.TempDir()
	if f, ok := files.(*faultFS); ok {
		f.root = dir
	}
	wo := smallWriter(t, nil)
	wo.SegmentSize = 1 << 20
	w := openWriter(t, dir, wo)
	var rs []Receipt
	for i := range 60 {
		r, content := postBig(t, w, i)
		rs = append(rs, r)
		if i == 30 {
			last, text = r, content
		}
	}
	w.Close()
	o = smallStore(t, files)
	o.byHand = true
	s = openStore(t, dir, o)
	newSeen().load(t, s)
	for i, r := range rs {
		if i != 30 {
			settle(t, s, r.ID(), Delivered, 0)
		}
	}
	return s, o, last, text
}

// onlyLast starts the agent again: one message is left, and all is well.
func onlyLast(t *testing.T, s *Store, o StoreOptions, last Receipt, text string) *Store {
	t.Helper()
	s, got := reopened(t, s, s.dir, o)
	if len(got.ids) != 1 || got.ids[last.ID()] != 1 {
		t.Errorf("loaded %v", got.ids)
	}
	if content(t, s, last.ID()) != text {
		t.Error("content differs")
	}
	if d := s.Damaged(); len(d) > 0 {
		t.Errorf("damage: %+v", d)
	}
	return s
}

func TestStuckRecipientPinsOnlyItsOwnMessage(t *testing.T) {
	t.Parallel()
	files := &faultFS{}
	s, o, last, text := nearlyDone(t, files)
	name := s.tree.segment(1)
	before := allocated(t, name)
	n := len(files.since(0))
	s.upkeep()
	var order []string
	for _, op := range files.since(n) {
		if op.kind == "punch" || strings.HasPrefix(op.name, journalDir) {
			order = append(order, op.kind)
		}
	}
	if want := []string{"write", "sync", "punch", "punch"}; !slices.Equal(order[:4], want) {
		t.Errorf("order %q, want %q first", order, want)
	}
	if after := allocated(t, name); after > before-450<<10 {
		t.Errorf("%d octets on disk, before %d", after, before)
	}
	if n := len(s.segments[1].keys); n != 1 {
		t.Errorf("%d messages remembered", n)
	}
	s = onlyLast(t, s, o, last, text)
	if err := s.rotate(); err != nil { // from here on the checkpoint knows
		t.Fatal(err)
	}
	s = onlyLast(t, s, o, last, text)
	settle(t, s, last.ID(), Delivered, 0)
	s.upkeep()
	idle(t, s, 0)
}

// While a backlog is sent its segments go as a whole; holes are for what lasts.
func TestHolesWaitForSegmentsThatGoAsAWhole(t *testing.T) {
	t.Parallel()
	files := &faultFS{}
	s, o, last, text := nearlyDone(t, files)
	now := time.Now()
	s.opts.Now = func() time.Time { return now }
	s.opts.holesAfter = 10 * time.Second
	s.segments[1].freedAt = now
	punches := func() (n int) {
		for _, op := range files.since(0) {
			if op.kind == "punch" {
				n++
			}
		}
		return n
	}
	now = now.Add(9 * time.Second)
	s.upkeep()
	if punches() != 0 || !s.young {
		t.Errorf("%d holes after 9 s; to be looked at again: %v", punches(), s.young)
	}
	now = now.Add(time.Second)
	s.upkeep()
	if punches() == 0 || s.young {
		t.Errorf("%d holes after 10 s; to be looked at again: %v", punches(), s.young)
	}
	onlyLast(t, s, o, last, text)
}

func TestHolesAreNoDamageToAScan(t *testing.T) {
	t.Parallel()
	s, o, last, text := nearlyDone(t, nil)
	s.upkeep()
	seg := s.segments[1]
	sealed, _ := readSeal(seg.file, seg.salt)
	sealed.footer, sealed.size, sealed.crc = 0, 0, 0 // as older versions sealed
	if _, err := seg.file.WriteAt(sealed.encode(seg.salt), sealAt); err != nil {
		t.Fatal(err)
	}
	onlyLast(t, s, o, last, text)
}

func TestHoleIsMadeAfterACrashThatCameBeforeIt(t *testing.T) {
	t.Parallel()
	files := &faultFS{}
	s, o, last, text := nearlyDone(t, files)
	name := s.tree.segment(1)
	files.setHook(func(op operation) error {
		if op.kind == "punch" {
			return syscall.EIO
		}
		return nil
	})
	s.upkeep()
	before := allocated(t, name)
	files.setHook(nil)
	s = onlyLast(t, s, o, last, text)
	s.upkeep()
	if after := allocated(t, name); after > before-450<<10 {
		t.Errorf("%d octets on disk, before %d", after, before)
	}
}

func TestHoleWaitsForTheJournal(t *testing.T) {
	t.Parallel()
	files := &faultFS{}
	s, o, last, text := nearlyDone(t, files)
	files.setHook(func(op operation) error {
		if op.kind == "sync" && strings.HasPrefix(op.name, journalDir) {
			return syscall.EIO
		}
		if op.kind == "punch" {
			t.Error("punched before the journal was synced")
		}
		return nil
	})
	s.upkeep()
	files.setHook(nil)
	s.upkeep() // a new journal and a checkpoint
	onlyLast(t, s, o, last, text)
}

// countingHandler counts warnings.
type countingHandler struct {
	slog.Handler
	warnings *atomic.Int64
}

func (countingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h countingHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		h.warnings.Add(1)
	}
	return h.Handler.Handle(ctx, r)
}

func TestFileSystemWithoutHolesIsToldOnceAndStillReclaims(t *testing.T) {
	t.Parallel()
	files := &faultFS{}
	s, o, last, text := nearlyDone(t, files)
	var warnings atomic.Int64
	s.log = slog.New(countingHandler{slog.DiscardHandler, &warnings})
	punches := 0
	files.setHook(func(op operation) error {
		if op.kind == "punch" {
			punches++
			return syscall.EOPNOTSUPP
		}
		return nil
	})
	s.upkeep()
	s.upkeep()
	if punches != 1 || warnings.Load() != 1 {
		t.Errorf("%d tries, %d warnings", punches, warnings.Load())
	}
	s = onlyLast(t, s, o, last, text)
	settle(t, s, last.ID(), Delivered, 0)
	s.upkeep()
	idle(t, s, 0)
}

func TestContentBeingReadIsNotPunched(t *testing.T) {
	t.Parallel()
	s, _, last, text := nearlyDone(t, nil)
	c, err := s.Open(last.ID())
	if err != nil {
		t.Fatal(err)
	}
	settle(t, s, last.ID(), Cancelled, 0)
	s.makeHoles()
	var b bytes.Buffer
	if _, err := b.ReadFrom(c); err != nil || b.String() != text {
		t.Errorf("read %d octets, %v", b.Len(), err)
	}
	c.Close()
}

func TestSegmentWithDamageIsKeptWhole(t *testing.T) {
	t.Parallel()
	s, o, last, _ := nearlyDone(t, nil)
	name := s.tree.segment(1)
	settle(t, s, last.ID(), Damaged, 0)
	before := allocated(t, name)
	for range 3 {
		s.upkeep()
		if err := s.rotate(); err != nil {
			t.Fatal(err)
		}
		var got *seen
		s, got = reopened(t, s, s.dir, o)
		if len(got.ids) != 0 {
			t.Errorf("loaded %v", got.ids)
		}
		if d := s.Damaged(); len(d) != 1 || d[0].ID != last.ID() || !d[0].Recorded {
			t.Errorf("damage: %+v", d)
		}
	}
	s.upkeep()
	if after := allocated(t, name); after != before {
		t.Errorf("%d octets on disk, before %d", after, before)
	}
}

func TestUnreadableEnvelopeGetsAnOutcome(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	a, b, c := post(t, w, 1, 1), post(t, w, 2, 3), post(t, w, 3, 1)
	release(t, a, b, c)
	w.Close()
	name := filepath.Join(dir, segmentsDir, segmentName(1))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readSegmentHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(seal{end: w.endOf(t, f), count: 3}.encode(h.salt), sealAt) // without a footer
	f.Close()
	flip(t, name, int64(b.ID().Offset())+recordHeaderSize+9)
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	got := newSeen()
	got.load(t, s)
	d := s.Damaged()
	if len(got.ids) != 2 || len(d) != 1 || d[0].ID != b.ID() || d[0].Recipients != 3 || d[0].Recorded {
		t.Fatalf("loaded %v, damage %+v", got.ids, d)
	}
	settle(t, s, b.ID(), Damaged, 0, 1, 2)
	if err := s.Record(Event{ID: b.ID(), Recipient: 1, State: State{}}); !errors.Is(err, ErrFinal) {
		t.Errorf("Record: %v", err)
	}
	settle(t, s, a.ID(), Delivered, 0)
	settle(t, s, c.ID(), Delivered, 0)
	s.upkeep()
	s, _ = reopened(t, s, dir, o)
	if d := s.Damaged(); len(d) == 0 || !d[0].Recorded {
		t.Errorf("damage after a restart: %+v", d)
	}
}

// endOf returns where the records of a sealed segment end.
func (w *Writer) endOf(t *testing.T, f *os.File) int64 {
	t.Helper()
	h, err := readSegmentHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := readSeal(f, h.salt)
	if !ok {
		t.Fatal("no seal")
	}
	return s.end
}
