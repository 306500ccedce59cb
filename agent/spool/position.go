package spool

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Position is how far a spool was filled at a moment: whatever message came into it later is
// beyond. Several processes append at a time, each to a segment of its own, so that one id does
// not say it: a message with a lesser id may come later.
type Position struct {
	spool string            // which spool; "": none, and no message is before
	upTo  uint32            // segments up to this number get no more messages, but those in parts
	parts map[uint32]uint32 // of other segments what is below an offset
}

// maxParts bounds what a position names. With more it is as of before those segments.
const maxParts = 64

// Has reports whether a message was in the spool then. The caller sees to it that it is the same
// spool (Store.IsAt).
func (p Position) Has(id ID) bool {
	if offset, is := p.parts[id.Segment()]; is {
		return id.Offset() < offset
	}
	return p.spool != "" && id.Segment() <= p.upTo
}

// String is the position for another node, which only gives it back; "" for none.
func (p Position) String() string {
	if p.spool == "" {
		return ""
	}
	text := p.spool + " " + strconv.FormatUint(uint64(p.upTo), 10)
	for _, n := range slices.Sorted(maps.Keys(p.parts)) {
		text += " " + MakeID(n, p.parts[n]).String()
	}
	return text
}

// ParsePosition reads what String wrote.
func ParsePosition(text string) (p Position, err error) {
	fields := strings.Fields(text)
	if len(fields) < 2 || len(fields) > 2+maxParts {
		return p, fmt.Errorf("%q is no position of a spool", text)
	}
	n, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return p, fmt.Errorf("position of a spool: %w", err)
	}
	p = Position{fields[0], uint32(n), make(map[uint32]uint32)}
	for _, f := range fields[2:] {
		id, err := ParseID(f)
		if err != nil {
			return Position{}, fmt.Errorf("position of a spool: %w", err)
		}
		p.parts[id.Segment()] = id.Offset()
	}
	return p, nil
}

// Position is how far the spool is filled, as far as Load and Follow have come. A message whose
// verdict is under way at that moment may be before it.
func (s *Store) Position() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := Position{spool: s.identity(), upTo: s.surveyed, parts: make(map[uint32]uint32)}
	for _, n := range slices.Sorted(maps.Keys(s.segments)) {
		seg := s.segments[n]
		if seg.sealed && n <= p.upTo {
			continue
		}
		if len(p.parts) == maxParts {
			p.upTo = min(p.upTo, n-1)
			break
		}
		p.parts[n] = uint32(min(seg.scanned, maxOffset))
	}
	return p
}

// IsAt reports whether a position is one of this spool, and not of one that was in its place.
func (s *Store) IsAt(p Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.spool != "" && p.spool == s.identity()
}

// identity tells this spool from others: it says nothing of its key. The caller holds mu.
func (s *Store) identity() string {
	if s.name == "" {
		if key, err := s.readSmall(keyFile); err == nil && len(key) == 32 {
			sum := sha256.Sum256(append([]byte("millrace position\n"), key...))
			s.name = hex.EncodeToString(sum[:8])
		}
	}
	return s.name
}

// survey notes that the directory was listed. Segments are made in the order of their numbers, so
// what was not yet there with the listing before this one and has a lesser number than some that
// were will never be: what this listing does not name of those is gone. Of segments that could not
// be opened nothing is known.
func (s *Store) survey(names []string) {
	most := uint32(0)
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
			most = max(most, n)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.surveyed, s.listed = s.listed, max(s.listed, most)
	for n := range s.unopened {
		s.surveyed = min(s.surveyed, n-1)
	}
}
