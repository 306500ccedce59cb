package spool

import (
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Envelope reads the envelope of a message. It is shared with others and must not be changed.
func (s *Store) Envelope(id ID) (*Envelope, error) {
	seg, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	defer s.leave(seg, id)
	w, err := s.look(seg.file, int64(id.Offset()), envelopeWindow)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	defer s.windows.Put(w)
	_, e, err := s.record(seg, w, id)
	return e, err
}

// States returns what the journal says of a message's recipients, by ordinal;
// ErrNotFound if all of them are final.
func (s *Store) States(id ID) ([]State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg, i, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if seg.isDone(i) {
		return nil, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	list := make([]State, seg.recipients(i))
	for r := range list {
		st, _ := seg.state(i, uint32(r))
		list[r] = st.unpack()
	}
	return list, nil
}

// Open returns the content of a message, from its first octet. It may be opened
// any number of times, also at the same time.
func (s *Store) Open(id ID) (*Content, error) {
	seg, err := s.acquire(id)
	if err != nil {
		return nil, err
	}
	h, err := seg.header(seg.file, id)
	if err != nil {
		s.leave(seg, id)
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return s.tree.content(seg.file, &h, func() error { s.leave(seg, id); return nil })
}

// Message is Envelope and Open in one, for who wants both: of a message that is not
// large the disk is read once, and an envelope of many recipients is decoded once for many
// transactions.
func (s *Store) Message(id ID) (*Envelope, *Content, error) {
	seg, err := s.acquire(id)
	if err != nil {
		return nil, nil, err
	}
	w, err := s.look(seg.file, int64(id.Offset()), windowSize)
	if err != nil {
		s.leave(seg, id)
		return nil, nil, fmt.Errorf("%s: %w", id, err)
	}
	done := func() error { s.windows.Put(w); s.leave(seg, id); return nil }
	h, e, err := s.record(seg, w, id)
	if err != nil {
		done()
		return nil, nil, err
	}
	c, err := s.tree.content(w, &h, done)
	return e, c, err
}

// window is a file of which some octets have been read ahead.
type window struct {
	io.ReaderAt
	at int64
	n  int
	b  [windowSize]byte
}

// windowSize is what is read ahead: most messages of some kilobytes as a whole. A
// session holds so much while it waits for a receiver, so it must be little.
const windowSize = 12 << 10

// envelopeWindow is what is read ahead for an envelope alone: its record's header and some ten
// recipients, with one call of the kernel in place of two. A verb asks for hundreds of thousands.
const envelopeWindow = 1 << 10

// look reads size octets ahead from an offset on, windowSize at most.
func (s *Store) look(f io.ReaderAt, at int64, size int) (*window, error) {
	w, ok := s.windows.Get().(*window)
	if !ok {
		w = new(window)
	}
	w.ReaderAt, w.at = f, at
	var err error
	if w.n, err = f.ReadAt(w.b[:size], at); err != nil && err != io.EOF {
		s.windows.Put(w)
		return nil, err
	}
	return w, nil
}

// ReadAt implements io.ReaderAt. What was read ahead only in part is read anew.
func (w *window) ReadAt(p []byte, off int64) (int, error) {
	if from := off - w.at; from >= 0 && from+int64(len(p)) <= int64(w.n) {
		return copy(p, w.b[from:w.n]), nil
	}
	return w.ReaderAt.ReadAt(p, off)
}

// record reads the header and the envelope of a record.
func (s *Store) record(seg *segment, r io.ReaderAt, id ID) (h recordHeader, e *Envelope, err error) {
	var b []byte
	if h, err = seg.header(r, id); err == nil {
		if e = s.large.get(id, h.recipients); e != nil {
			return h, e, nil
		}
		b, err = h.readEnvelope(r)
	}
	if err == nil {
		e, err = decodeEnvelope(b)
	}
	if err != nil {
		return h, nil, fmt.Errorf("%s: %w", id, err)
	}
	h.fill(e)
	s.large.put(id, e, len(b))
	return h, e, nil
}

// envelope reads an encoded envelope from its record.
func (seg *segment) envelope(id ID) ([]byte, error) {
	h, err := seg.header(seg.file, id)
	if err != nil {
		return nil, err
	}
	return h.readEnvelope(seg.file)
}

func (h *recordHeader) readEnvelope(r io.ReaderAt) ([]byte, error) {
	b := make([]byte, h.envelope)
	if n, err := r.ReadAt(b, int64(h.id.Offset())+recordHeaderSize); n < len(b) && err != io.EOF {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	if crc32.Checksum(b, castagnoli()) != h.envelopeCRC {
		return nil, fmt.Errorf("envelope: %w", ErrDamaged)
	}
	return b, nil
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

// header reads the header of a record; r is the segment's file.
func (seg *segment) header(r io.ReaderAt, id ID) (recordHeader, error) {
	var b [recordHeaderSize]byte
	if _, err := r.ReadAt(b[:], int64(id.Offset())); err != nil && err != io.EOF {
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
