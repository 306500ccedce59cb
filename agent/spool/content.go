package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
)

// entry is a message on its way into a segment.
type entry struct {
	head recordHeader // complete but for id and index
	buf  []byte       // room for the header, envelope, content if not in blob
	blob *blob
	free func() // gives buf back

	done    chan error  // capacity 1; the one answer
	claimed atomic.Bool // by the syncer to answer, or by Append to give up
	receipt *receipt    // set before the answer nil
}

// give sends the answer. It is false if nobody waits for it any more.
func (en *entry) give(err error) bool {
	if !en.claimed.CompareAndSwap(false, true) {
		return false
	}
	en.done <- err
	return true
}

// drop frees what the entry holds, also on disk.
func (en *entry) drop() {
	en.free()
	if en.blob != nil {
		en.blob.remove()
	}
}

// blob is the file of one large message: content and nothing else.
type blob struct {
	fs   FS
	file File // locked, so that the agent does not take it for garbage
	name string
}

func (b *blob) remove() {
	b.fs.Remove(b.name)
	b.file.Close()
}

// read takes in a whole message: small content into memory, large content into
// a file that is synced when read returns.
func (w *Writer) read(ctx context.Context, e *Envelope, content io.Reader) (_ *entry, err error) {
	if len(e.Recipients) == 0 {
		return nil, errors.New("no recipients")
	}
	buf := w.buffer()
	en := &entry{done: make(chan error, 1)}
	en.free = func() { w.recycle(buf) }
	defer func() {
		if err != nil {
			en.drop()
		}
	}()
	buf = appendEnvelope(append(buf, make([]byte, recordHeaderSize)...), e)
	start := len(buf)
	if start-recordHeaderSize > maxEnvelope {
		return nil, fmt.Errorf("envelope of %d octets is too big", start-recordHeaderSize)
	}
	en.head = recordHeader{
		envelope: uint32(start - recordHeaderSize), recipients: uint32(len(e.Recipients)),
		envelopeCRC: crc32.Checksum(buf[recordHeaderSize:], castagnoli()),
	}

	m := meter{tail: []byte("\r\n")}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		room := buf[len(buf):min(cap(buf), start+blobSize)]
		n, rerr := content.Read(room)
		m.add(room[:n])
		buf = buf[:len(buf)+n]
		if len(buf) == start+blobSize {
			if en.blob == nil {
				if en.blob, err = w.newBlob(); err != nil {
					return nil, err
				}
			}
			if _, err = en.blob.file.WriteAt(buf[start:], m.size-blobSize); err != nil {
				return nil, err
			}
			buf = buf[:start]
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return nil, rerr
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if en.blob != nil {
		if rest := buf[start:]; len(rest) > 0 {
			if _, err = en.blob.file.WriteAt(rest, m.size-int64(len(rest))); err != nil {
				return nil, err
			}
		}
		// Synced before the record that names it is even written.
		if err = en.blob.file.Sync(); err != nil {
			return nil, err
		}
		buf = buf[:start]
		en.head.flags |= flagBlob
	}
	// Padded to where the next record starts.
	buf = append(buf, make([]byte, align(int64(len(buf)), recordAlign)-int64(len(buf)))...)
	en.buf = buf
	en.head.content, en.head.header, en.head.contentCRC = m.size, m.headerSize(), m.crc
	if m.eightBit {
		en.head.flags |= flagEightBit
	}
	return en, nil
}

// newBlob makes a file for content under a name of the moment; it gets the id
// of its message when that is known. The agent removes unlocked files of this
// kind, but not while it cannot have the directory's lock.
func (w *Writer) newBlob() (*blob, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	b := &blob{fs: w.fs, name: w.path(blobsDir, fmt.Sprintf("%016x%s", rand.Uint64(), tmpSuffix))}
	if b.file, err = w.fs.Open(b.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	if err := b.file.Lock(); err != nil {
		b.remove()
		return nil, err
	}
	return b, nil
}

// buffer returns an empty buffer that fits most messages.
func (w *Writer) buffer() []byte {
	if b, ok := w.pool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 16<<10)
}

// recycle keeps a buffer for the next message, unless a big one blew it up.
func (w *Writer) recycle(b []byte) {
	if cap(b) <= 256<<10 {
		w.pool.Put(&b)
	}
}

// meter measures content that passes in pieces.
type meter struct {
	size     int64
	header   int64 // octets up to and with the empty line, once seen
	crc      uint32
	eightBit bool
	tail     []byte // the last three octets, for an empty line between two pieces
}

func (m *meter) add(p []byte) {
	if len(p) == 0 {
		return
	}
	m.crc = crc32.Update(m.crc, castagnoli(), p)
	m.eightBit = m.eightBit || hasEightBit(p)
	if m.header == 0 {
		m.seek(p)
	}
	m.size += int64(len(p))
}

// seek looks for the empty line that ends the header (RFC 5322, 2.1). At the
// start tail is a line end that is not there, so that content may begin with
// the empty line.
func (m *meter) seek(p []byte) {
	const empty = "\r\n\r\n"
	edge := append(m.tail, p[:min(3, len(p))]...)
	if i := bytes.Index(edge, []byte(empty)); i >= 0 {
		m.header = m.size - int64(len(m.tail)) + int64(i) + 4
	} else if i := bytes.Index(p, []byte(empty)); i >= 0 {
		m.header = m.size + int64(i) + 4
	}
	if len(p) < 3 {
		p = edge
	}
	m.tail = append([]byte(nil), p[max(0, len(p)-3):]...)
}

// headerSize is the whole size for content without an empty line.
func (m *meter) headerSize() int64 {
	if m.header == 0 {
		return m.size
	}
	return m.header
}

func hasEightBit(p []byte) bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p)&0x8080808080808080 != 0 {
			return true
		}
		p = p[8:]
	}
	for _, c := range p {
		if c >= 0x80 {
			return true
		}
	}
	return false
}
