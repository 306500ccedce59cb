package spool

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// settle journals one status for recipients of a message.
func settle(t testing.TB, s *Store, id ID, st Status, recipients ...uint32) {
	t.Helper()
	for _, r := range recipients {
		if err := s.Record(Event{ID: id, Recipient: r, State: State{Status: st, Tries: 1}}); err != nil {
			t.Fatal(err)
		}
	}
}

// reopened closes a store and loads it anew.
func reopened(t testing.TB, s *Store, dir string, o StoreOptions) (*Store, *seen) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, o)
	got := newSeen()
	got.load(t, s)
	return s, got
}

// idle blocks until the store has reclaimed down to n segment files.
func idle(t testing.TB, s *Store, n int) {
	t.Helper()
	until(t, "segments are not reclaimed", func() bool {
		names, err := os.ReadDir(filepath.Join(s.dir, segmentsDir))
		if err != nil {
			t.Fatal(err)
		}
		return len(names) == n
	})
}

func TestPendingMessageIsNotYielded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	waits := post(t, w, 1, 1)
	kept := post(t, w, 2, 1)
	if err := kept.Void(); err != nil {
		t.Fatal(err)
	}
	after := post(t, w, 3, 1)
	release(t, after)
	got.await(t, got.has(after.ID()))
	if len(got.ids) != 1 {
		t.Errorf("yielded %v", got.ids)
	}
	release(t, waits)
	got.await(t, got.has(waits.ID()))
	if got.ids[kept.ID()] != 0 {
		t.Error("a voided message was yielded")
	}
}

func TestPendingMessageOfClosedWriterIsAnOrphan(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before the agent starts", "while it follows"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := openWriter(t, dir, smallWriter(t, nil))
			orphan, plain := post(t, w, 1, 1), post(t, w, 2, 1)
			kept := post(t, w, 3, 1)
			if err := kept.Void(); err != nil {
				t.Fatal(err)
			}
			release(t, plain)
			early := when == "before the agent starts"
			if early {
				w.Close()
			}
			s := openStore(t, dir, smallStore(t, nil))
			got := newSeen()
			got.load(t, s)
			stop := got.follow(t, s)
			if !early {
				got.await(t, got.has(plain.ID()))
				w.Close()
			}
			got.await(t, got.has(orphan.ID()))
			if !got.orphans[orphan.ID()] || got.orphans[plain.ID()] || len(got.ids) != 2 {
				t.Errorf("yielded %v, orphans %v", got.ids, got.orphans)
			}
			stop()
			_, again := reopened(t, s, dir, smallStore(t, nil))
			if !again.has(orphan.ID(), plain.ID())() || len(again.ids) != 2 {
				t.Errorf("after a restart: %v", again.ids)
			}
		})
	}
}

func TestFinalRecipientStaysFinal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	r, other := post(t, w, 1, 2), post(t, w, 2, 2)
	release(t, r, other)
	s := openStore(t, dir, smallStore(t, nil))
	newSeen().load(t, s)
	settle(t, s, r.ID(), Delivered, 0)
	err := s.Record(
		Event{ID: r.ID(), Recipient: 0, State: State{Status: Queued}},
		Event{ID: other.ID(), Recipient: 0, State: State{Status: HandedBack}},
		Event{ID: other.ID(), Recipient: 0, State: State{Status: Queued}},
		Event{ID: other.ID(), Recipient: 2, State: State{Status: Delivered}},
	)
	if !errors.Is(err, ErrFinal) || !errors.Is(err, ErrNotFound) {
		t.Errorf("Record: %v", err)
	}
	_, got := reopened(t, s, dir, smallStore(t, nil))
	if a, b := got.states[r.ID()][0].Status, got.states[other.ID()][0].Status; a != Delivered || b != HandedBack {
		t.Errorf("states %v and %v", a, b)
	}
}

