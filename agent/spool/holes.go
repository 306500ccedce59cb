package spool

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"
)

const (
	// holesAt is how many octets of a sealed segment must have got done since
	// the last time before holes are made in it again; of a small segment, a
	// quarter will do. It keeps the journal small: each hole is an event.
	holesAt = 1 << 20
	// holesAfter is how long mail that got done stays before a hole is made for it.
	// While a backlog is being sent its segments are gone as a whole in a second or
	// a few, and a hole costs as much as the sending of some tens of messages.
	holesAfter = 10 * time.Second
)

// makeHoles gives back what is done in sealed segments, so that one recipient
// that is stuck keeps its own message and not 64 MiB. Three steps, in this
// order: an event in the journal says what is about to go; the journal is
// synced, with all outcomes before that event; only then blocks are punched.
// Octets that are zero are thus always known to be done.
func (s *Store) makeHoles() {
	s.mu.Lock()
	var ready []*segment
	least, after, now := int64(holesAt), s.opts.holesAfter, s.opts.Now()
	if s.journal.low() {
		least, after = blockSize, 0 // perhaps the disk is full: all that can be had
	}
	s.young = false
	for _, n := range slices.Sorted(maps.Keys(s.segments)) {
		seg := s.segments[n]
		if !seg.sealed || seg.damaged {
			continue
		}
		if seg.freed >= min(least, max(1, (seg.scanned-recordsAt)/4)) {
			if now.Sub(seg.freedAt) < after {
				s.young = true
			} else if !s.dig(seg) {
				break // no room in the journal; the next time
			}
		}
		if len(seg.punch) > 0 {
			ready = append(ready, seg)
		}
	}
	s.mu.Unlock()
	if len(ready) == 0 || s.Sync() != nil {
		return
	}
	for _, seg := range ready {
		s.punchOut(seg)
	}
}

// dig writes spans to the journal and forgets their messages. It is false if
// the journal does not take them. Callers hold mu.
func (s *Store) dig(seg *segment) bool {
	found := seg.gains()
	if len(found) > 0 {
		const most = maxPayload / eventSize
		for part := range slices.Chunk(found, most) {
			err := s.journal.append(0, func(b []byte) []byte {
				for _, n := range part {
					b = appendSpan(b, seg.number, n)
				}
				return b
			})
			if err != nil {
				s.log.Warn("spool: no holes made", slog.Any("error", err))
				return false
			}
		}
		for _, n := range found {
			seg.done = seg.done.add(n)
			seg.punch = append(seg.punch, n)
		}
		seg.compact()
	}
	seg.freed = 0
	return true
}

// gains returns the parts of the segment that are done, as long as possible,
// where giving them back frees a block that no older hole did.
func (seg *segment) gains() []span {
	var found []span
	run, in := span{}, false
	old := int64(0) // octets in blocks of older spans in run
	end := func(to int64) {
		run.to = uint32(to)
		if _, size := run.blocks(); in && size > old {
			found = append(found, run)
		}
		in, old = false, 0
	}
	item := func(from uint32) {
		if !in {
			run, in = span{from: from}, true
		}
	}
	spans := seg.done
	for i := range seg.keys {
		offset := seg.offset(i)
		for ; len(spans) > 0 && spans[0].from < offset; spans = spans[1:] {
			item(spans[0].from)
			_, size := spans[0].blocks()
			old += size
		}
		if seg.isDone(i) && seg.reading[offset] == 0 {
			item(offset)
		} else {
			end(int64(offset))
		}
	}
	for _, n := range spans {
		item(n.from)
		_, size := n.blocks()
		old += size
	}
	end(seg.scanned)
	return found
}

// punchOut makes the holes of a segment, which the journal knows by now.
func (s *Store) punchOut(seg *segment) {
	s.mu.Lock()
	punch := seg.punch
	seg.punch = nil
	none := s.noHoles
	s.mu.Unlock()
	for _, n := range punch {
		off, size := n.blocks()
		if size == 0 || none {
			continue
		}
		err := seg.file.Punch(off, size)
		if errors.Is(err, errors.ErrUnsupported) {
			s.mu.Lock()
			s.noHoles = true
			s.mu.Unlock()
			s.log.Warn("spool: the file system cannot punch holes, room comes back by whole segments only", slog.Any("error", err))
			return
		}
		if err != nil {
			// The next hole beside it, or the next start, tries again.
			s.log.Error("spool: hole not made", slog.String("segment", segmentName(seg.number)), slog.Any("error", err))
			return
		}
	}
}
