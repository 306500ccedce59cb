package spool

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStatesSurviveRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	var rs []Receipt
	for i := range 4 {
		rs = append(rs, post(t, w, i, 3))
	}
	release(t, rs...)
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	deferred := State{Tries: 7, Class: 3, Handback: true, Stuck: true, Held: true, Due: time.Unix(1800000000, 5), Reply: "421 4.7.0 later"}
	err := s.Record(
		Event{ID: rs[0].ID(), Recipient: 1, State: deferred},
		Event{ID: rs[1].ID(), Recipient: 0, State: State{Status: Delivered}}, Event{ID: rs[1].ID(), Recipient: 1, State: State{Status: Bounced}}, Event{ID: rs[1].ID(), Recipient: 2, State: State{Status: Cancelled}},
		Event{ID: rs[2].ID(), Recipient: 2, State: State{Status: Delivered, Reply: strings.Repeat("x", 600) + "\n"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"journal", "second journal", "checkpoint", "checkpoint and journal"} {
		if strings.HasPrefix(how, "checkpoint") {
			if err := s.rotate(); err != nil {
				t.Fatal(err)
			}
		}
		if how == "checkpoint and journal" {
			deferred.Tries++
			if err := s.Record(Event{ID: rs[0].ID(), Recipient: 1, State: deferred}); err != nil {
				t.Fatal(err)
			}
		}
		var got *seen
		s, got = reopened(t, s, dir, o)
		if len(got.ids) != 3 || got.ids[rs[1].ID()] != 0 {
			t.Errorf("%s: loaded %v", how, got.ids)
		}
		if want := []State{{}, deferred, {}}; !slices.Equal(got.states[rs[0].ID()], want) {
			t.Errorf("%s: states %+v, want %+v", how, got.states[rs[0].ID()], want)
		}
		if st := got.states[rs[2].ID()][2]; st.Status != Delivered || len(st.Reply) != maxReply {
			t.Errorf("%s: state %+v", how, st)
		}
		if want := []State{{}, {}, {}}; !slices.Equal(got.states[rs[3].ID()], want) {
			t.Errorf("%s: fresh states %+v", how, got.states[rs[3].ID()])
		}
	}
	names, err := os.ReadDir(filepath.Join(dir, journalDir))
	if err != nil || len(names) > 3 { // the checkpoint, the journal since, the new one
		t.Errorf("journal directory holds %v, %v", names, err)
	}
}

func TestCheckpointIsWrittenWhenJournalsGrow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 1)
	release(t, r)
	o := smallStore(t, nil)
	o.journalMax = 4 << 10
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	for i := range 500 {
		if err := s.Record(Event{ID: r.ID(), Recipient: 0, State: State{Tries: uint16(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "no checkpoint", func() bool {
		m, _ := filepath.Glob(dir + "/journal/*.checkpoint")
		return len(m) > 0
	})
	_, got := reopened(t, s, dir, o)
	if st := got.states[r.ID()]; len(st) != 1 || st[0].Tries != 499 {
		t.Errorf("states %+v", st)
	}
}

func TestJournalTroubleStopsRecordingUntilACheckpoint(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 3)
	release(t, r)
	s := openStore(t, dir, smallStore(t, files))
	newSeen().load(t, s)
	broken := func(op operation) error {
		if strings.HasPrefix(op.name, journalDir) && op.kind == "sync" {
			return syscall.EIO
		}
		return nil
	}
	files.setHook(broken)
	settle(t, s, r.ID(), Delivered, 0)
	if err := s.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync: %v", err)
	}
	if err := s.Record(Event{ID: r.ID(), Recipient: 1, State: State{Status: Delivered}}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Record after a failed sync: %v", err)
	}
	files.setHook(nil)
	until(t, "nothing is recorded again", func() bool { return s.Record(Event{ID: r.ID(), Recipient: 1, State: State{Status: Delivered}}) == nil })
	// What the failed sync was about is not read from the old file, which goes once the checkpoint
	// lets events be recorded again.
	until(t, "the journal that failed is still there", func() bool {
		_, err := os.Stat(dir + "/journal/00000001.journal")
		return errors.Is(err, os.ErrNotExist)
	})
	_, got := reopened(t, s, dir, smallStore(t, nil))
	st := got.states[r.ID()]
	if len(st) != 3 || st[0].Status != Delivered || st[1].Status != Delivered || st[2].Status != Queued {
		t.Errorf("states %+v", st)
	}
}

func TestJournalsGoWhenTheirCheckpointIsDurable(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 2)
	release(t, r)
	o := smallStore(t, files)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	settle(t, s, r.ID(), Delivered, 0)
	n := len(files.since(0))
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	ops := files.since(n)
	for i := range ops {
		ops[i].name = strings.TrimPrefix(ops[i].name, journalDir+"/")
	}
	wantTrace(t, slices.CompactFunc(ops, func(a, b operation) bool { return a.String() == b.String() }),
		"create 00000003.journal.tmp",
		"write 00000003.journal.tmp",
		"allocate 00000003.journal.tmp",
		"write 00000003.journal.tmp",
		"sync 00000003.journal.tmp",
		"rename 00000003.journal",
		"syncdir journal",
		"sync 00000002.journal.tmp", // what was recorded so far
		"write 00000002.journal.tmp",
		"truncate 00000002.journal.tmp", // the zeros ahead
		"sync 00000002.journal.tmp",
		"create 00000003.checkpoint.tmp",
		"write 00000003.checkpoint.tmp",
		"sync 00000003.checkpoint.tmp",
		"rename 00000003.checkpoint",
		"syncdir journal",
		"remove 00000002.journal",
		"remove 00000002.checkpoint",
	)
}

func TestMissingJournalIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 1)
	release(t, r)
	s := openStore(t, dir, smallStore(t, nil))
	newSeen().load(t, s)
	settle(t, s, r.ID(), Queued, 0)
	s, _ = reopened(t, s, dir, smallStore(t, nil))
	s.Close()
	if err := os.Remove(dir + "/journal/00000001.journal"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir, smallStore(t, nil)); !errors.Is(err, ErrDamaged) {
		t.Errorf("OpenStore: %v", err)
	}
}

// TestCheckpointSurvivesACrashAtEveryStep fails every operation of a rotation
// from the n-th on, as a crash would, and starts again.
func TestCheckpointSurvivesACrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for n := range 100 {
		files, dir := traced(t)
		w := openWriter(t, dir, smallWriter(t, nil))
		r := post(t, w, 1, 3)
		release(t, r)
		o := smallStore(t, files)
		o.byHand = true
		s := openStore(t, dir, o)
		newSeen().load(t, s)
		settle(t, s, r.ID(), Delivered, 0)
		if err := s.rotate(); err != nil {
			t.Fatal(err)
		}
		settle(t, s, r.ID(), Delivered, 1)
		left := n
		files.setHook(func(op operation) error {
			if left--; left < 0 {
				return errors.New("crash")
			}
			return nil
		})
		err := s.rotate()
		files.setHook(func(operation) error { return errors.New("crash") })
		s.Close()
		s = openStore(t, dir, smallStore(t, nil))
		got := newSeen()
		got.load(t, s)
		st := got.states[r.ID()]
		if len(st) != 3 || st[0].Status != Delivered || st[1].Status != Delivered || st[2].Status != Queued {
			t.Fatalf("crash at step %d: states %+v", n, st)
		}
		s.Close()
		w.Close()
		if err == nil && left > 3 { // a few steps after the last needed one
			return
		}
	}
	t.Error("rotation has no end")
}

// TestJournalTakesNothingBackFromItsCheckpoint loses power after a checkpoint
// that holds the second of two events in the journal behind it, whatever a power
// loss leaves of that journal: the first alone, for one.
func TestJournalTakesNothingBackFromItsCheckpoint(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := newMachine(rng)
		s, r := modelSpool(t, m)
		m.fault = func(op memOp) error { // the journal is there, its checkpoint must wait
			if op.kind == "rename" && strings.HasSuffix(op.name, ".checkpoint") {
				return syscall.EIO
			}
			return nil
		}
		if err := s.rotate(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("rotate: %v", err)
		}
		m.fault = nil
		// In sectors of their own.
		for i := range uint16(4) {
			if err := s.Record(Event{ID: r.ID(), Recipient: 0, State: State{Tries: i, Reply: strings.Repeat("r", maxReply)}}); err != nil {
				t.Fatal(err)
			}
		}
		settle(t, s, r.ID(), Delivered, 0)
		if err := s.rotate(); err != nil {
			t.Fatal(err)
		}
		if st := leftByPowerLoss(t, m).states[r.ID()]; len(st) != 2 || st[0].Status != Delivered {
			t.Fatalf("seed %d: the checkpoint said %s of the first recipient, and now: %v", seed, Delivered, st)
		}
	}
}

// TestOldJournalThatFailsIsReplacedByItsCheckpoint fails the last sync of a
// journal that another has just followed.
func TestOldJournalThatFailsIsReplacedByItsCheckpoint(t *testing.T) {
	t.Parallel()
	m := newMachine(rand.New(rand.NewPCG(1, 0)))
	s, r := modelSpool(t, m)
	settle(t, s, r.ID(), Queued, 0)
	m.fault = func(op memOp) error {
		switch {
		case op.kind == "sync" && op.name == "/spool/journal/00000001.journal":
			return syscall.EIO
		case op.kind == "create" && strings.HasSuffix(op.name, ".checkpoint.tmp"):
			return syscall.ENOSPC
		}
		return nil
	}
	if err := s.rotate(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("rotate: %v", err)
	}
	if err := s.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync though an event is lost: %v", err)
	}
	if err := s.Record(Event{ID: r.ID(), Recipient: 0, State: State{}}); !errors.Is(err, syscall.EIO) {
		t.Errorf("Record though an event is lost: %v", err)
	}
	m.fault = nil
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Errorf("Sync after the checkpoint: %v", err)
	}
	settle(t, s, r.ID(), Queued, 0)
	if got := leftByPowerLoss(t, m); got.states[r.ID()][0].Tries != 1 {
		t.Errorf("states %v", got.states)
	}
}

