package ledger

import (
	"bytes"
	"crypto/sha256"
	"hash"
)

// IDHeader is the header an injector writes as the first one of a message; its
// value is the message's id.
const IDHeader = "X-Lab-ID"

// maxHeader is how much of a header is searched for an id, in octets.
const maxHeader = 256 << 10

// Digest finds the id of a message and hashes what its client sent. Content is
// written to it in pieces of any size, with CRLF line ends and dots unstuffed;
// after the last piece [Digest.Sum] gives the result and [Digest.Reset] makes
// it ready for the next message. The zero value is ready.
//
// With an [IDHeader] in the header, the hash covers everything from that line
// on, and what is above it is only counted: an MTA adds its trace there.
// Without one, the id is the Message-ID, brackets and all, and the hash leaves
// out the Received lines on top.
type Digest struct {
	hash    hash.Hash
	head    []byte // the header so far, until the start of the hash is known
	scanned int    // octets of head that are whole lines already looked at
	inBody  bool   // the hash has begun
	top     int    // octets of head that are Received fields on top
	topDone bool
	labbed  bool
	id      []byte
	above   int64
	size    int64
	sum     [sha256.Size]byte
}

// Reset forgets the message.
func (d *Digest) Reset() {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	d.hash.Reset()
	d.head, d.id = d.head[:0], d.id[:0]
	d.scanned, d.top, d.above, d.size = 0, 0, 0, 0
	d.inBody, d.topDone, d.labbed = false, false, false
}

// Write takes a piece of content. It never fails.
func (d *Digest) Write(p []byte) (int, error) {
	if d.hash == nil {
		d.Reset()
	}
	d.size += int64(len(p))
	if d.inBody {
		d.hash.Write(p)
		return len(p), nil
	}
	d.head = append(d.head, p...)
	d.scan()
	return len(p), nil
}

// scan looks at the whole lines of the header that came since the last call.
func (d *Digest) scan() {
	for {
		i := bytes.IndexByte(d.head[d.scanned:], '\n')
		if i < 0 {
			if len(d.head) > maxHeader {
				d.begin(d.top)
			}
			return
		}
		line := d.head[d.scanned : d.scanned+i+1]
		folded := line[0] == ' ' || line[0] == '\t'
		switch {
		case isField(line, IDHeader):
			d.id = append(d.id[:0], fieldValue(line)...)
			d.labbed = true
			d.begin(d.scanned)
			return
		case line[0] == '\n' || line[0] == '\r':
			d.topDone = true
			d.begin(d.top)
			return
		case !d.topDone && !isField(line, "Received") && !(folded && d.scanned > 0):
			d.topDone = true
		}
		if isField(line, "Message-ID") && len(d.id) == 0 {
			d.id = append(d.id, fieldValue(line)...)
		}
		d.scanned += i + 1
		if !d.topDone {
			d.top = d.scanned
		}
	}
}

// begin starts the hash at an offset of the header.
func (d *Digest) begin(offset int) {
	d.inBody = true
	d.above = int64(offset)
	d.hash.Write(d.head[offset:])
}

// Sum gives the id, valid until Reset, and the hash.
func (d *Digest) Sum() (id []byte, h Hash) {
	if d.hash == nil {
		d.Reset()
	}
	if !d.inBody { // a message of header lines only
		d.begin(d.top)
	}
	copy(h[:], d.hash.Sum(d.sum[:0]))
	return d.id, h
}

// Size is the number of octets written.
func (d *Digest) Size() int64 { return d.size }

// Above is the number of octets above what was hashed.
func (d *Digest) Above() int64 { return d.above }

// Labelled says whether the message has an [IDHeader].
func (d *Digest) Labelled() bool { return d.labbed }

func isField(line []byte, name string) bool {
	return len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name))
}

func fieldValue(line []byte) []byte {
	_, v, _ := bytes.Cut(line, []byte(":"))
	return bytes.TrimSpace(v)
}
