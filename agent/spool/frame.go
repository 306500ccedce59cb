package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// The places in a journal file or a checkpoint.
const (
	journalMagic    = "MRJNL\r\n\x1a"
	checkpointMagic = "MRCKP\r\n\x1a"
	logHeaderSize   = 32
	framesAt        = 64

	frameMagic      = "MRfr"
	frameHeaderSize = 24
	maxPayload      = 4 << 20

	eventSize = 27 // without the reply, and where the mail leaves from
	maxReply  = 512
	maxFrom   = 255
	// besideReply stands between a reply and where the mail leaves from, which has none. An
	// agent that does not know of that takes both for the reply.
	besideReply  = "\t"
	flagHandback = 1 << 0
	flagSpan     = 1 << 1
	flagStuck    = 1 << 2
	flagHeld     = 1 << 3
	flagFrom     = 1 << 4
)

// logHeader starts a journal file or a checkpoint.
type logHeader struct {
	magic  string
	number uint32 // of the journal; of the first journal that follows the checkpoint
	salt   uint64
}

func (h logHeader) encode() []byte {
	b := append(make([]byte, 0, framesAt), h.magic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, h.number)
	b = binary.LittleEndian.AppendUint64(b, h.salt)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, salted(0, 0, b))
	return append(b, make([]byte, framesAt-logHeaderSize)...)
}

func readLogHeader(r io.ReaderAt, magic string) (logHeader, error) {
	var b [logHeaderSize]byte
	if _, err := r.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return logHeader{}, err
	}
	le := binary.LittleEndian
	if string(b[:8]) != magic || le.Uint32(b[28:]) != salted(0, 0, b[:28]) {
		return logHeader{}, fmt.Errorf("%w: header", ErrDamaged)
	}
	if v := le.Uint32(b[8:]); v > formatVersion {
		return logHeader{}, fmt.Errorf("%w: version %d", ErrNewer, v)
	}
	return logHeader{magic: magic, number: le.Uint32(b[12:]), salt: le.Uint64(b[16:])}, nil
}

// startFrame makes room for the header of a frame at the end of b.
func startFrame(b []byte) []byte { return append(b, make([]byte, frameHeaderSize)...) }

// endFrame completes the frame that fills b from start and will stand at off in
// its file. synced is the offset below which that file was synced by now: it
// tells, after a crash, a tail that was never synced from one that got lost.
func endFrame(b []byte, start int, salt uint64, off, synced int64) []byte {
	f := b[start:]
	n := len(f) - frameHeaderSize
	copy(f, frameMagic)
	binary.LittleEndian.PutUint32(f[4:], uint32(n))
	binary.LittleEndian.PutUint64(f[8:], uint64(synced))
	binary.LittleEndian.PutUint32(f[16:], salted(salt, off, f[:16], f[frameHeaderSize:]))
	return append(b, make([]byte, align(int64(n), recordAlign)-int64(n))...)
}

// appendEvent encodes the state of one recipient.
func appendEvent(b []byte, id ID, recipient uint32, s *state) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(id))
	b = le.AppendUint32(b, recipient)
	b = le.AppendUint64(b, uint64(s.due))
	b = le.AppendUint16(b, s.tries)
	flags := byte(0)
	if s.handback {
		flags |= flagHandback
	}
	if s.held {
		flags |= flagHeld
	}
	if s.stuck {
		flags |= flagStuck
	}
	if s.from != "" {
		flags |= flagFrom
	}
	b = append(b, byte(s.status), s.class, flags)
	if s.from == "" {
		b = le.AppendUint16(b, uint16(len(s.reply)))
		return append(b, s.reply...)
	}
	b = le.AppendUint16(b, uint16(len(s.reply)+len(besideReply)+len(s.from)))
	b = append(append(b, s.reply...), besideReply...)
	return append(b, s.from...)
}

// appendSpan encodes that all records which start in a span are done.
func appendSpan(b []byte, segment uint32, n span) []byte {
	b = appendEvent(b, MakeID(segment, n.from), n.to, &state{})
	b[len(b)-3] = flagSpan
	return b
}