// TestJournalThatFailedToGrowIsReplaced fails the sync of the zeros ahead, when
// there are no events to sync.
func TestJournalThatFailedToGrowIsReplaced(t *testing.T) {
	t.Parallel()
	m := newMachine(rand.New(rand.NewPCG(1, 0)))
	s, r := modelSpool(t, m)
	m.fault = func(op memOp) error {
		if op.kind == "sync" {
			return syscall.EIO
		}
		return nil
	}
	if err := s.journal.grow(1 << 20); !errors.Is(err, syscall.EIO) {
		t.Fatalf("grow: %v", err)
	}
	m.fault = nil
	if err := s.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync of a file that failed: %v", err)
	}
	s.upkeep()
	settle(t, s, r.ID(), Delivered, 0)
	if err := s.Sync(); err != nil {
		t.Errorf("Sync after upkeep: %v", err)
	}
	if st := leftByPowerLoss(t, m).states[r.ID()]; len(st) != 2 || st[0].Status != Delivered {
		t.Errorf("states %v", st)
	}
}

// TestFullDiskAtTheEndOfAJournalLosesNoEvent lets a journal be followed by another
// that has no room for its last frame, which holds no events, nor the disk for the
// checkpoint.
func TestFullDiskAtTheEndOfAJournalLosesNoEvent(t *testing.T) {
	t.Parallel()
	m := newMachine(rand.New(rand.NewPCG(1, 0)))
	s, r := modelSpool(t, m)
	settle(t, s, r.ID(), Queued, 0)
	s.journal.room = s.journal.end
	m.fault = func(op memOp) error {
		if op.kind == "allocate" && !strings.HasSuffix(op.name, tmpSuffix) || op.kind == "create" && strings.HasSuffix(op.name, ".checkpoint.tmp") {
			return syscall.ENOSPC
		}
		return nil
	}
	if err := s.rotate(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("rotate: %v", err)
	}
	settle(t, s, r.ID(), Delivered, 0)
	if err := s.Sync(); err != nil {
		t.Errorf("Sync: %v", err)
	}
}

// modelSpool returns a store on a machine, with a released message that has two
// recipients.
func modelSpool(t *testing.T, m *machine) (*Store, Receipt) {
	t.Helper()
	w, err := OpenWriter("/spool", WriterOptions{FS: m.process(), SegmentSize: wide})
	if err != nil {
		t.Fatal(err)
	}
	r := post(t, w, 0, 2)
	release(t, r)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore("/spool", StoreOptions{FS: m.process(), journalStep: 8192, byHand: true})
	if err != nil {
		t.Fatal(err)
	}
	newSeen().load(t, s)
	return s, r
}

// leftByPowerLoss returns what an agent loads that starts after one.
func leftByPowerLoss(t *testing.T, m *machine) *seen {
	t.Helper()
	s, err := OpenStore("/spool", StoreOptions{FS: m.crash(m.rng).process(), journalStep: 4096, byHand: true})
	if err != nil {
		t.Fatal(err)
	}
	got := newSeen()
	got.load(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return got
}

// The agent asks for the states of what it sends.
func TestStatesOfAMessage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	many, one, fresh := post(t, w, 0, 3), post(t, w, 1, 1), post(t, w, 2, 2)
	release(t, many, one, fresh)
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	late := State{Tries: 2, Handback: true, Stuck: true, Due: time.Unix(1800000000, 0), Reply: "550 5.1.1 no"}
	if err := s.Record(Event{ID: many.ID(), Recipient: 0, State: State{Status: Bounced}}, Event{ID: many.ID(), Recipient: 2, State: late}, Event{ID: one.ID(), Recipient: 0, State: late}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[ID][]State{many.ID(): {{Status: Bounced}, {}, late}, one.ID(): {late}, fresh.ID(): {{}, {}}} {
		if got, err := s.States(id); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", id, got, err, want)
		}
	}
	if err := s.Record(Event{ID: one.ID(), Recipient: 0, State: State{Status: Delivered}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []ID{one.ID(), MakeID(77, 8)} {
		if got, err := s.States(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %+v, %v", id, got, err)
		}
	}
}

func TestNextAgentLearnsWhenTheLastOneLived(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Unix(1800000000, 0)
	o := smallStore(t, nil)
	o.Now = func() time.Time { return now }
	s := openStore(t, dir, o)
	if got := s.LastAlive(); !got.IsZero() {
		t.Errorf("the first agent: %s", got)
	}
	if err := s.Beat(5); err != nil {
		t.Fatal(err)
	}
	lived := now
	now = now.Add(time.Hour)
	s, _ = reopened(t, s, dir, o)
	if err := s.Beat(5); err != nil {
		t.Fatal(err)
	}
	if got := s.LastAlive(); !got.Equal(lived) {
		t.Errorf("the second agent: %s, want %s", got, lived)
	}
}