func TestDoneSegmentIsUnlinkedAfterJournalSync(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 2)
	e, _ := letter(2, 1)
	big, err := w.Append(t.Context(), e, strings.NewReader(strings.Repeat("x", blobSize)))
	if err != nil {
		t.Fatal(err)
	}
	kept := post(t, w, 3, 1)
	release(t, r, big)
	if err := kept.Void(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	o := smallStore(t, files)
	o.byHand = true // no sync but that of the reclaim
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	n := len(files.since(0))
	done := State{Status: Delivered}
	if err := s.Record(Event{ID: r.ID(), Recipient: 0, State: done}, Event{ID: r.ID(), Recipient: 1, State: done}, Event{ID: big.ID(), Recipient: 0, State: done}); err != nil {
		t.Fatal(err)
	}
	s.reclaim()
	if _, err := s.Open(r.ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open: %v", err)
	}
	wantTrace(t, files.since(n),
		"write journal/00000001.journal.tmp",
		"sync journal/00000001.journal.tmp",
		"remove blobs/"+blobName(big.ID()),
		"remove segments/00000001",
		"syncdir segments",
	)
	// The number is not used again.
	w2 := openWriter(t, dir, smallWriter(t, nil))
	if n := post(t, w2, 4, 1).ID().Segment(); n != 2 {
		t.Errorf("next segment has number %d, want 2", n)
	}
}

func TestFullSegmentIsReclaimedWhileItsWriterLives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := smallWriter(t, nil)
	o.SegmentSize = recordsAt + 4096
	w := openWriter(t, dir, o)
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	for i := range 100 {
		r := post(t, w, i, 1)
		release(t, r)
		got.await(t, got.has(r.ID()))
		settle(t, s, r.ID(), Delivered, 0)
	}
	idle(t, s, 1)
	if len(got.ids) != 100 {
		t.Errorf("yielded %d messages", len(got.ids))
	}
}

func TestVoidedBlobKeepsItsVerdictLongerThanItsContent(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, nil))
	e, _ := letter(2, 1)
	big, err := w.Append(t.Context(), e, strings.NewReader(strings.Repeat("x", blobSize)))
	if err != nil {
		t.Fatal(err)
	}
	if err := big.Void(); err != nil {
		t.Fatal(err)
	}
	removed := make(chan struct{})
	files.setHook(func(op operation) error {
		if op.kind == "remove" && strings.HasPrefix(op.name, blobsDir) {
			close(removed)
		}
		return nil
	})
	s := openStore(t, dir, smallStore(t, files))
	newSeen().load(t, s)
	select {
	case <-removed:
	case <-time.After(patience):
		t.Fatal("the content stays")
	}
	var order []string
	for _, op := range files.since(0) {
		if strings.HasPrefix(op.name, segmentsDir) && op.kind == "sync" || strings.HasPrefix(op.name, blobsDir) {
			order = append(order, op.String())
		}
	}
	if want := []string{"sync segments/00000001", "remove blobs/" + blobName(big.ID())}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