// decodeEvents calls yield for each event of a payload. One of a span has the
// end of the span in place of the recipient.
func decodeEvents(p []byte, yield func(id ID, recipient uint32, s state)) error {
	le := binary.LittleEndian
	for len(p) > 0 {
		if len(p) < eventSize {
			return fmt.Errorf("%w: event cut short", ErrDamaged)
		}
		n := eventSize + int(le.Uint16(p[25:]))
		if n > len(p) {
			return fmt.Errorf("%w: event cut short", ErrDamaged)
		}
		reply, from := string(p[eventSize:n]), ""
		if p[24]&flagFrom != 0 {
			at := strings.LastIndex(reply, besideReply)
			if at < 0 {
				return fmt.Errorf("%w: event without where the mail leaves from", ErrDamaged)
			}
			reply, from = reply[:at], reply[at+len(besideReply):]
		}
		yield(ID(le.Uint64(p)), le.Uint32(p[8:]), state{
			due: int64(le.Uint64(p[12:])), tries: le.Uint16(p[20:]), status: Status(p[22]),
			class: p[23], handback: p[24]&flagHandback != 0, stuck: p[24]&flagStuck != 0, held: p[24]&flagHeld != 0,
			span:  p[24]&flagSpan != 0,
			reply: reply, from: from,
		})
		p = p[n:]
	}
	return nil
}

// frameReader walks the frames of one file, held in memory in pieces.
type frameReader struct {
	r    io.ReaderAt
	salt uint64
	pos  int64
	size int64
	buf  []byte
	at   int64
}

// read returns up to n octets at off; fewer only at the end of the file.
func (r *frameReader) read(off int64, n int) ([]byte, error) {
	if off < r.at || off+int64(n) > r.at+int64(len(r.buf)) {
		want := min(int64(max(n, 1<<20)), r.size-off)
		if want <= 0 {
			return nil, nil
		}
		if int64(cap(r.buf)) < want {
			r.buf = make([]byte, want)
		}
		got, err := r.r.ReadAt(r.buf[:want], off)
		if err != nil && err != io.EOF {
			return nil, err
		}
		r.buf, r.at = r.buf[:got], off
	}
	b := r.buf[off-r.at:]
	return b[:min(n, len(b))], nil
}

// frame reads the frame at off; ok is false if there is no intact one.
func (r *frameReader) frame(off int64) (payload []byte, synced, next int64, ok bool, err error) {
	h, err := r.read(off, frameHeaderSize)
	if err != nil || len(h) < frameHeaderSize || string(h[:4]) != frameMagic {
		return nil, 0, 0, false, err
	}
	n := binary.LittleEndian.Uint32(h[4:])
	if n > maxPayload {
		return nil, 0, 0, false, nil
	}
	b, err := r.read(off, frameHeaderSize+int(n))
	if err != nil || len(b) < frameHeaderSize+int(n) {
		return nil, 0, 0, false, err
	}
	payload = b[frameHeaderSize:]
	if binary.LittleEndian.Uint32(b[16:]) != salted(r.salt, off, b[:16], payload) {
		return nil, 0, 0, false, nil
	}
	return payload, int64(binary.LittleEndian.Uint64(b[8:])), align(off+int64(len(b)), recordAlign), true, nil
}

// next returns the payload of the frame at pos, or io.EOF where the frames end.
func (r *frameReader) next() ([]byte, error) {
	payload, _, next, ok, err := r.frame(r.pos)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, io.EOF
	}
	r.pos = next
	return payload, nil
}

// checkTail looks behind the end of the frames. What was written in the last
// moment before a crash may be torn, or there in part only; that is no error.
// But a frame further on that says it was written after the octets at pos were
// synced proves that something durable was lost.
func (r *frameReader) checkTail() error {
	for off := r.pos; off < r.size; {
		b, err := r.read(off, 64<<10)
		if err != nil {
			return err
		}
		if len(b) < frameHeaderSize {
			return nil
		}
		i := bytes.Index(b, []byte(frameMagic))
		if i < 0 {
			off += int64(len(b) - len(frameMagic) + 1)
			continue
		}
		off += int64(i)
		if off%recordAlign == 0 {
			_, synced, _, ok, err := r.frame(off)
			if err != nil {
				return err
			}
			if ok && synced > r.pos {
				return fmt.Errorf("%w: no frame at %d, though it was synced", ErrDamaged, r.pos)
			}
		}
		off++
	}
	return nil
}
