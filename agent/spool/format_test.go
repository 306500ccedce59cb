package spool

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What follows reads a spool by the text of the package comment alone. It uses
// nothing of the package, so that the text stays true.

type docMessage struct {
	index, flags, recipients uint64
	content, header          uint64
	envelope                 []byte
	text                     []byte
	verdict                  byte
	sender, stream, queueID  string
	args                     []string
	addresses                []string
	arrived                  int64
	fromFooter               bool
}

type docState struct {
	due                  int64
	tries                uint16
	status, class, flags byte
	reply, from          string
}

var docTable = crc32.MakeTable(crc32.Castagnoli)

func docSalted(salt, offset uint64, parts ...[]byte) uint32 {
	b := binary.LittleEndian.AppendUint64(nil, salt)
	b = binary.LittleEndian.AppendUint64(b, offset)
	return crc32.Checksum(append(b, bytes.Join(parts, nil)...), docTable)
}

func u32(b []byte, at uint64) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func u64(b []byte, at uint64) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

func docVarint(b *[]byte) uint64 {
	v, n := binary.Uvarint(*b)
	*b = (*b)[n:]
	return v
}

func docString(b *[]byte) string {
	n := docVarint(b)
	s := string((*b)[:n])
	*b = (*b)[n:]
	return s
}

func docList(b *[]byte) (list []string) {
	for n := docVarint(b); n > 0; n-- {
		list = append(list, docString(b))
	}
	return list
}

func (m *docMessage) decode() {
	b := m.envelope[1:] // origin
	m.sender = docString(&b)
	m.args = docList(&b)
	m.stream = docString(&b)
	m.arrived = int64(u64(b, 0))
	b = b[8:]
	m.queueID = docString(&b)
	for range 7 {
		docString(&b)
	}
	for n := docVarint(&b); n > 0; n-- {
		m.addresses = append(m.addresses, docString(&b))
		docList(&b)
	}
}

// docField returns the octets of one field of an envelope.
func docField(b *[]byte, field int) []byte {
	before := *b
	switch field {
	case 0:
		*b = (*b)[1:]
	case 2:
		docList(b)
	case 4:
		*b = (*b)[8:]
	case 13:
		for n := docVarint(b); n > 0; n-- {
			docString(b)
			docList(b)
		}
	default:
		docString(b)
	}
	return before[:len(before)-len(*b)]
}

// docSegment reads a segment: by its footer, and by its records.
func docSegment(t *testing.T, dir string, b []byte, done func(segment uint32, offset uint64) (uint64, bool)) (byRecord, byFooter map[uint64]*docMessage) {
	t.Helper()
	if string(b[:8]) != "MRSEG\r\n\x1a" || u32(b, 8) != 1 || u32(b, 32) != docSalted(0, 0, b[:32]) || !bytes.Equal(b[:36], b[2048:2084]) {
		t.Fatal("segment header")
	}
	number, salt := u32(b, 12), u64(b, 16)
	if u32(b, 520) != docSalted(salt, 512, b[512:520]) {
		t.Fatal("watermark")
	}
	end := u64(b, 512)
	byRecord, byFooter = make(map[uint64]*docMessage), make(map[uint64]*docMessage)
	sealed := u32(b, 1024+32) == docSalted(salt, 1024, b[1024:1024+32])
	if sealed {
		end = u64(b, 1024)
	}
	for at := uint64(69632); at < end; {
		if to, is := done(number, at); is {
			at = to
			continue
		}
		h := b[at : at+64]
		if string(h[:4]) != "MRrc" || u32(h, 4) != number || u32(h, 8) != uint32(at) || u32(h, 60) != docSalted(salt, at, h[:60]) {
			t.Fatalf("record at %d", at)
		}
		m := &docMessage{
			index: uint64(u32(h, 12)), flags: uint64(u32(h, 16)), recipients: uint64(u32(h, 24)),
			content: u64(h, 28), header: u64(h, 36), envelope: b[at+64 : at+64+uint64(u32(h, 20))],
		}
		m.verdict = b[4096+m.index]
		next := at + 64 + uint64(len(m.envelope))
		if m.flags&1 == 0 {
			m.text = b[next : next+m.content]
			next += m.content
		} else {
			var err error
			if m.text, err = os.ReadFile(filepath.Join(dir, "blobs", fmt.Sprintf("%08X-%08X", number, at))); err != nil {
				t.Fatal(err)
			}
		}
		if crc32.Checksum(m.envelope, docTable) != u32(h, 44) || crc32.Checksum(m.text, docTable) != u32(h, 48) {
			t.Fatalf("checksums of the record at %d", at)
		}
		m.decode()
		byRecord[at] = m
		at = (next + 7) / 8 * 8
	}
	if !sealed || u64(b, 1024+12) == 0 {
		return byRecord, nil
	}
	at := u64(b, 1024+12)
	f := b[at : at+uint64(u32(b, 1024+20))]
	if string(f[:4]) != "MRft" || docSalted(salt, at, f) != u32(b, 1024+24) {
		t.Fatal("footer")
	}
	count, index, offset := u32(f, 4), uint64(0), uint64(69632)
	var prev []byte
	for f = f[8:]; len(f) > 0; count-- {
		n := docVarint(&f)
		e := f[:n]
		f = f[n:]
		m := &docMessage{fromFooter: true}
		m.index = index + docVarint(&e)
		index = m.index + 1
		offset += docVarint(&e) * 8
		m.flags, m.recipients = docVarint(&e), docVarint(&e)
		m.content, m.header = docVarint(&e), docVarint(&e)
		same := binary.LittleEndian.Uint16(e)
		e = e[2:]
		if same != 1<<15 {
			for field := range 14 {
				var is, was []byte
				if prev != nil {
					was = docField(&prev, field)
				}
				if is = was; same&(1<<field) == 0 {
					is = docField(&e, field)
				}
				m.envelope = append(m.envelope, is...)
			}
			prev = m.envelope
			m.decode()
		}
		byFooter[offset] = m
	}
	if count != 0 {
		t.Fatal("entries of the footer")
	}
	return byRecord, byFooter
}

