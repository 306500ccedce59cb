package spool

import (
	"maps"
	"slices"
)

// Usage is the room that a spool takes and has.
type Usage struct {
	Segments      int
	SegmentOctets int64 // in records, without what was given back to the file system
	Free          int64 // octets that can still be written on the file system
}

// Usage looks at the spool, a segment under the mutex at a time: one may hold
// thousands of holes. Files of large messages are not in SegmentOctets.
func (s *Store) Usage() (Usage, error) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.segments))
	s.mu.Unlock()
	u := Usage{Segments: len(all)}
	for _, seg := range all {
		s.mu.Lock()
		u.SegmentOctets += max(0, seg.scanned-recordsAt-seg.done.blocks())
		s.mu.Unlock()
	}
	var err error
	u.Free, err = s.fs.Free(s.dir)
	return u, err
}
