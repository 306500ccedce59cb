package spool

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
)

// rotate starts a new journal file and writes a checkpoint, after which the
// older files are not needed. The checkpoint is taken while events go on into
// the new file; that it may hold some of them already does no harm, as each
// event says all about its recipient and is synced there, too. For the same
// reason a checkpoint that could not be written is tried again for the same
// journal.
func (s *Store) rotate() error {
	if !s.begun || s.journal.broken() {
		if err := s.nextJournal(); err != nil {
			return err
		}
		s.begun = true
	}
	number := s.journal.number
	size, err := s.writeCheckpoint(number)
	if err != nil {
		return err
	}
	s.recovered()
	older := s.checkpoint
	s.checkpoint, s.checkSize, s.begun = number, size, false
	for _, n := range s.old {
		s.discard(journalName(n))
	}
	if older != 0 {
		s.discard(checkpointName(older))
	}
	s.old, s.oldSize = nil, 0
	return nil
}

// nextJournal lets events go into a new file.
func (s *Store) nextJournal() error {
	start := func(number uint32) (*journal, error) { return s.newJournal(number, s.opts.journalStep) }
	if s.journal.broken() {
		start = s.startJournal
	}
	next, err := start(s.journal.number + 1)
	if err != nil {
		return err
	}
	s.logMu.Lock()
	s.mu.Lock()
	prev := s.journal
	s.journal = next
	s.mu.Unlock()
	if err := prev.retire(); err != nil {
		// Until the checkpoint stands for what may be lost; before a Sync can
		// take the new journal for all that there is to sync.
		s.fail(err)
	}
	s.logMu.Unlock()
	s.old = append(s.old, prev.number)
	s.oldSize += prev.end
	return nil
}

// discard removes a file of the journal directory that a checkpoint replaced.
// One that stays is removed at the next start.
func (s *Store) discard(name string) {
	if err := s.fs.Remove(s.path(journalDir, name)); err != nil {
		s.log.Warn("spool: old journal stays", slog.Any("error", err))
	}
}

// writeCheckpoint writes the states of all messages that are not fresh. Data,
// then name, then directory: a checkpoint is whole or not there.
func (s *Store) writeCheckpoint(number uint32) (size int64, err error) {
	name := s.path(journalDir, checkpointName(number))
	tmp := name + tmpSuffix
	f, err := s.fs.Open(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			s.fs.Remove(tmp)
		}
	}()
	size, err = s.writeStates(f, number)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		// What it holds of events that stand in the journal behind it, that
		// journal must hold, too: of two events of a recipient a power loss
		// might take the second and leave the first, which would then count.
		err = s.syncJournal()
	}
	if err == nil {
		err = s.fs.Rename(tmp, name)
	}
	if err == nil {
		err = s.fs.SyncDir(s.path(journalDir))
	}
	return size, err
}

func (s *Store) writeStates(f File, number uint32) (size int64, err error) {
	var salt [8]byte
	rand.Read(salt[:])
	h := logHeader{checkpointMagic, number, binary.LittleEndian.Uint64(salt[:])}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return 0, err
	}
	off := int64(framesAt)
	var buf []byte
	flush := func() error {
		b := endFrame(buf, 0, h.salt, off, 0)
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
		buf = startFrame(b[:0])
		return nil
	}
	buf = startFrame(buf)
	s.mu.Lock()
	numbers := slices.Sorted(maps.Keys(s.segments))
	s.mu.Unlock()
	for _, n := range numbers {
		// Some records at a time, as events wait for the lock.
		for from, more := 0, true; more; {
			s.mu.Lock()
			if seg := s.segments[n]; seg == nil {
				more = false
			} else {
				from, more = seg.appendStates(&buf, from)
			}
			s.mu.Unlock()
			if len(buf) > frameHeaderSize {
				if err := flush(); err != nil {
					return 0, err
				}
			}
		}
	}
	// An empty frame says that nothing is missing.
	return off, flush()
}

