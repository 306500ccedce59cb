package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
)

// formatVersion is the version of everything in the directory. A program reads
// its own version and older ones.
const formatVersion = 1

// The places in a segment; see the package comment.
const (
	headerCopyAt = 2048
	watermarkAt  = 512
	sealAt       = 1024
	verdictsAt   = 4096
	maxRecords   = 64 << 10 // one verdict octet each
	recordsAt    = verdictsAt + maxRecords

	segmentHeaderSize = 36
	watermarkSize     = 12
	sealSize          = 36
	recordHeaderSize  = 64
	recordAlign       = 8
)

const (
	segmentMagic = "MRSEG\r\n\x1a"
	recordMagic  = "MRrc"
)

// The verdict octets. They differ from each other and from pending in at least
// four bits, so that one flipped bit never makes mail void; every other value
// reads as pending, which leads to delivery.
const (
	pending  byte = 0x00
	released byte = 0x55 // the verdict reached the host MTA
	orphaned byte = 0x3c // the writer died before it said; the agent sends it
	void     byte = 0xaa // the host MTA kept the message
)

// recordFlags of a record header.
const (
	flagBlob     = 1 << 0 // content is in a file of its own
	flagEightBit = 1 << 1
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// salted is the checksum of everything that is not mail: CRC32C, started with
// the random salt of the file and the place of the data in it. Content can
// therefore never pass for a header or a frame, nor can what an earlier file
// left in the same blocks.
func salted(salt uint64, off int64, parts ...[]byte) uint32 {
	var seed [16]byte
	binary.LittleEndian.PutUint64(seed[:], salt)
	binary.LittleEndian.PutUint64(seed[8:], uint64(off))
	t := castagnoli()
	sum := crc32.Update(0, t, seed[:])
	for _, p := range parts {
		sum = crc32.Update(sum, t, p)
	}
	return sum
}

func align(n int64, to int64) int64 { return (n + to - 1) &^ (to - 1) }

func segmentName(n uint32) string { return fmt.Sprintf("%08X", n) }

func parseSegmentName(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 16, 32)
	return uint32(n), err == nil && n != 0 && s == segmentName(uint32(n))
}

func blobName(id ID) string { return fmt.Sprintf("%08X-%08X", id.Segment(), id.Offset()) }

func parseBlobName(s string) (ID, bool) {
	id, err := ParseID(s)
	return id, err == nil && s == blobName(id)
}

// segmentHeader is the start of a segment.
type segmentHeader struct {
	number uint32
	salt   uint64
	born   int64
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, 0, segmentHeaderSize)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, h.number)
	b = binary.LittleEndian.AppendUint64(b, h.salt)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.born))
	return binary.LittleEndian.AppendUint32(b, salted(0, 0, b))
}

// readSegmentHeader reads the header or, if that is damaged, its copy.
func readSegmentHeader(r io.ReaderAt) (h segmentHeader, err error) {
	for _, off := range []int64{0, headerCopyAt} {
		if h, err = segmentHeaderAt(r, off); err == nil || !errors.Is(err, ErrDamaged) {
			break
		}
	}
	return h, err
}

func segmentHeaderAt(r io.ReaderAt, off int64) (segmentHeader, error) {
	var b [segmentHeaderSize]byte
	if _, err := r.ReadAt(b[:], off); err != nil && err != io.EOF {
		return segmentHeader{}, err
	}
	le := binary.LittleEndian
	if string(b[:8]) != segmentMagic || le.Uint32(b[32:]) != salted(0, 0, b[:32]) {
		return segmentHeader{}, fmt.Errorf("%w: segment header", ErrDamaged)
	}
	if v := le.Uint32(b[8:]); v > formatVersion {
		return segmentHeader{}, fmt.Errorf("%w: segment version %d", ErrNewer, v)
	}
	return segmentHeader{number: le.Uint32(b[12:]), salt: le.Uint64(b[16:]), born: int64(le.Uint64(b[24:]))}, nil
}

func encodeWatermark(salt uint64, end int64) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, watermarkSize), uint64(end))
	return binary.LittleEndian.AppendUint32(b, salted(salt, watermarkAt, b))
}

// readWatermark returns the end of what is known to be synced. The checksum
// guards against a read in the middle of a write.
func readWatermark(r io.ReaderAt, salt uint64) (int64, error) {
	var b [watermarkSize]byte
	for range 3 {
		if _, err := r.ReadAt(b[:], watermarkAt); err == io.EOF {
			break
		} else if err != nil {
			return 0, err
		}
		if binary.LittleEndian.Uint32(b[8:]) == salted(salt, watermarkAt, b[:8]) {
			return int64(binary.LittleEndian.Uint64(b[:])), nil
		}
	}
	return 0, fmt.Errorf("%w: watermark", ErrDamaged)
}

