package spool

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failingFS fails some calls, each kind as often as it is told.
type failingFS struct {
	disk
	err                 error
	lists, opens, waits atomic.Int64 // still to fail
}

func fails(n *atomic.Int64) bool { return n.Load() > 0 && n.Add(-1) >= 0 }

func (f *failingFS) List(dir string) ([]string, error) {
	if fails(&f.lists) {
		return nil, &os.PathError{Op: "open", Path: dir, Err: f.err}
	}
	return f.disk.List(dir)
}

func (f *failingFS) Open(name string, flag int, perm os.FileMode) (File, error) {
	if flag == os.O_RDWR && fails(&f.opens) {
		return nil, &os.PathError{Op: "open", Path: name, Err: f.err}
	}
	return f.disk.Open(name, flag, perm)
}

func (f *failingFS) Watch(dir string) (Watch, error) {
	if fails(&f.waits) {
		return nil, &os.PathError{Op: "inotify", Path: dir, Err: f.err}
	}
	w, err := f.disk.Watch(dir)
	return failingWatch{w, f}, err
}

type failingWatch struct {
	Watch
	fs *failingFS
}

func (w failingWatch) Wait(ctx context.Context) ([]string, bool, error) {
	if fails(&w.fs.waits) {
		return nil, false, &os.PathError{Op: "read", Path: "inotify", Err: w.fs.err}
	}
	return w.Watch.Wait(ctx)
}

// An error that passes, of the directory, of a segment or of the notification, ends
// nothing: mail that is released meanwhile and afterwards is found.
func TestFollowOutlivesPassingErrors(t *testing.T) {
	t.Parallel()
	for _, passing := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		t.Run(passing.Error(), func(t *testing.T) {
			t.Parallel()
			fs := &failingFS{err: passing}
			dir := t.TempDir()
			o := smallStore(t, nil)
			o.FS, o.rescan = fs, 20*time.Millisecond
			s := openStore(t, dir, o)
			got := newSeen()
			got.load(t, s)
			for _, n := range []*atomic.Int64{&fs.lists, &fs.opens, &fs.waits} {
				n.Store(3)
			}
			got.follow(t, s)
			w := openWriter(t, dir, smallWriter(t, nil))
			for i := range 2 {
				r := post(t, w, i, 1)
				release(t, r)
				got.await(t, got.has(r.ID()))
				until(t, "all that was to fail has failed", func() bool { return fs.lists.Load()+fs.opens.Load()+fs.waits.Load() <= 0 })
				for _, n := range []*atomic.Int64{&fs.lists, &fs.waits} { // the second time while it is under way
					n.Store(2)
				}
			}
		})
	}
}

// A directory that stays unreadable ends Follow with the error, after a time; a lack of
// descriptors never does.
func TestFollowEndsOnlyForWhatStays(t *testing.T) {
	t.Parallel()
	for _, stays := range []struct {
		err  error
		ends bool
	}{{syscall.EIO, true}, {syscall.EACCES, true}, {syscall.EMFILE, false}, {syscall.ENOMEM, false}} {
		dir := t.TempDir()
		fs := &failingFS{err: stays.err}
		o := smallStore(t, nil)
		o.FS, o.byHand = fs, true
		s := openStore(t, dir, o)
		newSeen().load(t, s)
		fs.lists.Store(1 << 40)
		fs.waits.Store(1 << 40) // a read of inotify would not let the bubble's time go on
		synctest.Test(t, func(t *testing.T) {
			s.rounds.began = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			began := time.Now()
			err := s.Follow(ctx, func(ID, *Envelope, []State, bool) error { return nil })
			took := time.Since(began)
			if ended := errors.Is(err, stays.err); ended != stays.ends || ended && (took < 5*time.Second || took > time.Minute) {
				t.Errorf("%v: ended after %v with %v", stays.err, took, err)
			}
			// It came round all the time, but saw nothing: the one feeds the watchdog, the
			// other is what the milter must know.
			if turned, looked := s.Progress(); !stays.ends && (turned > 10*time.Second || looked < 59*time.Minute) {
				t.Errorf("%v: turned %v, looked %v ago", stays.err, turned, looked)
			}
		})
	}
}

// More segments than there are descriptors for wait in the spool, and are taken up when
// others are done.
func TestSegmentsBeyondTheLimitWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := smallStore(t, nil)
	o.rescan = 10 * time.Millisecond
	s := openStore(t, dir, o)
	s.LimitSegments(2)
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	var ids []ID
	for i := range 4 { // a writer has a segment of its own
		w := openWriter(t, dir, smallWriter(t, nil))
		r := post(t, w, i, 1)
		release(t, r)
		ids = append(ids, r.ID())
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got.await(t, got.has(ids[0]))
	got.await(t, got.has(ids[1]))
	for i, id := range ids {
		got.await(t, got.has(id))
		u, err := s.Usage()
		if err != nil || u.Segments > 2 {
			t.Errorf("%d segments are open at the %d. message, %v", u.Segments, i, err)
		}
		settle(t, s, id, Delivered, 0)
	}
}
