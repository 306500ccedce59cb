package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/transient"
)

const (
	// roundGap is the least time from one look at the segments to the next: a
	// lone message is found at once, a flow in batches. Looks and the wake-ups
	// behind them are most of what a slow flow costs the agent: at 500 messages
	// a second 420 us of CPU time each with 1 ms, 180 with 10, 145 with 20.
	roundGap = 20 * time.Millisecond
	// settleGap is when a segment is looked at once more after its last event.
	// The kernel tells of a dead writer's close just before it frees the lock.
	settleGap = 50 * time.Millisecond
)

// Follow yields each message when it is released, and each that is found
// orphaned: its writer died, or closed, before it said. States is nil or as
// from Load, for a message that Load could not read. It learns of changes by inotify,
// and looks at the whole directory every few seconds besides. Load comes first.
//
// It returns with the error of ctx or of yield, or when the directory could not be
// read for a time that is no accident (transient.Patience). For want of descriptors or
// memory it goes on trying. Progress tells whether it comes round.
func (s *Store) Follow(ctx context.Context, yield func(id ID, e *Envelope, states []State, orphan bool) error) error {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if !loaded {
		return errors.New("spool: follow before load")
	}
	f := follower{store: s, recent: make(map[uint32]bool), yield: func(id ID, e *Envelope, states []State, orphan bool) error {
		s.rounds.turn()
		return yield(id, e, states, orphan)
	}}
	defer f.unwatch()
	return f.run(ctx)
}

// follower is the state of Follow.
type follower struct {
	store *Store
	yield func(ID, *Envelope, []State, bool) error
	watch Watch // nil: none could be had, or the last one broke
	blind bool  // that was told
	retry transient.Retry
	// recent are segments with events since the last quiet moment.
	recent map[uint32]bool
}

func (f *follower) run(ctx context.Context) error {
	s := f.store
	all := true
	var changed []string
	var next time.Time
	for {
		started := time.Now()
		s.rounds.turn()
		var err error
		if all {
			next = started.Add(s.opts.rescan)
			f.observe() // before the look, so nothing falls between them
			err = f.lookAtAll(ctx)
		} else {
			err = s.lookAt(changed, f.recent, f.yield)
		}
		if err != nil {
			return err
		}
		if err := pause(ctx, roundGap-time.Since(started)); err != nil {
			return err
		}
		until := next
		if quiet := time.Now().Add(settleGap); len(f.recent) > 0 && quiet.Before(next) {
			until = quiet
		}
		wait, cancel := context.WithDeadline(ctx, until)
		changed, all, err = f.wait(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
		case errors.Is(err, context.DeadlineExceeded):
			changed, all = nil, !time.Now().Before(next)
			for n := range f.recent {
				changed = append(changed, segmentName(n))
			}
			clear(f.recent)
			continue
		default:
			// What changed meanwhile is found by looking, and another watch is begun.
			s.log.Warn("spool: change notification failed", slog.Any("error", err))
			f.unwatch()
			changed, all = nil, true
		}
		for _, name := range changed {
			if n, ok := parseSegmentName(name); ok {
				f.recent[n] = true
			}
		}
	}
}

// observe begins a watch if there is none.
func (f *follower) observe() {
	if f.watch != nil {
		return
	}
	s := f.store
	w, err := s.fs.Watch(s.path(segmentsDir))
	if err == nil {
		f.watch, f.blind = w, false
	} else if !f.blind {
		f.blind = true
		s.log.Warn("spool: no change notification for now, new mail is found by looking only",
			slog.Duration("every", s.opts.rescan), slog.Any("error", err))
	}
}

func (f *follower) unwatch() {
	if f.watch != nil {
		f.watch.Close()
		f.watch = nil
	}
}

// wait waits for a change; without a watch, for the end of ctx.
func (f *follower) wait(ctx context.Context) (names []string, all bool, err error) {
	if f.watch != nil {
		return f.watch.Wait(ctx)
	}
	<-ctx.Done()
	return nil, false, ctx.Err()
}

// lookAtAll looks at the whole directory, as soon as it can be read.
func (f *follower) lookAtAll(ctx context.Context) error {
	s := f.store
	var unread unreadError
	for {
		err := s.lookAtAll(f.yield)
		if !errors.As(err, &unread) {
			if lasted, was := f.retry.Over(); was {
				s.log.Info("spool: new mail is found again", slog.Duration("after", lasted.Round(time.Millisecond)))
			}
			s.rounds.look()
			return err
		}
		news, end := f.retry.Wait(ctx, unread.error)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case end != nil:
			return fmt.Errorf("spool: %w", end)
		case news:
			s.log.Error("spool: new mail cannot be looked for now; will try again", slog.Any("error", unread.error))
		}
		s.rounds.turn()
	}
}

