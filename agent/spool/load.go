package spool

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// Load yields every message that the agent has to care for, with the states of
// its recipients: those that were released, or taken as orphans, and have a
// recipient that is not final. It is called once, before Follow; messages that
// turn out to be orphans only now come from Follow, which says so. An error of
// yield ends it.
func (s *Store) Load(yield func(id ID, e *Envelope, states []State) error) error {
	s.mu.Lock()
	if s.loaded {
		s.mu.Unlock()
		return errors.New("spool: loaded before")
	}
	numbers := slices.Sorted(maps.Keys(s.segments))
	s.mu.Unlock()
	for _, n := range numbers {
		seg := s.segments[n]
		if seg.dead {
			continue
		}
		err := s.scan(seg, func(f *found) error {
			if !f.known || f.rec.open == 0 {
				return nil
			}
			states := make([]State, f.rec.recipients)
			for i := range f.rec.states {
				states[i] = f.rec.states[i].unpack()
			}
			return yield(f.id, f.env, states)
		})
		if err != nil {
			return fmt.Errorf("spool: load: %w", err)
		}
		for offset := range seg.replay {
			s.log.Error("spool: journal knows a message that is not there", slog.String("id", MakeID(n, offset).String()))
		}
		if !seg.damaged { // else the states wait, in every checkpoint, for a repair
			seg.replay = nil
		}
	}
	if err := s.sweep(); err != nil {
		return fmt.Errorf("spool: load: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = true
	s.wake()
	return nil
}

// found is a record that scan came to.
type found struct {
	id    ID
	env   *Envelope
	rec   record
	known bool // has a verdict, or the journal knows it
}

// scan takes up the records of a segment that are new, and seals the segment
// if its writer is gone. It is not used for two segments at a time.
func (s *Store) scan(seg *segment, yield func(*found) error) error {
	// The lock is tried before anything is read: if it was free, then nothing
	// of what we read can change any more.
	free, err := seg.file.TryLock()
	if err != nil {
		return err
	}
	size, err := seg.file.Size()
	if err != nil {
		return err
	}
	end, err := readWatermark(seg.file, seg.salt)
	if errors.Is(err, ErrDamaged) && free {
		end, err = recordsAt, nil
	}
	if err != nil {
		return fmt.Errorf("segment %s: %w", segmentName(seg.number), err)
	}
	sealed, ok := readSeal(seg.file, seg.salt)
	if ok {
		end = sealed.end
	}
	if end > size {
		s.log.Error("spool: segment is shorter than it was",
			slog.String("segment", segmentName(seg.number)), slog.Int64("octets", size), slog.Int64("expected", end))
		s.spoil(seg)
		end = size
	}
	sc := &scanner{r: seg.file, number: seg.number, salt: seg.salt, pos: seg.scanned, end: end}
	if err := s.takeUp(seg, sc, yield); err != nil {
		return err
	}
	if !free {
		return nil
	}
	if !ok {
		// Beyond the watermark of a dead writer there may be records that it
		// synced but could not publish, torn ones, and old zeros. What is whole
		// was perhaps acknowledged before a power loss took the watermark.
		sc.end, sc.verify = size, true
		if err := s.takeUp(seg, sc, yield); err != nil {
			return err
		}
		if err := s.seal(seg); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.dead = true
	return nil
}

// takeUp runs the scanner to its end.
func (s *Store) takeUp(seg *segment, sc *scanner, yield func(*found) error) error {
	if sc.pos >= sc.end {
		return nil
	}
	// As many verdicts as there can be records before the end.
	n := min(maxRecords-int64(seg.next), (sc.end-sc.pos)/recordHeaderSize+1)
	verdicts := make([]byte, n)
	first := seg.next
	if _, err := seg.file.ReadAt(verdicts, verdictsAt+int64(first)); err != nil && err != io.EOF {
		return err
	}
	for {
		rec, err := sc.next()
		if rec.skipped > 0 && !sc.verify {
			s.log.Error("spool: damaged octets", slog.String("segment", segmentName(seg.number)),
				slog.Int64("before", sc.pos), slog.Int64("octets", rec.skipped))
			s.spoil(seg)
		}
		if err == io.EOF {
			if !sc.verify {
				seg.scanned = sc.pos
			}
			return nil
		}
		if err != nil {
			return err
		}
		seg.scanned = sc.pos
		verdict := pending
		if i := int64(rec.head.index) - int64(first); i >= 0 && i < n {
			verdict = verdicts[i]
		}
		f, err := s.add(seg, &rec, verdict)
		if err != nil {
			s.log.Error("spool: envelope unreadable", slog.String("id", rec.head.id.String()), slog.Any("error", err))
			continue
		}
		if err := yield(f); err != nil {
			return err
		}
	}
}

// add takes one record into memory.
func (s *Store) add(seg *segment, rec *scanned, verdict byte) (*found, error) {
	h := &rec.head
	f := &found{id: h.id, rec: record{offset: h.id.Offset(), recipients: h.recipients, open: h.recipients, flags: h.flags}}
	err := fmt.Errorf("%w: checksum", ErrDamaged)
	if rec.envelope != nil {
		f.env, err = decodeEnvelope(rec.envelope)
	}
	if err == nil && len(f.env.Recipients) != int(h.recipients) {
		err = fmt.Errorf("%w: %d recipients, not %d", ErrDamaged, len(f.env.Recipients), h.recipients)
	}
	if err == nil && h.index < seg.next {
		err = fmt.Errorf("%w: index %d, expected %d", ErrDamaged, h.index, seg.next)
	}
	if err != nil {
		s.spoil(seg)
		return nil, err
	}
	seg.next = h.index + 1
	h.fill(f.env)
	if states, ok := seg.replay[f.rec.offset]; ok {
		// The journal knows it, so it was released, whatever the verdict
		// octet says after a power loss.
		f.known = true
		delete(seg.replay, f.rec.offset)
		f.rec.takeStates(states)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.known, verdict == released, verdict == orphaned:
		f.known = true
	case verdict == void:
		f.rec.open = 0
	default:
		w := waiting{record: len(seg.records), index: h.index}
		if len(seg.waiting) < 4096 { // the rest is read again when its time comes
			w.env = f.env
		}
		seg.waiting = append(seg.waiting, w)
	}
	seg.records = append(seg.records, f.rec)
	seg.open++
	if f.rec.open == 0 {
		s.finish(seg, &f.rec)
	}
	return f, nil
}

// spoil keeps a segment from being reclaimed until an admin looked.
func (s *Store) spoil(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.damaged = true
}

// takeStates puts the states of the journal into a record.
func (r *record) takeStates(states []state) {
	for len(states) < int(r.recipients) {
		states = append(states, fresh)
	}
	r.states = states[:r.recipients:r.recipients]
	r.open = 0
	for i := range r.states {
		if !r.states[i].status.Final() {
			r.open++
		}
	}
}

// seal ends the segment of a dead writer where its last whole record does.
func (s *Store) seal(seg *segment) error {
	// Not in vain: the writer may have died between write and sync.
	if err := seg.file.Sync(); err != nil {
		return err
	}
	if err := seg.file.Truncate(seg.scanned); err != nil {
		return err
	}
	count := uint32(len(seg.records))
	if _, err := seg.file.WriteAt(seal{seg.scanned, count}.encode(seg.salt), sealAt); err != nil {
		return err
	}
	return seg.file.Sync()
}

// sweep removes what a crash left: temporary files and blobs whose record was
// never written, or is done.
func (s *Store) sweep() error {
	unlock, err := s.tree.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for _, dir := range []string{segmentsDir, blobsDir, journalDir} {
		names, err := s.fs.List(s.path(dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			if id, ok := parseBlobName(name); dir == blobsDir && ok {
				s.sweepBlob(id)
			} else if strings.HasSuffix(name, tmpSuffix) {
				s.sweepTemporary(s.path(dir, name))
			}
		}
	}
	return nil
}

// sweepTemporary removes a file if no writer holds it locked. A writer makes
// and locks it in one go under the lock of the directory, which we have.
func (s *Store) sweepTemporary(name string) {
	f, err := s.fs.Open(name, 0, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if free, err := f.TryLock(); err == nil && free {
		s.fs.Remove(name)
	}
}

func (s *Store) sweepBlob(id ID) {
	s.mu.Lock()
	seg, rec := s.find(id)
	keep := seg != nil && (!seg.dead || seg.damaged || rec != nil && rec.open > 0)
	s.mu.Unlock()
	if !keep {
		s.fs.Remove(s.tree.blob(id))
	}
}