// seal is written when a segment gets no more records.
type seal struct {
	end    int64  // of the last record
	count  uint32 // of records
	footer int64  // offset of the footer; 0: none
	size   uint32 // octets of the footer
	crc    uint32 // of the footer
}

func (s seal) encode(salt uint64) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(make([]byte, 0, sealSize), uint64(s.end))
	b = le.AppendUint32(b, s.count)
	b = le.AppendUint64(b, uint64(s.footer))
	b = le.AppendUint32(b, s.size)
	b = le.AppendUint32(b, s.crc)
	b = append(b, 0, 0, 0, 0)
	return le.AppendUint32(b, salted(salt, sealAt, b))
}

func readSeal(r io.ReaderAt, salt uint64) (s seal, ok bool) {
	var b [sealSize]byte
	if _, err := r.ReadAt(b[:], sealAt); err != nil {
		return s, false
	}
	le := binary.LittleEndian
	s = seal{
		end: int64(le.Uint64(b[:])), count: le.Uint32(b[8:]),
		footer: int64(le.Uint64(b[12:])), size: le.Uint32(b[20:]), crc: le.Uint32(b[24:]),
	}
	return s, le.Uint32(b[32:]) == salted(salt, sealAt, b[:32]) && s.end >= recordsAt
}

// recordHeader stands before the envelope of a record.
type recordHeader struct {
	id          ID
	index       uint32 // among the records of the segment; place of the verdict
	flags       uint32
	envelope    uint32 // octets
	recipients  uint32
	content     int64 // octets, here or in the blob
	header      int64 // octets of content up to and with the empty line
	envelopeCRC uint32
	contentCRC  uint32
}

func (h *recordHeader) put(b []byte, salt uint64) {
	le := binary.LittleEndian
	copy(b, recordMagic)
	le.PutUint32(b[4:], h.id.Segment())
	le.PutUint32(b[8:], h.id.Offset())
	le.PutUint32(b[12:], h.index)
	le.PutUint32(b[16:], h.flags)
	le.PutUint32(b[20:], h.envelope)
	le.PutUint32(b[24:], h.recipients)
	le.PutUint64(b[28:], uint64(h.content))
	le.PutUint64(b[36:], uint64(h.header))
	le.PutUint32(b[44:], h.envelopeCRC)
	le.PutUint32(b[48:], h.contentCRC)
	clear(b[52:60])
	le.PutUint32(b[60:], salted(salt, int64(h.id.Offset()), b[:60]))
}

// parseRecordHeader reads the header of the record with this id; ok is false if
// there is none.
func parseRecordHeader(b []byte, salt uint64, id ID) (h recordHeader, ok bool) {
	le := binary.LittleEndian
	if len(b) < recordHeaderSize || string(b[:4]) != recordMagic ||
		MakeID(le.Uint32(b[4:]), le.Uint32(b[8:])) != id ||
		le.Uint32(b[60:]) != salted(salt, int64(id.Offset()), b[:60]) {
		return h, false
	}
	h = recordHeader{
		id: id, index: le.Uint32(b[12:]), flags: le.Uint32(b[16:]),
		envelope: le.Uint32(b[20:]), recipients: le.Uint32(b[24:]),
		content: int64(le.Uint64(b[28:])), header: int64(le.Uint64(b[36:])),
		envelopeCRC: le.Uint32(b[44:]), contentCRC: le.Uint32(b[48:]),
	}
	ok = h.index < maxRecords && h.envelope <= maxEnvelope && h.content >= 0 &&
		h.header >= 0 && h.header <= h.content && (h.blob() || h.content < blobSize)
	return h, ok
}

func (h *recordHeader) blob() bool { return h.flags&flagBlob != 0 }

// contentAt returns the offset of the content in the segment.
func (h *recordHeader) contentAt() int64 {
	return int64(h.id.Offset()) + recordHeaderSize + int64(h.envelope)
}

// end returns the offset of the next record.
func (h *recordHeader) end() int64 {
	if h.blob() {
		return align(h.contentAt(), recordAlign)
	}
	return align(h.contentAt()+h.content, recordAlign)
}

// fill puts what Append found out into the envelope.
func (h *recordHeader) fill(e *Envelope) {
	e.Size, e.HeaderSize, e.EightBit = h.content, h.header, h.flags&flagEightBit != 0
}
