package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"testing"
)

// FuzzSegment reads records from hostile octets: whatever comes out has right
// checksums and lies inside, and reading ends.
func FuzzSegment(f *testing.F) {
	const salt = 7
	build := func(n int) []byte {
		b := make([]byte, recordsAt)
		for i := range n {
			e, text := letter(i, i)
			env := appendEnvelope(nil, e)
			h := recordHeader{
				id: MakeID(1, uint32(len(b))), index: uint32(i), envelope: uint32(len(env)), recipients: uint32(i),
				content: int64(len(text)), header: 3, envelopeCRC: crc32.Checksum(env, castagnoli()),
				contentCRC: crc32.Checksum([]byte(text), castagnoli()),
			}
			head := make([]byte, recordHeaderSize)
			h.put(head, salt)
			b = append(append(append(b, head...), env...), text...)
			b = append(b, make([]byte, h.end()-int64(len(b)))...)
		}
		return b[recordsAt:]
	}
	f.Add(build(3), false)
	f.Add(build(1), true)
	f.Add([]byte(recordMagic+recordMagic), false)
	f.Fuzz(func(t *testing.T, records []byte, verify bool) {
		b := append(make([]byte, recordsAt), records...)
		// Right checksums over whatever stands there, or few would get further.
		for at := recordsAt; at+recordHeaderSize <= len(b); at += recordAlign {
			if string(b[at:at+4]) == recordMagic {
				binary.LittleEndian.PutUint32(b[at+4:], 1)
				binary.LittleEndian.PutUint32(b[at+8:], uint32(at))
				binary.LittleEndian.PutUint32(b[at+60:], salted(salt, int64(at), b[at:at+60]))
			}
		}
		sc := &scanner{r: bytes.NewReader(b), number: 1, salt: salt, pos: recordsAt, end: int64(len(b)), verify: verify}
		var octets int64
		for {
			rec, err := sc.next()
			octets += rec.skipped
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			octets += rec.head.end() - int64(rec.head.id.Offset())
			if rec.head.end() > int64(len(b))+recordAlign || rec.head.id.Segment() != 1 {
				t.Fatalf("record outside: %+v", rec.head)
			}
			if rec.envelope != nil {
				decodeEnvelope(rec.envelope)
			}
		}
		if want := int64(len(records)); !verify && (octets < want || octets > want+recordAlign) {
			t.Errorf("accounted for %d octets of %d", octets, want)
		}
	})
}

// FuzzEnvelope decodes hostile octets; what decodes encodes back the same.
func FuzzEnvelope(f *testing.F) {
	for i := range 3 {
		e, _ := letter(i, i)
		f.Add(appendEnvelope(nil, e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEnvelope(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeEnvelope(appendEnvelope(nil, e))
		if err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", e) {
			t.Errorf("%+v, %v; was %+v", again, err, e)
		}
	})
}

// FuzzJournal reads hostile frames: reading ends, and only whole events come.
func FuzzJournal(f *testing.F) {
	const salt = 7
	frames := func(n int) []byte {
		b := make([]byte, framesAt)
		for i := range n {
			start := len(b)
			b = startFrame(b)
			for r := range i {
				b = appendEvent(b, MakeID(1, 2), uint32(r), &state{due: 3, tries: 4, reply: "421 later", handback: true, held: true})
			}
			b = endFrame(b, start, salt, int64(start), int64(start))
		}
		return b[framesAt:]
	}
	f.Add(frames(1))
	f.Add(frames(4))
	f.Add(append(frames(2), frames(2)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(make([]byte, framesAt), b...)
		for at := framesAt; at+frameHeaderSize <= len(b); at += recordAlign {
			n := int64(binary.LittleEndian.Uint32(b[at+4:]))
			if end := int64(at) + frameHeaderSize + n; string(b[at:at+4]) == frameMagic && end <= int64(len(b)) {
				sum := salted(salt, int64(at), b[at:at+16], b[at+frameHeaderSize:end])
				binary.LittleEndian.PutUint32(b[at+16:], sum)
			}
		}
		r := &frameReader{r: bytes.NewReader(b), salt: salt, pos: framesAt, size: int64(len(b))}
		for {
			payload, err := r.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			decodeEvents(payload, func(id ID, recipient uint32, s state) {
				again := appendEvent(nil, id, recipient, &s)
				if !bytes.Contains(payload, again[:20]) {
					t.Errorf("event %v/%d is not in its frame", id, recipient)
				}
			})
		}
		if r.pos > int64(len(b))+recordAlign {
			t.Errorf("read up to %d of %d", r.pos, len(b))
		}
		if err := r.checkTail(); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}