// lookAtAll finds new segments and looks at each that can still change. It returns an
// unreadError, or that of yield.
func (s *Store) lookAtAll(yield func(ID, *Envelope, []State, bool) error) error {
	names, err := s.fs.List(s.path(segmentsDir))
	if err != nil {
		return unreadError{err}
	}
	found := len(names)
	s.mu.Lock()
	known := slices.Sorted(maps.Keys(s.segments))
	s.mu.Unlock()
	for _, n := range known {
		if name := segmentName(n); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	listed := slices.Clone(names[:found])
	err = s.lookAt(names, nil, yield)
	if err == nil {
		s.survey(listed) // now, as each of them was opened or is in unopened
	}
	return err
}

// unreadError says that the directory of the segments could not be read.
type unreadError struct{ error }

// rounds are when Follow last did something, in nanoseconds since the store was
// opened by the monotonic clock: a host that was suspended has missed nothing.
type rounds struct {
	began          time.Time
	turned, looked atomic.Int64
}

func (r *rounds) turn() { r.turned.Store(int64(time.Since(r.began))) }
func (r *rounds) look() { r.looked.Store(int64(time.Since(r.began))) }

// Progress is how long ago Follow last did anything, a try that failed too, and how long
// ago it last looked at the whole directory, which it does every few seconds. Before
// Follow was called both are 0.
func (s *Store) Progress() (turned, looked time.Duration) {
	t, l := s.rounds.turned.Load(), s.rounds.looked.Load()
	if t == 0 {
		return 0, 0
	}
	now := int64(time.Since(s.rounds.began))
	return time.Duration(now - t), time.Duration(now - l)
}

// Looked reports whether Follow has looked at the whole directory: whatever was in the spool at
// the start has been yielded by then, orphans too, but for what Unreadable names.
func (s *Store) Looked() bool { return s.rounds.looked.Load() != 0 }

// pause waits, but not for long.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// lookAt looks at the segments with these names and takes up those it does not
// know. One that cannot be read now is tried again at the next full look.
func (s *Store) lookAt(names []string, recent map[uint32]bool, yield func(ID, *Envelope, []State, bool) error) error {
	for _, name := range names {
		n, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		s.rounds.turn() // there may be thousands, on a slow disk
		s.mu.Lock()
		seg := s.segments[n]
		s.mu.Unlock()
		if seg == nil {
			var err error
			seg, err = s.openNew(n)
			s.noteOpened(n, err)
			if err != nil {
				delete(recent, n)
				continue
			}
		}
		var stop yieldError
		err := s.refresh(seg, yield)
		if errors.As(err, &stop) {
			return stop.error
		}
		if err != nil || seg.trouble != nil {
			s.noteScan(seg, err)
		}
	}
	return nil
}

// openNew opens a segment that is new, unless there are too many.
func (s *Store) openNew(n uint32) (*segment, error) {
	s.mu.Lock()
	full := s.most > 0 && len(s.segments) >= s.most
	s.mu.Unlock()
	if full {
		return nil, errTooMany
	}
	return s.openSegment(n)
}

var errTooMany = errors.New("as many are open as the limit on open files allows; its mail waits until an older one is done; remedy: raise LimitNOFILE= of the unit")

// noteOpened tells once that a segment could not be opened.
func (s *Store) noteOpened(n uint32, err error) {
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		delete(s.unopened, n)
	case !s.unopened[n]:
		s.unopened[n] = true
		s.log.Error("spool: segment cannot be opened for now; will try again", slog.String("segment", segmentName(n)), slog.Any("error", err))
	}
}

// yieldError tells an error of the caller's function from one of ours.
type yieldError struct{ error }

// refresh yields what is new in one segment.
func (s *Store) refresh(seg *segment, yield func(ID, *Envelope, []State, bool) error) error {
	if seg.dead && len(seg.waiting) == 0 {
		return nil
	}
	give := func(id ID, e *Envelope, states []State, orphan bool) error {
		if err := yield(id, e, states, orphan); err != nil {
			return yieldError{err}
		}
		return nil
	}
	if !seg.dead {
		err := s.scan(seg, func(f *found) error {
			if f.known && f.states != nil {
				return give(f.id, f.env, f.states, false)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.settle(seg, give)
}

// settle reads the verdicts of waiting records, all in one go. Without a writer
// those that have none are orphans: their verdict may have reached the host MTA
// or not, and a crash may repeat but never lose.
func (s *Store) settle(seg *segment, give func(ID, *Envelope, []State, bool) error) error {
	if len(seg.waiting) == 0 {
		return nil
	}
	first := seg.waiting[0].index
	verdicts := make([]byte, seg.waiting[len(seg.waiting)-1].index-first+1)
	if _, err := seg.file.ReadAt(verdicts, verdictsAt+int64(first)); err != nil {
		return err
	}
	var err error
	done := 0
	kept := seg.waiting[:0]
	for _, w := range seg.waiting {
		verdict := verdicts[w.index-first]
		orphan := verdict != released && verdict != void
		if err != nil || orphan && !seg.dead {
			kept = append(kept, w)
			continue
		}
		id := MakeID(seg.number, w.offset)
		if verdict == void {
			s.mu.Lock()
			if i, ok := seg.find(w.offset); ok {
				s.finish(seg, i, true)
			}
			s.mu.Unlock()
			done++
			continue
		}
		if w.env == nil {
			var rerr error
			w.env, rerr = s.Envelope(id)
			if rerr != nil && !errors.Is(rerr, ErrDamaged) && !errors.Is(rerr, ErrNotFound) {
				err = rerr // the disk, not the record: it is read again at the next look
				kept = append(kept, w)
				continue
			}
			if rerr != nil {
				s.mu.Lock()
				i, _ := seg.find(w.offset)
				n := seg.recipients(i)
				s.mu.Unlock()
				s.damage(seg, Damage{Offset: int64(w.offset), ID: id, Recipients: n, Reason: rerr.Error()})
				continue
			}
		}
		if err = give(id, w.env, nil, orphan); err != nil {
			kept = append(kept, w)
			continue
		}
		if orphan {
			// So that the next start does not call it a new orphan. Without a
			// sync: it is only for the log.
			if _, werr := seg.file.WriteAt([]byte{orphaned}, verdictsAt+int64(w.index)); werr != nil {
				s.log.Warn("spool: orphan not marked", slog.String("id", id.String()), slog.Any("error", werr))
			}
		}
	}
	clear(seg.waiting[len(kept):])
	seg.waiting = kept
	if done > 0 || seg.dead {
		s.wake()
	}
	return err
}