func TestStrayFilesAreSwept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 1)
	release(t, r)
	mine, err := w.newBlob() // of a message that is still coming in
	if err != nil {
		t.Fatal(err)
	}
	defer mine.remove()
	live := "blobs/" + blobName(MakeID(1, 0x7fff0)) // named, its record not yet written
	stray := []string{"blobs/0123.tmp", "segments/00000007.tmp", "journal/00000009.journal.tmp", "blobs/" + blobName(MakeID(9, 64))}
	for _, name := range append(stray, live) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newSeen().load(t, openStore(t, dir, smallStore(t, nil)))
	for _, name := range stray {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{filepath.Join(dir, live), mine.name} {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("swept: %v", err)
		}
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, smallStore(t, nil))
	if _, err := OpenStore(dir, smallStore(t, nil)); !errors.Is(err, ErrLocked) {
		t.Errorf("second OpenStore: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, smallStore(t, nil))
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	release(t, post(t, w, 1, 1))
	w.Close()
	s := openStore(t, dir, smallStore(t, nil))
	s.Close()
	bump := func(name, magic string, sumAt int64) func(t *testing.T) {
		return func(t *testing.T) {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, sumAt+4)
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			saved := slices.Clone(b)
			b[8]++
			sum := salted(0, 0, b[:sumAt])
			b[sumAt], b[sumAt+1], b[sumAt+2], b[sumAt+3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
			f.WriteAt(b, 0)
			if _, err := OpenStore(dir, smallStore(t, nil)); !errors.Is(err, ErrNewer) {
				t.Errorf("OpenStore: %v", err)
			}
			f.WriteAt(saved, 0)
		}
	}
	t.Run("segment", bump("segments/00000001", segmentMagic, segmentHeaderSize-4))
	t.Run("journal", bump("journal/00000001.journal", journalMagic, logHeaderSize-4))
	t.Run("directory", func(t *testing.T) {
		for text, want := range map[string]error{"millrace spool 2\n": ErrNewer, "something else": ErrDamaged} {
			if err := os.WriteFile(dir+"/format", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenStore(dir, smallStore(t, nil)); !errors.Is(err, want) {
				t.Errorf("%q: OpenStore: %v", text, err)
			}
			if _, err := OpenWriter(dir, smallWriter(t, nil)); !errors.Is(err, want) {
				t.Errorf("%q: OpenWriter: %v", text, err)
			}
		}
		os.Remove(dir + "/format")
		if _, err := OpenStore(dir, smallStore(t, nil)); !errors.Is(err, ErrDamaged) {
			t.Errorf("no format file: OpenStore: %v", err)
		}
	})
}

func TestFullDiskDoesNotStopTheDrain(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	o := smallWriter(t, nil)
	o.SegmentSize = recordsAt + 16<<10
	w := openWriter(t, dir, o)
	var ids []ID
	for i := range 200 {
		r := post(t, w, i, 1)
		release(t, r)
		ids = append(ids, r.ID())
	}
	w.Close()
	s := openStore(t, dir, smallStore(t, files))
	newSeen().load(t, s)
	// Nothing new fits, whatever was reserved can be written.
	files.setHook(func(op operation) error {
		if op.kind == "allocate" || op.kind == "create" {
			return syscall.ENOSPC
		}
		return nil
	})
	for _, id := range ids {
		settle(t, s, id, Delivered, 0)
	}
	idle(t, s, 0)
	// When even the reserve is used up, Record says so and nothing is lost.
	w2 := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w2, 1, 1)
	release(t, r)
	got := newSeen()
	got.follow(t, s)
	got.await(t, got.has(r.ID()))
	var err error
	var last uint16
	for i := range uint16(2000) {
		if err = s.Record(Event{ID: r.ID(), Recipient: 0, State: State{Tries: i, Reply: "451 4.3.0 try again later"}}); err != nil {
			break
		}
		last = i
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("Record: %v", err)
	}
	files.setHook(nil)
	if err := s.Record(Event{ID: r.ID(), Recipient: 0, State: State{Tries: last + 1}}); err != nil {
		t.Errorf("when room is back: %v", err)
	}
}

func TestDamagedContentIsToldAtItsEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	small, next := post(t, w, 1, 1), post(t, w, 2, 1)
	e, _ := letter(3, 1)
	big, err := w.Append(t.Context(), e, strings.NewReader(strings.Repeat("x", blobSize)))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := w.Append(t.Context(), e, strings.NewReader(strings.Repeat("y", blobSize)))
	if err != nil {
		t.Fatal(err)
	}
	release(t, small, next, big, gone)
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	flip(t, filepath.Join(dir, "segments/00000001"), int64(next.ID().Offset())-12)
	flip(t, filepath.Join(dir, "blobs", blobName(big.ID())), 77)
	os.Remove(filepath.Join(dir, "blobs", blobName(gone.ID())))
	for _, id := range []ID{small.ID(), big.ID(), gone.ID()} {
		c, err := s.Open(id)
		if err == nil {
			_, err = io.Copy(io.Discard, c)
			c.Close()
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", id, err)
		}
	}
	_, want := letter(2, 1)
	if text := content(t, s, next.ID()); text != want {
		t.Errorf("its neighbour reads %q", text)
	}
}