// appendStates encodes the states of messages from the given one on, until a
// frame is full. It says where to go on and whether there is more.
func (seg *segment) appendStates(buf *[]byte, from int) (next int, more bool) {
	const enough = 256 << 10
	b := *buf
	if from == 0 {
		for _, n := range seg.done {
			b = appendSpan(b, seg.number, n)
		}
		seg.unread(func(offset, recipient uint32, st state) {
			b = appendEvent(b, MakeID(seg.number, offset), recipient, &st)
		})
	}
	for i := from; i < len(seg.keys); i++ {
		if len(b) > enough {
			*buf = b
			return i, true
		}
		offset := seg.offset(i)
		if seg.keys[i]&(keyDone|keyKept) == keyDone {
			// Many that are done take no more than one. What is damaged may be
			// repaired, so there no span reaches over what is not known.
			for !seg.damaged && i+1 < len(seg.keys) && seg.keys[i+1]&(keyDone|keyKept) == keyDone {
				i++
			}
			to := uint32(offset + recordAlign)
			if !seg.damaged {
				to = uint32(seg.behind(i, seg.scanned))
			}
			b = appendSpan(b, seg.number, span{offset, to})
			continue
		}
		for r := range seg.recipients(i) {
			if st, isFresh := seg.state(i, r); !isFresh {
				b = appendEvent(b, MakeID(seg.number, offset), r, &st)
			}
		}
	}
	*buf = b
	return len(seg.keys), false
}

// replayAll reads the last checkpoint and the journals that follow it.
func (s *Store) replayAll() error {
	names, err := s.fs.List(s.path(journalDir))
	if err != nil {
		return err
	}
	var journals, checkpoints []uint32
	for _, name := range names {
		switch n, kind, ok := parseLogName(name); {
		case !ok:
		case kind == "journal":
			journals = append(journals, n)
		default:
			checkpoints = append(checkpoints, n)
		}
	}
	first := uint32(1)
	if len(checkpoints) > 0 {
		s.checkpoint = slices.Max(checkpoints)
		first = s.checkpoint
		before := make(map[ID]bool) // mail that is lost was told of at earlier starts
		s.checkSize, err = s.readLog(checkpointName(first), func(id ID, recipient uint32, st state) { s.replayed(id, recipient, st, before) })
		if err != nil {
			return err
		}
	}
	slices.Sort(journals)
	for _, n := range checkpoints {
		if n != s.checkpoint {
			s.discard(checkpointName(n))
		}
	}
	lost := make(map[ID]bool)
	for _, n := range journals {
		if n < first {
			s.discard(journalName(n))
			continue
		}
		if want := first + uint32(len(s.old)); n != want {
			return fmt.Errorf("%w: %s is missing", ErrDamaged, s.path(journalDir, journalName(want)))
		}
		size, err := s.replay(n, func(id ID, recipient uint32, st state) { s.replayed(id, recipient, st, lost) })
		if err != nil {
			return err
		}
		s.old = append(s.old, n)
		s.oldSize += size
	}
	if s.checkpoint != 0 && len(s.old) == 0 {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, s.path(journalDir, journalName(first)))
	}
	for id := range lost {
		s.log.Error("spool: a queued message has lost its segment", slog.String("id", id.String()))
	}
	return nil
}

// replayed keeps a state for Load. States of reclaimed segments are skipped;
// those that are not final there belong to mail that somebody removed.
func (s *Store) replayed(id ID, recipient uint32, st state, lost map[ID]bool) {
	seg := s.segments[id.Segment()]
	if st.span {
		if seg != nil {
			seg.done = seg.done.add(span{id.Offset(), recipient})
			return
		}
		maps.DeleteFunc(lost, func(other ID, _ bool) bool {
			return other.Segment() == id.Segment() && other.Offset() >= id.Offset() && other.Offset() < recipient
		})
		return
	}
	if seg == nil {
		if st.status.Final() {
			delete(lost, id)
		} else {
			lost[id] = true
		}
		return
	}
	if recipient <= maxEnvelope {
		seg.replayed(id.Offset(), recipient, &st)
	}
}

// fail stops recording: what was not synced may be lost, and nothing new may
// start before it stands in a checkpoint.
func (s *Store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = full(fmt.Errorf("spool: journal: %w", err))
		s.log.Error("spool: outcomes cannot be recorded", slog.Any("error", err))
	}
}

// recovered lets events be recorded again, once all that failed journals may
// have lost stands in a checkpoint.
func (s *Store) recovered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil && !s.journal.broken() {
		s.failed = nil
		s.log.Info("spool: outcomes can be recorded again")
	}
}
