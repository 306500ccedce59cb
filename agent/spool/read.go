package spool

import (
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Envelope reads the envelope of a message.
func (s *Store) Envelope(id ID) (*Envelope, error) {
	seg, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	defer s.leave(seg, id)
	h, err := seg.header(id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	b, err := seg.envelopeOf(&h)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	e, err := decodeEnvelope(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	h.fill(e)
	return e, nil
}

// envelope reads an encoded envelope from its record.
func (seg *segment) envelope(id ID) ([]byte, error) {
	h, err := seg.header(id)
	if err != nil {
		return nil, err
	}
	return seg.envelopeOf(&h)
}

func (seg *segment) envelopeOf(h *recordHeader) ([]byte, error) {
	b := make([]byte, h.envelope)
	if n, err := seg.file.ReadAt(b, int64(h.id.Offset())+recordHeaderSize); n < len(b) && err != io.EOF {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	if crc32.Checksum(b, castagnoli()) != h.envelopeCRC {
		return nil, fmt.Errorf("envelope: %w", ErrDamaged)
	}
	return b, nil
}

// Open returns the content of a message, from its first octet. It may be opened
// any number of times, also at the same time.
func (s *Store) Open(id ID) (*Content, error) {
	seg, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	h, err := seg.header(id)
	if err != nil {
		s.leave(seg, id)
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return s.tree.content(seg, &h, func() error { s.leave(seg, id); return nil })
}

// acquire returns the segment of a message; file and record stay until leave.
func (s *Store) acquire(id ID) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	seg, _, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if seg.reading == nil {
		seg.reading = make(map[uint32]int)
	}
	seg.reading[id.Offset()]++
	return seg, nil
}

func (s *Store) leave(seg *segment, id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.reading[id.Offset()]--; seg.reading[id.Offset()] == 0 {
		delete(seg.reading, id.Offset())
	}
	if seg.gone && len(seg.reading) == 0 {
		seg.file.Close()
	}
}

func (seg *segment) header(id ID) (recordHeader, error) {
	var b [recordHeaderSize]byte
	if _, err := seg.file.ReadAt(b[:], int64(id.Offset())); err != nil && err != io.EOF {
		return recordHeader{}, err
	}
	h, ok := parseRecordHeader(b[:], seg.salt, id)
	if !ok {
		return h, fmt.Errorf("%w: record header", ErrDamaged)
	}
	return h, nil
}

// Content is the content of a message, header and body, as the milter gave it.
type Content struct {
	id    ID
	size  int64
	r     io.Reader
	read  int64
	sum   hash.Hash32
	want  uint32
	close func() error
}

var _ io.ReadCloser = (*Content)(nil)

// Size returns the octets of header and body.
func (c *Content) Size() int64 { return c.size }

// Read reads on. At the end it returns io.EOF only if all octets are those that
// came in; otherwise an error that wraps ErrDamaged. What it gave before that
// must not be passed on as a whole message.
func (c *Content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.read += int64(n)
	if err != nil && err != io.EOF {
		return n, fmt.Errorf("%s: content: %w", c.id, err)
	}
	// The end is told with the last octets, for readers that count.
	if c.read == c.size {
		err = io.EOF
	}
	if err == io.EOF && (c.read != c.size || c.sum.Sum32() != c.want) {
		return n, fmt.Errorf("%s: content: %w", c.id, ErrDamaged)
	}
	return n, err
}

// Close ends the reading. It must be called once.
func (c *Content) Close() error { return c.close() }