// docFrames reads a journal or a checkpoint.
func docFrames(t *testing.T, b []byte, magic string, yield func(id uint64, recipient uint32, s docState)) {
	t.Helper()
	if string(b[:8]) != magic || u32(b, 8) != 1 || u32(b, 28) != docSalted(0, 0, b[:28]) {
		t.Fatal("header of a journal")
	}
	salt := u64(b, 16)
	for at := uint64(64); at+24 <= uint64(len(b)) && string(b[at:at+4]) == "MRfr"; {
		events := b[at+24 : at+24+uint64(u32(b, at+4))]
		if u32(b, at+16) != docSalted(salt, at, b[at:at+16], events) {
			return
		}
		at += (24 + uint64(len(events)) + 7) / 8 * 8
		for e := events; len(e) > 0; {
			n := binary.LittleEndian.Uint16(e[25:])
			st := docState{
				due: int64(u64(e, 12)), tries: binary.LittleEndian.Uint16(e[20:]), status: e[22], class: e[23], flags: e[24], reply: string(e[27 : 27+n]),
			}
			id, recipient := u64(e, 0), u32(e, 8)
			e = e[27+n:]
			if st.flags&16 != 0 {
				at := strings.LastIndexByte(st.reply, '\t')
				st.reply, st.from = st.reply[:at], st.reply[at+1:]
			}
			yield(id, recipient, st)
		}
	}
}

