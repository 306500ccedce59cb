package spool

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// traced returns a file system that records, for a new spool.
func traced(t *testing.T) (*faultFS, string) {
	dir := t.TempDir()
	return &faultFS{root: dir}, dir
}

func lines(ops []operation) []string {
	var l []string
	for _, op := range ops {
		l = append(l, op.String())
	}
	return l
}

func wantTrace(t *testing.T, got []operation, want ...string) {
	t.Helper()
	if l := lines(got); !slices.Equal(l, want) {
		t.Errorf("order is\n\t%s\nwant\n\t%s", strings.Join(l, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestFirstAcknowledgementWaitsForDataAndDirectory(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	n := len(files.since(0))
	r := post(t, w, 1, 1)
	files.do("answer", "", 0, nil)
	release(t, r)
	wantTrace(t, files.since(n),
		"write next", "sync next", // the number is taken for ever
		"create segments/00000001.tmp",
		"allocate segments/00000001.tmp",
		"write segments/00000001.tmp header",
		"sync segments/00000001.tmp",
		"rename segments/00000001",
		"syncdir segments",
		"write segments/00000001.tmp record",
		"sync segments/00000001.tmp",
		"write segments/00000001.tmp watermark",
		"answer",
		"write segments/00000001.tmp verdict",
	)
}

func TestLargeContentIsSyncedBeforeTheRecordThatNamesIt(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	post(t, w, 1, 1)
	n := len(files.since(0))
	e, _ := letter(2, 1)
	r, err := w.Append(t.Context(), e, strings.NewReader(strings.Repeat("x", 2*blobSize+5)))
	if err != nil {
		t.Fatal(err)
	}
	files.do("answer", "", 0, nil)
	got := files.since(n)
	tmp := got[0].name
	wantTrace(t, got,
		"create "+tmp, "write "+tmp, "write "+tmp, "write "+tmp, "sync "+tmp,
		"rename blobs/"+blobName(r.ID()),
		"syncdir blobs",
		"write segments/00000001.tmp record",
		"sync segments/00000001.tmp",
		"write segments/00000001.tmp watermark",
		"answer",
	)
}

// TestFailedBatchIsUndoneBeforeTheAnswer fails each step of a commit, in turn
// with each step of the undoing, and looks for the message as the agent would.
func TestFailedBatchIsUndoneBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	fails := func(op operation, kind, part string) bool {
		return op.kind == kind && strings.HasPrefix(op.name, segmentsDir) && (part == "" || op.part() == part)
	}
	causes := map[string]func(op operation) error{
		"write": func(op operation) error {
			if fails(op, "write", "record") {
				return syscall.EIO
			}
			return nil
		},
		"short write": func(op operation) error {
			if fails(op, "write", "record") {
				return shortWrite{syscall.ENOSPC}
			}
			return nil
		},
		"sync": func(op operation) error {
			if fails(op, "sync", "") {
				return syscall.EIO
			}
			return nil
		},
		"watermark": func(op operation) error {
			if fails(op, "write", "watermark") {
				return syscall.EIO
			}
			return nil
		},
	}
	undos := map[string]func(op operation) bool{
		"undone":      func(operation) bool { return false },
		"no truncate": func(op operation) bool { return fails(op, "truncate", "") },
		"no verdicts": func(op operation) bool { return fails(op, "write", "verdict") },
		"no seal":     func(op operation) bool { return fails(op, "write", "seal") },
		"only seal":   func(op operation) bool { return fails(op, "truncate", "") || fails(op, "write", "verdict") },
		"only truncate": func(op operation) bool {
			return fails(op, "write", "seal") || fails(op, "write", "verdict")
		},
		"only verdicts": func(op operation) bool { return fails(op, "write", "seal") || fails(op, "truncate", "") },
	}
	for name, cause := range causes {
		for undoName, undo := range undos {
			t.Run(name+"/"+undoName, func(t *testing.T) {
				t.Parallel()
				files, dir := traced(t)
				w := openWriter(t, dir, smallWriter(t, files))
				s := openStore(t, dir, smallStore(t, nil))
				first := post(t, w, 1, 1)
				files.setHook(func(op operation) error {
					if undo(op) {
						return syscall.EIO
					}
					return cause(op)
				})
				n := len(files.since(0))
				e, text := letter(2, 1)
				_, err := w.Append(t.Context(), e, strings.NewReader(text))
				files.do("answer", "", 0, nil)
				if err == nil {
					t.Fatal("acknowledged")
				}
				if name == "short write" && !errors.Is(err, ErrFull) {
					t.Errorf("%v does not wrap ErrFull", err)
				}
				ops := lines(files.since(n))
				truncated, answer := slices.Index(ops, "truncate segments/00000001.tmp"), slices.Index(ops, "answer")
				if truncated < 0 || truncated > answer {
					t.Errorf("not truncated before the answer:\n%s", strings.Join(ops, "\n"))
				}

				files.setHook(nil)
				third := post(t, w, 3, 1)
				if third.ID().Segment() == first.ID().Segment() {
					t.Errorf("the failed segment took another record, %s", third.ID())
				}
				release(t, first, third)
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				got := newSeen()
				got.load(t, s)
				got.follow(t, s)
				got.await(t, got.has(first.ID(), third.ID()))
				if len(got.ids) != 2 {
					t.Errorf("agent sees %d messages, want 2", len(got.ids))
				}
			})
		}
	}
}

func TestFailureAnswersTheWholeBatch(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	post(t, w, 0, 1)
	// The first message holds the sync up until the others wait for the next.
	hold, held := make(chan struct{}), make(chan struct{})
	syncs := 0
	files.setHook(func(op operation) error {
		if op.kind != "sync" {
			return nil
		}
		if syncs++; syncs == 1 {
			close(held)
			<-hold
			return nil
		}
		return syscall.EIO
	})
	var wg sync.WaitGroup
	errs := make([]error, 6)
	start := func(i int) {
		wg.Go(func() {
			e, text := letter(i, 1)
			_, errs[i] = w.Append(context.Background(), e, strings.NewReader(text))
		})
	}
	start(0)
	<-held
	for i := 1; i < len(errs); i++ {
		start(i)
	}
	for waiting := 0; waiting < len(errs)-1; {
		w.mu.Lock()
		waiting = len(w.waiting)
		w.mu.Unlock()
	}
	close(hold)
	wg.Wait()
	if errs[0] != nil {
		t.Errorf("synced before the trouble: %v", errs[0])
	}
	for i, err := range errs[1:] {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("message %d: %v", i+1, err)
		}
	}
}

func TestNoSegmentMeansFull(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	files.setHook(func(op operation) error {
		if op.kind == "allocate" {
			return syscall.ENOSPC
		}
		return nil
	})
	e, text := letter(1, 1)
	if _, err := w.Append(t.Context(), e, strings.NewReader(text)); !errors.Is(err, ErrFull) {
		t.Fatalf("Append: %v", err)
	}
	if names, _ := files.List(dir + "/segments"); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
	files.setHook(nil) // room returns
	post(t, w, 1, 1)
}

func TestAppendGivenUpIsNeverSeen(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	s := openStore(t, dir, smallStore(t, nil))
	first := post(t, w, 1, 1)
	hold, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	files.setHook(func(op operation) error {
		if op.kind == "sync" {
			once.Do(func() { close(held) })
			<-hold
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 2)
	for i := range 2 { // one in the syncer's hands, one waiting for it
		e, text := letter(2+i, 1)
		go func() {
			_, err := w.Append(ctx, e, strings.NewReader(text))
			answer <- err
		}()
		if i == 0 {
			<-held
		}
	}
	waiting := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.waiting)
	}
	for waiting() == 0 {
		runtime.Gosched()
	}
	cancel()
	for range 2 {
		if err := <-answer; !errors.Is(err, context.Canceled) {
			t.Errorf("Append: %v", err)
		}
	}
	if n := waiting(); n > 0 {
		t.Errorf("%d messages still wait for a disk that hangs", n)
	}
	close(hold)
	release(t, first)
	last := post(t, w, 4, 1)
	release(t, last)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	got.await(t, got.has(first.ID(), last.ID()))
	if len(got.ids) != 2 {
		t.Errorf("agent sees %v", got.ids)
	}
}

func TestUnreadableContentIsNotAppended(t *testing.T) {
	t.Parallel()
	files, dir := traced(t)
	w := openWriter(t, dir, smallWriter(t, files))
	e, text := letter(1, 1)
	broken := errors.New("client went away")
	for _, size := range []int{1, 1 << 17} {
		r := iotest.ErrReader(broken)
		_, err := w.Append(t.Context(), e, readers(strings.Repeat(text, size), r))
		if !errors.Is(err, broken) {
			t.Errorf("Append: %v", err)
		}
	}
	if _, err := w.Append(t.Context(), &Envelope{}, strings.NewReader(text)); err == nil {
		t.Error("a message without recipients was taken")
	}
	for _, d := range []string{segmentsDir, blobsDir} {
		if names, _ := files.List(dir + "/" + d); len(names) > 0 {
			t.Errorf("left behind in %s: %v", d, names)
		}
	}
}

func TestRoomFollowsLimits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Unix(1700000000, 0)
	s := openStore(t, dir, smallStore(t, nil))
	o := smallWriter(t, nil)
	o.MaxRecipients, o.Now = 10, func() time.Time { return now }
	w := openWriter(t, dir, o)
	post(t, w, 1, 9)
	if err := w.Room(); err != nil {
		t.Errorf("with 9 of 10: %v", err)
	}
	post(t, w, 2, 1)
	now = now.Add(2 * time.Second)
	e, text := letter(3, 1)
	if _, err := w.Append(t.Context(), e, strings.NewReader(text)); !errors.Is(err, ErrFull) {
		t.Errorf("with 10 of 10, Append: %v", err)
	}
	beat := func(n int64) error {
		if err := s.Beat(n); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Second)
		return w.Room()
	}
	if err := beat(3); err != nil {
		t.Errorf("with 3 queued: %v", err)
	}
	if err := beat(10); !errors.Is(err, ErrFull) {
		t.Errorf("with 10 queued: %v", err)
	}

	o.MaxRecipients, o.MinFree = 0, 1<<62
	w2 := openWriter(t, dir, o)
	if err := w2.Room(); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "min_free") {
		t.Errorf("below min_free: %v", err)
	}
}

func TestAgentSilenceGoesByTheWritersClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := time.Now()
	agent := start
	so := smallStore(t, nil)
	so.Now = func() time.Time { return agent }
	s := openStore(t, dir, so)
	beat := func() {
		t.Helper()
		if err := s.Beat(0); err != nil {
			t.Fatal(err)
		}
	}
	beat()
	wo := smallWriter(t, nil)
	wo.Now = func() time.Time { return start }
	w := openWriter(t, dir, wo)
	silence := func(at, want time.Duration) {
		t.Helper()
		if d := w.AgentSilence(start.Add(at)); d != want {
			t.Errorf("%v after the writer opened: silence %v, want %v", at, d, want)
		}
	}
	silence(time.Minute, time.Minute) // what was there before is no sign of life
	for _, step := range []time.Duration{time.Second, 240 * time.Hour, -480 * time.Hour} {
		agent = agent.Add(step) // its clock is set; ours goes on
		beat()
		silence(2*time.Minute, 0)
		silence(2*time.Minute+5*time.Second, 5*time.Second)
	}
	silence(0, 0)
	silence(3*time.Minute, time.Minute)
	agent = agent.Add(time.Second)
	beat() // it is read at the next look, which does not come at once
	silence(3*time.Minute+silenceGap-1, time.Minute+silenceGap-1)
	silence(3*time.Minute+silenceGap, 0)
}

func TestLoopKeyIsTheSameForAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/new/spool"
	if err := os.MkdirAll(dir, 0o755); err != nil { // too wide
		t.Fatal(err)
	}
	keys := make([]string, 16)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := LoopKey(dir)
			if err != nil {
				t.Error(err)
			}
			keys[i] = string(k)
		})
	}
	wg.Wait()
	for _, k := range keys {
		if len(k) != 32 || k != keys[0] {
			t.Fatalf("keys differ: %x", keys)
		}
	}
	st, err := os.Stat(dir + "/key")
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", st, err)
	}
	if st, err = os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", st, err)
	}
	if err := os.Truncate(dir+"/key", 31); err != nil {
		t.Fatal(err)
	}
	if _, err := LoopKey(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("short key: %v", err)
	}
}

func TestReceiptSettlesOnce(t *testing.T) {
	t.Parallel()
	w := openWriter(t, t.TempDir(), smallWriter(t, nil))
	r := post(t, w, 1, 1)
	release(t, r)
	if err := r.Void(); err == nil {
		t.Error("voided after release")
	}
	late := post(t, w, 2, 1)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := late.Release(); !errors.Is(err, ErrClosed) {
		t.Errorf("release after close: %v", err)
	}
	e, text := letter(3, 1)
	if _, err := w.Append(t.Context(), e, strings.NewReader(text)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}