// flip inverts one bit of a file.
func flip(t testing.TB, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

func TestEveryMessageArrivesOnceUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := smallWriter(t, nil)
	o.SegmentSize = recordsAt + 64<<10
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	const each = 300
	var mu sync.Mutex
	released := make(map[ID]bool)
	var wg sync.WaitGroup
	for n := range 2 { // writers as in two processes
		w := openWriter(t, dir, o)
		for k := range 4 {
			wg.Go(func() {
				for i := range each {
					r := post(t, w, i, 1)
					if (i+k+n)%7 == 0 {
						if err := r.Void(); err != nil {
							t.Error(err)
						}
						continue
					}
					if err := r.Release(); err != nil {
						t.Error(err)
					}
					mu.Lock()
					released[r.ID()] = true
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	got.await(t, func() bool { return len(got.ids) >= len(released) })
	for id, n := range got.ids {
		if n != 1 || !released[id] {
			t.Errorf("%s yielded %d times, released %v", id, n, released[id])
		}
	}
}

func TestIDReadsBack(t *testing.T) {
	t.Parallel()
	for _, id := range []ID{MakeID(0x1a, 0x3f0040), MakeID(1<<32-1, 1<<32-1)} {
		if back, err := ParseID(strings.ToLower(id.String())); err != nil || back != id {
			t.Errorf("%s reads back as %v, %v", id, back, err)
		}
	}
	for _, s := range []string{"", "M", "M1A", "M-", "Mxyz-1", "M1-123456789", "M1A-3F-1"} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("%q reads as %v", s, id)
		}
	}
}

// blindFS gives no change notification.
type blindFS struct{ disk }

func (blindFS) Watch(string) (Watch, error) { return nil, errors.New("too many watches") }

func TestAgentFindsMailWithoutNotification(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := smallStore(t, blindFS{})
	o.rescan = time.Millisecond
	s := openStore(t, dir, o)
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	w := openWriter(t, dir, smallWriter(t, nil))
	plain, orphan := post(t, w, 1, 1), post(t, w, 2, 1)
	release(t, plain)
	got.await(t, got.has(plain.ID()))
	w.Close()
	got.await(t, got.has(orphan.ID()))
}

func TestErrorOfTheCallerEndsLoadAndFollow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	release(t, post(t, w, 1, 1))
	stop := errors.New("stop")
	s := openStore(t, dir, smallStore(t, nil))
	if err := s.Follow(t.Context(), nil); err == nil {
		t.Error("Follow before Load")
	}
	if err := s.Load(func(ID, *Envelope, []State) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Load: %v", err)
	}
	s, _ = reopened(t, s, dir, smallStore(t, nil))
	release(t, post(t, w, 2, 1))
	if err := s.Follow(t.Context(), func(ID, *Envelope, []State, bool) error { return stop }); err != stop {
		t.Errorf("Follow: %v", err)
	}
}

// TestLostNumberIsNotUsedAgain removes the file next while the journal still
// knows what became of the first message of segment 1.
func TestLostNumberIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	old := post(t, w, 1, 1)
	release(t, old)
	w.Close()
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	settle(t, s, old.ID(), Delivered, 0)
	s.upkeep()
	s.Close()
	if err := os.Remove(filepath.Join(dir, nextFile)); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 2, 1)
	release(t, r)
	got := newSeen()
	got.load(t, openStore(t, dir, o))
	if len(got.ids) != 1 || got.ids[r.ID()] != 1 || r.ID() == old.ID() {
		t.Errorf("%s, after %s, is not there: %v", r.ID(), old.ID(), got.ids)
	}
}

func TestUsageFollowsTheSpool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 0, 1)
	release(t, r)
	s := openStore(t, dir, smallStore(t, nil))
	if u, err := s.Usage(); err != nil || u.SegmentOctets != 0 || u.Free <= 0 {
		t.Errorf("before the spool is read: %+v, %v", u, err)
	}
	newSeen().load(t, s)
	if u, err := s.Usage(); err != nil || u.Segments != 1 || u.SegmentOctets <= 0 {
		t.Errorf("with one message: %+v, %v", u, err)
	}
}

func TestLastRecipientIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	two, one := post(t, w, 0, 2), post(t, w, 1, 1)
	release(t, two, one)
	s := openStore(t, dir, smallStore(t, nil))
	newSeen().load(t, s)
	events := []Event{
		{ID: two.ID(), State: State{Status: Delivered}},
		{ID: one.ID(), State: State{Status: Queued, Tries: 1}},
		{ID: two.ID(), Recipient: 1, State: State{Status: Bounced}},
		{ID: two.ID(), Recipient: 1, State: State{Status: Delivered}}, // too late
	}
	if err := s.Record(events...); !errors.Is(err, ErrFinal) {
		t.Errorf("recorded with %v", err)
	}
	for i, want := range []bool{false, false, true, false} {
		if events[i].Last != want {
			t.Errorf("event %d: last is %v", i, events[i].Last)
		}
	}
}
