package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	footerMagic = "MRft"

	// maxEntry is the most octets of envelope that an entry of a footer
	// repeats, and maxFooter what all of them may have: a start reads footers,
	// and the writer holds one in memory.
	maxEntry  = 4 << 10
	maxFooter = 8 << 20

	// envelopeFields is how many fields an envelope has; all recipients
	// together are the last.
	envelopeFields = 14
	// notRepeated, in the place of fields that are as before, says that the
	// envelope stands only in the record.
	notRepeated = 1 << 15
)

// footer is the table of the records of a sealed segment: all of their
// envelopes and what else a start needs, in one piece and much smaller than the
// records. The writer gathers it as records come.
type footer struct {
	buf    []byte
	count  uint32
	index  uint32 // of the last record, plus 1
	offset int64  // of the last record
	prev   []byte // the last envelope that was repeated
}

func newFooter() *footer {
	return &footer{buf: append(make([]byte, 0, 4<<10), footerMagic+"\x00\x00\x00\x00"...), offset: recordsAt}
}

// add appends an entry.
func (f *footer) add(h *recordHeader, envelope []byte) {
	same, rest, ok := envelopeDelta(f.prev, envelope)
	if !ok || len(rest) > maxEntry || len(f.buf)+len(rest) > maxFooter {
		same, rest = notRepeated, nil
	}
	b := make([]byte, 0, 64)
	b = binary.AppendUvarint(b, uint64(h.index-f.index))
	b = binary.AppendUvarint(b, uint64(int64(h.id.Offset())-f.offset)/recordAlign)
	b = binary.AppendUvarint(b, uint64(h.flags))
	b = binary.AppendUvarint(b, uint64(h.recipients))
	b = binary.AppendUvarint(b, uint64(h.content))
	b = binary.AppendUvarint(b, uint64(h.header))
	b = binary.LittleEndian.AppendUint16(b, same)
	f.buf = binary.AppendUvarint(f.buf, uint64(len(b)+len(rest)))
	f.buf = append(append(f.buf, b...), rest...)
	if same != notRepeated {
		f.prev = append(f.prev[:0], envelope...)
	}
	f.index, f.offset = h.index+1, int64(h.id.Offset())
	f.count++
}

// bytes returns the footer for its place in the segment. It is used once.
func (f *footer) bytes() []byte {
	binary.LittleEndian.PutUint32(f.buf[len(footerMagic):], f.count)
	return f.buf
}

// cut takes the next field off an encoded envelope; the last one is all that is
// left.
func cutField(b []byte, field int) (value, rest []byte, ok bool) {
	n := 0
	str := func() {
		size, k := binary.Uvarint(b[n:])
		if k <= 0 || size > uint64(len(b)-n-k) {
			ok = false
			return
		}
		n += k + int(size)
	}
	ok = true
	switch field {
	case 0: // origin
		n = 1
	case 2: // arguments
		count, k := binary.Uvarint(b)
		if k <= 0 || count > uint64(len(b)) {
			return nil, nil, false
		}
		n = k
		for ; count > 0 && ok; count-- {
			str()
		}
	case 4: // arrival
		n = 8
	case envelopeFields - 1:
		n = len(b)
	default:
		str()
	}
	if !ok || n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// envelopeDelta tells which fields are the same as in another envelope, as
// bits, and returns the others.
func envelopeDelta(prev, envelope []byte) (same uint16, rest []byte, ok bool) {
	rest = make([]byte, 0, 256)
	for field := range envelopeFields {
		var was, is []byte
		if is, envelope, ok = cutField(envelope, field); !ok {
			return 0, nil, false
		}
		if len(prev) > 0 {
			if was, prev, ok = cutField(prev, field); !ok {
				return 0, nil, false
			}
		}
		if len(is) > 0 && bytes.Equal(is, was) {
			same |= 1 << field
		} else {
			rest = append(rest, is...)
		}
	}
	return same, rest, true
}

// applyDelta undoes envelopeDelta; the envelope is appended to b.
func applyDelta(b, prev []byte, same uint16, rest []byte) (_ []byte, ok bool) {
	for field := range envelopeFields {
		var was, is []byte
		if len(prev) > 0 {
			if was, prev, ok = cutField(prev, field); !ok {
				return nil, false
			}
		}
		if same&(1<<field) != 0 {
			is = was
		} else if is, rest, ok = cutField(rest, field); !ok {
			return nil, false
		}
		b = append(b, is...)
	}
	return b, len(rest) == 0
}

// readFooter returns the footer of a sealed segment, checked as a whole. buf is
// used for it if it is big enough.
func readFooter(r io.ReaderAt, salt uint64, s seal, buf []byte) ([]byte, error) {
	const most = maxFooter + maxEntry + maxRecords*64
	if s.footer < s.end || s.size < uint32(len(footerMagic))+4 || s.size > most {
		return nil, fmt.Errorf("%w: footer", ErrDamaged)
	}
	if cap(buf) < int(s.size) {
		buf = make([]byte, s.size)
	}
	buf = buf[:s.size]
	if n, err := r.ReadAt(buf, s.footer); n < len(buf) {
		if err == io.EOF {
			err = fmt.Errorf("%w: footer cut short", ErrDamaged)
		}
		return nil, err
	}
	fr := readEntries(0, buf)
	var whole bool
	if salted(salt, s.footer, buf) == s.crc && string(buf[:4]) == footerMagic &&
		binary.LittleEndian.Uint32(buf[4:]) == s.count {
		var n uint32
		for whole = true; whole && len(fr.rest) > 0; n++ {
			_, whole = fr.next()
		}
		whole = whole && n == s.count && fr.offset < s.end && fr.index <= maxRecords
	}
	if !whole {
		return nil, fmt.Errorf("%w: footer", ErrDamaged)
	}
	return buf, nil
}

// footerReader walks a footer.
type footerReader struct {
	rest   []byte
	number uint32
	index  uint32
	offset int64
	prev   []byte
	spare  []byte
}

func readEntries(number uint32, b []byte) footerReader {
	return footerReader{rest: b[len(footerMagic)+4:], number: number, offset: recordsAt}
}

// next returns one record as a scan would, without checksums. Its envelope is
// valid up to the next call, and nil if it stands only in the record.
func (f *footerReader) next() (rec scanned, ok bool) {
	size, k := binary.Uvarint(f.rest)
	if k <= 0 || size > uint64(len(f.rest)-k) {
		return rec, false
	}
	e := f.rest[k : k+int(size)]
	f.rest = f.rest[k+int(size):]
	ok = true
	number := func() uint64 {
		v, k := binary.Uvarint(e)
		if k <= 0 {
			ok = false
			return 0
		}
		e = e[k:]
		return v
	}
	h := &rec.head
	index := uint64(f.index) + number()
	offset := uint64(f.offset) + number()*recordAlign
	h.flags, h.recipients = uint32(number()), uint32(number())
	h.content, h.header = int64(number()), int64(number())
	if !ok || len(e) < 2 || index >= maxRecords || offset >= maxOffset || h.content < 0 || h.header < 0 || h.header > h.content {
		return rec, false
	}
	h.index, h.id = uint32(index), MakeID(f.number, uint32(offset))
	f.index, f.offset = h.index+1, int64(offset)
	same := binary.LittleEndian.Uint16(e)
	if same == notRepeated {
		return rec, true
	}
	if f.spare, ok = applyDelta(f.spare[:0], f.prev, same, e[2:]); !ok {
		return rec, false
	}
	f.prev, f.spare = f.spare, f.prev
	rec.envelope = f.prev
	return rec, true
}
