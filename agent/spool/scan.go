package spool

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
)

// scanWindow is how much of a segment is read at a time: the header and
// envelope of a usual record, and not much of its body.
const scanWindow = 4 << 10

// scanner walks the records of a segment from pos up to end.
type scanner struct {
	r      io.ReaderAt
	number uint32
	salt   uint64
	pos    int64
	end    int64
	// verify reads contents and checks them, for records that may be torn.
	// Contents in blobs were synced before their records were written.
	verify bool
	// done are parts whose records need not be there any more.
	done spans

	window []byte
	at     int64 // of window
}

// scanned is one record, or octets that should have been one.
type scanned struct {
	head     recordHeader
	envelope []byte // valid up to the next call; nil if damaged
	skipped  int64  // octets before this record that are no record
}

// next returns the next record. Where there is none it looks for one further
// on; io.EOF with skipped > 0 says that what is left before end holds none.
func (s *scanner) next() (rec scanned, err error) {
	start := s.pos
	for s.end-s.pos >= recordHeaderSize {
		head, ok, err := s.header()
		if err != nil {
			return rec, err
		}
		if gone, is := s.done.find(uint32(s.pos)); is {
			// Whole, torn by a hole, or all zeros: it was looked after.
			from := s.pos
			if ok {
				s.pos = head.end()
			} else {
				s.pos = max(int64(gone.to), s.pos+recordAlign)
			}
			start += s.pos - from
			continue
		}
		if !ok {
			if err := s.resync(); err != nil {
				return rec, err
			}
			continue
		}
		rec.head = head
		rec.skipped = s.pos - start
		if rec.envelope, err = s.read(s.pos+recordHeaderSize, int(head.envelope)); err != nil {
			return rec, err
		}
		if crc32.Checksum(rec.envelope, castagnoli()) != head.envelopeCRC {
			rec.envelope = nil
		}
		if s.verify {
			whole := rec.envelope != nil
			if whole && !head.blob() {
				if whole, err = s.contentFits(&head); err != nil {
					return rec, err
				}
			}
			if !whole {
				s.pos += recordAlign // torn: never acknowledged
				continue
			}
		}
		s.pos = head.end()
		return rec, nil
	}
	s.pos = max(s.pos, s.end)
	return scanned{skipped: max(0, s.end-start)}, io.EOF
}

// header reads the record header at pos.
func (s *scanner) header() (recordHeader, bool, error) {
	b, err := s.read(s.pos, recordHeaderSize)
	if err != nil {
		return recordHeader{}, false, err
	}
	h, ok := parseRecordHeader(b, s.salt, MakeID(s.number, uint32(s.pos)))
	return h, ok && h.end() <= align(s.end, recordAlign), nil
}

// resync moves pos to the next place that may hold a record header. The salt in
// the checksum of headers keeps it from taking mail for one.
func (s *scanner) resync() error {
	s.pos += recordAlign
	for s.pos+recordHeaderSize <= s.end {
		b, err := s.read(s.pos, int(min(64<<10, s.end-s.pos)))
		if err != nil {
			return err
		}
		i := bytes.Index(b, []byte(recordMagic))
		if i < 0 {
			s.pos = align(s.pos+int64(len(b))-int64(len(recordMagic))+1, recordAlign)
			continue
		}
		at := s.pos + int64(i)
		s.pos = align(at, recordAlign)
		if s.pos == at {
			return nil
		}
	}
	s.pos = s.end
	return nil
}

// read returns n octets at off, from the window if they are in it.
func (s *scanner) read(off int64, n int) ([]byte, error) {
	if off < s.at || off+int64(n) > s.at+int64(len(s.window)) {
		want := max(n, int(min(scanWindow, s.end-off)))
		if want > cap(s.window) {
			s.window = make([]byte, want)
		}
		s.window = s.window[:want]
		s.at = off
		got, err := s.r.ReadAt(s.window, off)
		if got < n {
			s.window = s.window[:0]
			if err == io.EOF { // shorter than its end says: damaged, read as zeros
				return make([]byte, n), nil
			}
			return nil, fmt.Errorf("segment %s at %d: %w", segmentName(s.number), off, err)
		}
		s.window = s.window[:got]
	}
	return s.window[off-s.at:][:n], nil
}

// contentFits reads the content of a record and compares its checksum.
func (s *scanner) contentFits(h *recordHeader) (bool, error) {
	sum := crc32.New(castagnoli())
	n, err := io.Copy(sum, io.NewSectionReader(s.r, h.contentAt(), h.content))
	if err != nil {
		return false, err
	}
	return n == h.content && sum.Sum32() == h.contentCRC, nil
}
