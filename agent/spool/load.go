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
// yield ends it. A segment that cannot be read now is left to Follow, and
// Unreadable says so.
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
			if !f.known {
				return nil
			}
			if err := yield(f.id, f.env, f.states); err != nil {
				return yieldError{err}
			}
			return nil
		})
		var stop yieldError
		if errors.As(err, &stop) {
			return fmt.Errorf("spool: load: %w", stop.error)
		}
		s.noteScan(seg, err) // the rest of the mail must not wait for it
	}
	if err := s.sweep(); err != nil {
		return fmt.Errorf("spool: load: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded, s.table = true, nil
	s.wake()
	return nil
}

// noteScan notes whether a segment could be read as far as there is something.
func (s *Store) noteScan(seg *segment, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := seg.trouble
	seg.trouble = err
	if err != nil && before != nil && before.Error() == err.Error() {
		return // told before
	}
	if err != nil {
		s.log.Error("spool: segment cannot be read", slog.String("segment", segmentName(seg.number)), slog.Any("error", err))
		return
	}
	var unread ID
	seg.unread(func(offset, _ uint32, st state) {
		if _, done := seg.done.find(offset); !done && !st.status.Final() {
			unread = MakeID(seg.number, offset)
		}
	})
	if !seg.damaged { // else the states wait, in every checkpoint, for a repair
		seg.forgetUnread()
	}
	if unread != 0 {
		s.log.Error("spool: journal knows a message that is not there", slog.String("id", unread.String()))
	}
}

// found is a record that scan came to.
type found struct {
	id     ID
	env    *Envelope
	states []State
	known  bool // is the agent's: has a verdict, or the journal knows it, and is not done
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
	sealed, ok := readSeal(seg.file, seg.salt)
	end, err := readWatermark(seg.file, seg.salt)
	if errors.Is(err, ErrDamaged) && (free || ok) {
		end, err = recordsAt, nil
	}
	if err != nil {
		return fmt.Errorf("segment %s: %w", segmentName(seg.number), err)
	}
	if ok {
		end = sealed.end
	}
	if size < recordsAt {
		s.damage(seg, Damage{Offset: size, Reason: fmt.Sprintf("the segment has only %d octets", size)})
		seg.dead = true
		return nil
	}
	if end > size {
		s.damage(seg, Damage{Offset: size, Reason: fmt.Sprintf("the segment has %d octets, not %d", size, end)})
		end = size
	}
	sc := &scanner{r: seg.file, number: seg.number, salt: seg.salt, pos: seg.scanned, end: end, done: seg.done}
	if whole := ok && end == sealed.end && (seg.scanned == recordsAt || seg.table) && sealed.footer != 0; whole {
		whole, err = s.readTable(seg, sealed, yield)
		if whole {
			sc.pos = end
		}
	}
	if err == nil {
		err = s.takeUp(seg, sc, yield)
	}
	if err != nil {
		return err
	}
	if !free {
		s.mu.Lock()
		seg.sealed = ok
		s.mu.Unlock()
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
		if err := s.seal(seg, end); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.dead, seg.sealed = true, true
	seg.keys = slices.Clip(seg.keys)
	if !seg.damaged {
		seg.punch = slices.Clone(seg.done) // perhaps the last agent died before it did
	}
	return nil
}

// readTable takes up a sealed segment by its footer. It is false if that cannot
// be used; the records tell the same then.
func (s *Store) readTable(seg *segment, sealed seal, yield func(*found) error) (whole bool, err error) {
	table, err := readFooter(seg.file, seg.salt, sealed, s.table)
	if err != nil {
		s.log.Warn("spool: footer unreadable, scanning the records",
			slog.String("segment", segmentName(seg.number)), slog.Any("error", err))
		return false, nil
	}
	s.table = table
	verdicts := make([]byte, min(maxRecords, int(sealed.count)+1024))
	if _, err := seg.file.ReadAt(verdicts, verdictsAt); err != nil {
		return false, err
	}
	s.mu.Lock()
	seg.expect(int(sealed.count))
	s.mu.Unlock()
	seg.table = true
	for entries := readEntries(seg.number, table); len(entries.rest) > 0; {
		rec, _ := entries.next()
		if _, done := seg.done.find(rec.head.id.Offset()); done || rec.head.index < seg.next {
			continue // known, or taken up before a read failed
		}
		verdict := pending
		if i := int(rec.head.index); i < len(verdicts) {
			verdict = verdicts[i]
		} else if err := readVerdict(seg.file, rec.head.index, &verdict); err != nil {
			return false, err
		}
		if err := s.add(seg, &rec, verdict, int64(rec.head.id.Offset())+recordAlign, yield); err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.scanned = sealed.end
	return true, nil
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
			at := sc.pos - rec.skipped
			if err == nil {
				at = int64(rec.head.id.Offset()) - rec.skipped
			}
			s.damage(seg, Damage{Offset: at, Reason: fmt.Sprintf("%d octets are no record", rec.skipped)})
		}
		if err == io.EOF {
			if !sc.verify {
				s.mu.Lock()
				seg.scanned = sc.pos
				s.mu.Unlock()
			}
			return nil
		}
		if err != nil {
			return err
		}
		verdict := pending
		if i := int64(rec.head.index) - int64(first); i >= 0 && i < n {
			verdict = verdicts[i]
		}
		if err := s.add(seg, &rec, verdict, sc.pos, yield); err != nil {
			return err
		}
	}
}

// add takes one record into memory and yields it. scanned is where to go on.
func (s *Store) add(seg *segment, rec *scanned, verdict byte, scanned int64, yield func(*found) error) error {
	h := &rec.head
	if h.index < seg.next || h.id.Offset() >= maxOffset {
		// Not a record that could be here.
		s.mu.Lock()
		seg.scanned = scanned
		s.mu.Unlock()
		s.damage(seg, Damage{Offset: int64(h.id.Offset()), Reason: fmt.Sprintf("index %d, expected %d", h.index, seg.next)})
		return nil
	}
	f := &found{id: h.id}
	var err error
	if rec.envelope == nil {
		// A footer does not repeat long ones; a scan found a wrong checksum,
		// and this says so.
		rec.envelope, err = seg.envelope(h.id)
	}
	if err == nil {
		f.env, err = decodeEnvelope(rec.envelope)
	}
	if err == nil && len(f.env.Recipients) != int(h.recipients) {
		err = fmt.Errorf("%w: %d recipients, not %d", ErrDamaged, len(f.env.Recipients), h.recipients)
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	s.mu.Lock()
	seg.next, seg.scanned = h.index+1, scanned
	// What the journal knows was released, whatever the verdict octet says
	// after a power loss.
	i, known := seg.add(h.id.Offset(), h.recipients, h.blob())
	switch {
	case seg.isDone(i):
		known = true
		if h.blob() && seg.keys[i]&keyKept == 0 {
			s.done = append(s.done, doneBlob{id: h.id})
		}
		s.freed(seg, scanned-int64(h.id.Offset()))
	case known, verdict == released, verdict == orphaned:
		known, f.known = true, true
	case verdict == void:
		s.finish(seg, i, true)
		known = true
	}
	kept := seg.keys[i]&keyKept != 0
	done := seg.isDone(i)
	if !known && err == nil {
		w := waiting{offset: h.id.Offset(), index: h.index}
		if len(seg.waiting) < 4096 { // the rest is read again when its time comes
			w.env = f.env
		}
		seg.waiting = append(seg.waiting, w)
	}
	if f.known && err == nil {
		f.states = make([]State, h.recipients)
		for r := range f.states {
			st, _ := seg.state(i, uint32(r))
			f.states[r] = st.unpack()
		}
	}
	s.mu.Unlock()
	switch {
	case kept:
		s.damage(seg, Damage{Offset: int64(h.id.Offset()), ID: h.id, Recipients: h.recipients, Reason: "an outcome is damaged", Recorded: true})
	case done:
	case err != nil:
		s.damage(seg, Damage{Offset: int64(h.id.Offset()), ID: h.id, Recipients: h.recipients, Reason: err.Error()})
	default:
		if h.fill(f.env); f.known || !known {
			return yield(f)
		}
	}
	return nil
}

func readVerdict(r io.ReaderAt, index uint32, verdict *byte) error {
	var b [1]byte
	if _, err := r.ReadAt(b[:], verdictsAt+int64(index)); err != nil {
		return err
	}
	*verdict = b[0]
	return nil
}

// seal ends the segment of a dead writer where its last whole record does.
// published is where its watermark stood. The footer names the records that
// count: there may be torn ones between them, which a later start, without the
// footer, would have to take for damage.
func (s *Store) seal(seg *segment, published int64) error {
	// Not in vain: the writer may have died between write and sync.
	if err := seg.file.Sync(); err != nil {
		return err
	}
	end := seal{end: seg.scanned, count: seg.next}
	if f := seg.footer(published); f != nil {
		b := f.bytes()
		// On a full disk there may be no room for it; the records are enough.
		if _, err := seg.file.WriteAt(b, end.end); err == nil {
			end.count = f.count
			end.footer, end.size, end.crc = end.end, uint32(len(b)), salted(seg.salt, end.end, b)
		}
	}
	if err := seg.file.Truncate(end.end + int64(end.size)); err != nil {
		return err
	}
	if _, err := seg.file.WriteAt(end.encode(seg.salt), sealAt); err != nil {
		return err
	}
	return seg.file.Sync()
}

// footer reads a segment that was taken up once more, for its footer; nil if
// there is damage, which a scan can tell better.
func (seg *segment) footer(published int64) *footer {
	f := newFooter()
	sc := &scanner{r: seg.file, number: seg.number, salt: seg.salt, pos: recordsAt, end: published}
	for {
		rec, err := sc.next()
		switch {
		case rec.skipped > 0 && !sc.verify, err != nil && err != io.EOF:
			return nil
		case err == io.EOF && sc.verify:
			return f
		case err == io.EOF:
			sc.end, sc.verify = seg.scanned, true
		case rec.envelope == nil || rec.head.index < f.index:
			return nil
		default:
			f.add(&rec.head, rec.envelope)
		}
	}
}

// sweep removes what a crash left: temporary files and blobs whose record was
// never written, or is done.
func (s *Store) sweep() error {
	unlock, err := s.tree.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var segments []string // also those that a writer made since we looked
	for _, dir := range []string{segmentsDir, blobsDir, journalDir} {
		names, err := s.fs.List(s.path(dir))
		if err != nil {
			return err
		}
		if dir == segmentsDir {
			segments = names
		}
		for _, name := range names {
			if id, ok := parseBlobName(name); dir == blobsDir && ok {
				s.sweepBlob(id, segments)
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

// sweepBlob removes a blob that has no record and gets none. One whose message
// is done is left to reclaim, which first syncs what says so.
func (s *Store) sweepBlob(id ID, segments []string) {
	s.mu.Lock()
	_, _, err := s.find(id)
	seg := s.segments[id.Segment()]
	s.mu.Unlock()
	keep := err == nil
	if seg == nil {
		keep = slices.Contains(segments, segmentName(id.Segment()))
	} else if !seg.dead || seg.damaged {
		keep = true
	}
	if !keep {
		s.fs.Remove(s.tree.blob(id))
	}
}
