package spool

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"time"
)

const (
	// syncGap is how long events gather before a sync.
	syncGap = 50 * time.Millisecond
	// retryGap is the time between tries to start a journal after trouble.
	retryGap = time.Second
	// checkpointGap is the time between tries to write a checkpoint while the
	// journal goes on, on a full disk for one: a try may write a lot in vain.
	checkpointGap = 10 * time.Second
)

// run syncs the journal soon after events, and never waits for anything else.
func (s *Store) run() {
	tidy := make(chan struct{}, 1)
	s.wg.Go(func() { s.tidyUp(tidy) })
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		}
		select {
		case <-s.stop:
			return
		case <-time.After(syncGap):
		}
		s.Sync() // the error is kept in failed
		select {
		case tidy <- struct{}{}:
		default:
		}
	}
}

// Sync makes durable all that was recorded before the call.
func (s *Store) Sync() error {
	if err := s.syncJournal(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed // events before this journal may be lost until there is a checkpoint
}

// syncJournal makes durable what the journal has that takes the events now.
func (s *Store) syncJournal() error {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.mu.Lock()
	j := s.journal
	s.mu.Unlock()
	err := j.sync()
	if err != nil {
		s.fail(err)
	}
	return err
}

// tidyUp does what may take long: room for the journal, checkpoints, reclaim.
func (s *Store) tidyUp(tidy <-chan struct{}) {
	for {
		select {
		case <-s.stop:
			return
		case <-tidy:
		case <-time.After(retryGap):
			s.mu.Lock()
			due := s.failed != nil || s.young
			s.mu.Unlock()
			if !due {
				continue
			}
		}
		s.upkeep()
	}
}

func (s *Store) upkeep() {
	s.mu.Lock()
	failed, loaded := s.failed, s.loaded
	s.mu.Unlock()
	// Before Load the states are not all in memory as they should be.
	if !loaded {
		return
	}
	// Reclaim first: it makes room for the rest.
	if failed == nil {
		s.reclaim()
		s.makeHoles()
		if s.journal.low() {
			if err := s.journal.grow(2 * s.opts.journalStep); err != nil {
				s.log.Warn("spool: journal cannot grow", slog.Any("error", err))
			}
		}
	}
	if failed == nil && (s.oldSize+s.journal.size() < max(s.opts.journalMax, s.checkSize) || time.Now().Before(s.retryAt)) {
		return
	}
	if err := s.rotate(); err != nil {
		s.retryAt = time.Now().Add(checkpointGap)
		s.log.Error("spool: no checkpoint", slog.Any("error", err))
	}
}

// reclaim removes segments and blobs whose messages are all done or void. The
// journal is synced first: as long as an outcome could be lost, the mail it is
// about must be there, or it would look lost.
func (s *Store) reclaim() {
	s.mu.Lock()
	done := s.done
	s.done = nil
	var empty []*segment
	for _, n := range slices.Sorted(maps.Keys(s.segments)) {
		if seg := s.segments[n]; seg.dead && !seg.damaged && seg.open == 0 {
			empty = append(empty, seg)
		}
	}
	s.mu.Unlock()
	if len(done) == 0 && len(empty) == 0 {
		return
	}
	if s.Sync() != nil {
		s.mu.Lock()
		s.done = append(done, s.done...)
		s.mu.Unlock()
		return
	}
	for _, d := range done {
		s.removeBlob(d)
	}
	if len(empty) == 0 {
		return
	}
	gone := empty[:0]
	for _, seg := range empty {
		if err := s.fs.Remove(s.segment(seg.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("spool: segment not reclaimed", slog.Any("error", err))
			continue
		}
		gone = append(gone, seg)
	}
	// The states go only when the segments cannot come back: a checkpoint
	// without them, and one of them back after a power loss, would send all
	// its mail again.
	if err := s.fs.SyncDir(s.path(segmentsDir)); err != nil {
		s.log.Error("spool: segments not reclaimed", slog.Any("error", err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range gone {
		delete(s.segments, seg.number)
		seg.gone = true
		seg.forget()
		if len(seg.reading) == 0 {
			seg.file.Close()
		}
	}
}

// removeBlob removes the content of a message that is done. If that is because
// its verdict says void, the verdict is synced first: without it, and without
// the content, it would look like damaged mail. It is written anew before, as an
// earlier sync may have failed and dropped it; then the next one tells nothing.
func (s *Store) removeBlob(d doneBlob) {
	if d.void {
		seg, err := s.acquire(d.id)
		// A record that is gone stands in a synced span.
		if err == nil {
			var h recordHeader
			if h, err = seg.header(seg.file, d.id); err == nil {
				_, err = seg.file.WriteAt([]byte{void}, verdictsAt+int64(h.index))
			}
			if err == nil {
				err = seg.file.Sync()
			}
			s.leave(seg, d.id)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			s.log.Error("spool: blob not reclaimed", slog.Any("error", err))
			return
		}
	}
	if err := s.fs.Remove(s.tree.blob(d.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("spool: blob not reclaimed", slog.Any("error", err))
	}
}
