package spool

import (
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
)

// Envelope reads the envelope of a message.
func (s *Store) Envelope(id ID) (*Envelope, error) {
	seg, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	defer s.leave(seg)
	h, err := seg.header(id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	b := make([]byte, h.envelope)
	if _, err := seg.file.ReadAt(b, int64(id.Offset())+recordHeaderSize); err != nil {
		return nil, fmt.Errorf("%s: envelope: %w", id, err)
	}
	if crc32.Checksum(b, castagnoli()) != h.envelopeCRC {
		return nil, fmt.Errorf("%s: envelope: %w", id, ErrDamaged)
	}
	e, err := decodeEnvelope(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	h.fill(e)
	return e, nil
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
		s.leave(seg)
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	c := &Content{id: id, size: h.content, want: h.contentCRC, sum: crc32.New(castagnoli())}
	if !h.blob() {
		c.r = io.NewSectionReader(seg.file, h.contentAt(), h.content)
		c.close = func() error { s.leave(seg); return nil }
		return c, nil
	}
	s.leave(seg)
	f, err := s.fs.Open(s.tree.blob(id), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: content file: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	c.r = io.NewSectionReader(f, 0, h.content)
	c.close = f.Close
	return c, nil
}

// acquire returns the segment of a message and keeps its file open until leave.
func (s *Store) acquire(id ID) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	seg, rec := s.find(id)
	if rec == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	seg.users++
	return seg, nil
}

func (s *Store) leave(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.users--
	if seg.gone && seg.users == 0 {
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
