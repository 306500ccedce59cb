package spool

// Usage is the room that a spool takes and has.
type Usage struct {
	Segments      int
	SegmentOctets int64 // in records, without what was given back to the file system
	Free          int64 // octets that can still be written on the file system
}

// Usage looks at the spool. Files of large messages are not in SegmentOctets.
func (s *Store) Usage() (Usage, error) {
	s.mu.Lock()
	u := Usage{Segments: len(s.segments)}
	for _, seg := range s.segments {
		u.SegmentOctets += max(0, seg.scanned-recordsAt-seg.done.blocks())
	}
	s.mu.Unlock()
	var err error
	u.Free, err = s.fs.Free(s.dir)
	return u, err
}