// TestFlagsOfAnEventAreAsDocumented reads each of them back, as the archives of
// the other tests are older than some.
func TestFlagsOfAnEventAreAsDocumented(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	r := post(t, w, 1, 4)
	release(t, r)
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	for i, st := range []State{{}, {Handback: true}, {Held: true, Reply: "450\tlater", From: "news 192.0.2.1"}, {Handback: true, Stuck: true, Held: true}} {
		if err := s.Record(Event{ID: r.ID(), Recipient: uint32(i), State: st}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(s.journal.name)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	docFrames(t, b, "MRJNL\r\n\x1a", func(_ uint64, n uint32, st docState) {
		got = append(got, st.flags)
		if want := map[uint32]string{2: "450\tlater|news 192.0.2.1"}[n]; st.reply+"|"+st.from != cmp.Or(want, "|") {
			t.Errorf("recipient %d: %+v", n, st)
		}
	})
	if !bytes.Equal(got, []byte{0, 1, 24, 13}) {
		t.Errorf("flags %v", got)
	}
}

// TestPackageCommentIsEnoughToReadASpool compares what that reader finds in
// real spools with what the package says.
func TestPackageCommentIsEnoughToReadASpool(t *testing.T) {
	t.Parallel()
	for _, archive := range []string{"testdata/format1-plain.tar.gz", "testdata/format1.tar.gz"} {
		dir := unpack(t, archive)
		file := func(name ...string) []byte {
			b, err := os.ReadFile(filepath.Join(append([]string{dir}, name...)...))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if f := string(file("format")); f != "millrace spool 1\n" {
			t.Errorf("format %q", f)
		}
		if b := file("agent.lock"); u64(b, 8) != 17 || u32(b, 16) != docSalted(0, 0, b[:16]) {
			t.Error("agent.lock")
		}
		next := file("next")
		if u32(next, 0) != 2 || u32(next, 4) != docSalted(0, 0, next[:4]) || u32(next, 512) != 1 || u32(next, 516) != docSalted(0, 1, next[512:516]) {
			t.Error("next")
		}
		type recipient struct {
			id     uint64
			number uint32
		}
		states := make(map[recipient]docState)
		var ends []struct{ from, to uint64 } // with the segment above
		note := func(id uint64, n uint32, s docState) {
			if s.flags&2 != 0 {
				ends = append(ends, struct{ from, to uint64 }{id, id>>32<<32 | uint64(n)})
				return
			}
			states[recipient{id, n}] = s
		}
		docFrames(t, file("journal", "00000002.checkpoint"), "MRCKP\r\n\x1a", note)
		docFrames(t, file("journal", "00000002.journal"), "MRJNL\r\n\x1a", note)
		done := func(segment uint32, offset uint64) (uint64, bool) {
			for _, e := range ends {
				if id := uint64(segment)<<32 | offset; e.from <= id && id < e.to {
					return e.to & (1<<32 - 1), true
				}
			}
			return 0, false
		}
		r, err := OpenReader(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		messages, footers := 0, 0
		for n := uint32(1); n <= 2; n++ {
			records, table := docSegment(t, dir, file("segments", fmt.Sprintf("%08X", n)), done)
			if table != nil {
				footers++
			}
			for offset, m := range records {
				messages++
				have, err := r.Message(MakeID(n, uint32(offset)))
				if err != nil {
					t.Fatal(err)
				}
				e := have.Envelope
				var addresses []string
				for _, rcpt := range e.Recipients {
					addresses = append(addresses, rcpt.Address)
				}
				if m.sender != e.Sender || m.stream != e.Stream || m.queueID != e.QueueID || !slices.Equal(m.args, e.Args) ||
					!slices.Equal(m.addresses, addresses) || !time.Unix(0, m.arrived).Equal(e.Arrived) ||
					m.content != uint64(e.Size) || m.header != uint64(e.HeaderSize) || (m.flags&2 != 0) != e.EightBit ||
					m.recipients != uint64(len(addresses)) || (m.flags&1 != 0) != have.Blob || !strings.HasPrefix(string(m.text), "Subject: ") {
					t.Errorf("%s: %+v, the package says %+v", have.ID, m, e)
				}
				if want := map[byte]Verdict{0x55: Released, 0xaa: Voided, 0x3c: Orphaned, 0: Pending}[m.verdict]; have.Verdict != want {
					t.Errorf("%s: verdict %s, the package says %s", have.ID, want, have.Verdict)
				}
				for i, st := range have.States {
					s, known := states[recipient{uint64(have.ID), uint32(i)}]
					if !known {
						s = docState{due: -1 << 63}
					}
					due := time.Unix(0, s.due)
					if s.due == -1<<63 {
						due = time.Time{}
					}
					if want := (State{Status(s.status), s.flags&1 != 0, s.flags&4 != 0, s.flags&8 != 0, s.tries, s.class, due, s.reply, s.from}); st != want {
						t.Errorf("%s/%d: %+v, the package says %+v", have.ID, i, want, st)
					}
				}
				if f := table[offset]; table != nil && (f == nil || f.index != m.index || f.flags != m.flags || f.recipients != m.recipients ||
					f.content != m.content || f.header != m.header || !bytes.Equal(f.envelope, m.envelope)) {
					t.Errorf("%s: the footer says %+v, the record %+v", have.ID, f, m)
				}
			}
		}
		if messages < 20 || (footers > 0) == strings.Contains(archive, "plain") || (len(ends) > 0) == strings.Contains(archive, "plain") {
			t.Errorf("%s: %d messages, %d footers, %d spans", archive, messages, footers, len(ends))
		}
	}
}
