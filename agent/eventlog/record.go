package eventlog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// Gap is the Event of a record that stands where events were lost: Lost of them,
// from Time to Due.
const Gap = "gap"

// erased is the Event of a record whose content was erased.
const erased = ""

// Record is one event. Package event describes the fields and the values of Event, in the
// text about the event file; readers take any value.
type Record struct {
	Time      time.Time // to the microsecond
	Event     string    // "sent", "deferred", ...
	ID        spool.ID
	Ordinal   uint32
	QueueID   string // of the host MTA
	Report    bool   // the message is a report of our own
	Stream    string
	Recipient string // "" if Hash stands for it, or nothing does
	Hash      int64  // keyed, of the address
	Domain    string
	Queue     string
	Site      string
	Relay     string // "" if no server was reached
	Source    string // address that the connection came from; "": there was none, or it is not known
	Tries     int
	Class     string
	Hard      bool
	Rule      string
	Code      int
	Enhanced  string
	Reply     string
	Due       time.Time // zero: none
	Lost      uint64    // of a gap
	Simulated bool      // the receiver was [simulate]'s

	// Of what came back, as in event.Delivery.
	FeedbackType string
	Reporter     string
	Uncounted    string
}

const (
	frameSize = 8 // length and CRC-32C of the payload
	// maxRecord bounds the octets of a payload that are believed.
	maxRecord = chunk - frameSize
	// maxReply bounds the octets of a reply, the only text that a stranger makes as long as he likes.
	maxReply = 64 << 10
	// form is the first octet of a payload: how the rest is written.
	form = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("not a record of the log of events")

// The flags of a payload.
const (
	flagReport = 1 << iota
	flagHard
	flagHash
	flagDue
	flagLost
	flagSource
	flagSimulated
	flagCameBack
)

// appendRecord adds a record with its frame to b. The payload is the form, flags, numbers
// as varints of encoding/binary, and texts, each as its length and its octets; times are
// microseconds since 1970. New fields come last; a reader ignores what it does not know.
func appendRecord(b []byte, r *Record) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, form)
	flags := byte(0)
	if r.Report {
		flags |= flagReport
	}
	if r.Hard {
		flags |= flagHard
	}
	if r.Hash != 0 {
		flags |= flagHash
	}
	if !r.Due.IsZero() {
		flags |= flagDue
	}
	if r.Lost != 0 {
		flags |= flagLost
	}
	if r.Source != "" {
		flags |= flagSource
	}
	if r.Simulated {
		flags |= flagSimulated
	}
	cameBack := [...]string{r.FeedbackType, r.Reporter, r.Uncounted}
	if cameBack != [3]string{} {
		flags |= flagCameBack
	}
	b = append(b, flags)
	b = binary.AppendVarint(b, r.Time.UnixMicro())
	b = binary.AppendUvarint(b, uint64(r.ID))
	b = binary.AppendUvarint(b, uint64(r.Ordinal))
	b = binary.AppendUvarint(b, uint64(max(r.Tries, 0)))
	b = binary.AppendUvarint(b, uint64(max(r.Code, 0)))
	for _, s := range [...]string{r.Event, r.QueueID, r.Stream, r.Recipient, r.Domain, r.Queue, r.Site, r.Relay, r.Class, r.Rule, r.Enhanced, r.Reply} {
		b = appendText(b, s)
	}
	if flags&flagHash != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Hash))
	}
	if flags&flagDue != 0 {
		b = binary.AppendVarint(b, r.Due.UnixMicro())
	}
	if flags&flagLost != 0 {
		b = binary.AppendUvarint(b, r.Lost)
	}
	if flags&flagSource != 0 {
		b = appendText(b, r.Source)
	}
	if flags&flagCameBack != 0 {
		for _, s := range cameBack {
			b = appendText(b, s)
		}
	}
	seal(b[at:])
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// seal fills in the frame of a record.
func seal(record []byte) {
	payload := record[frameSize:]
	binary.LittleEndian.PutUint32(record, uint32(len(payload)))
	binary.LittleEndian.PutUint32(record[4:], crc32.Checksum(payload, castagnoli))
}

// blank erases the content of a record, and keeps its length, so that all places in the
// segment stay what they are.
func blank(record []byte) {
	clear(record[frameSize:])
	seal(record)
}

// next cuts the first record off b. It returns 0 octets if b ends within the record, and
// errRecord if there is none.
func next(b []byte) (payload []byte, size int, err error) {
	if len(b) < frameSize {
		return nil, 0, nil
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n < 1 || n > maxRecord {
		return nil, 0, errRecord
	}
	if len(b) < frameSize+n {
		return nil, 0, nil
	}
	payload = b[frameSize : frameSize+n]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, 0, errRecord
	}
	return payload, frameSize + n, nil
}

// decode reads a payload; texts of r are parts of text, the payload as a string. One of
// a later form, or an erased one, has Event "".
func decode(b []byte, text string, r *Record) error {
	*r = Record{}
	if b[0] != form {
		return nil
	}
	at, ok := 1, true
	octet := func() (v byte) {
		if ok = ok && at < len(b); ok {
			v = b[at]
			at++
		}
		return v
	}
	unsigned := func() uint64 {
		v, n := binary.Uvarint(b[min(at, len(b)):])
		ok = ok && n > 0
		at += max(n, 0)
		return v
	}
	signed := func() int64 {
		v, n := binary.Varint(b[min(at, len(b)):])
		ok = ok && n > 0
		at += max(n, 0)
		return v
	}
	texts := func(list ...*string) {
		for _, s := range list {
			n := unsigned()
			if ok = ok && n <= uint64(len(b)-at); !ok {
				return
			}
			*s = text[at : at+int(n)]
			at += int(n)
		}
	}
	flags := octet()
	r.Report, r.Hard, r.Simulated = flags&flagReport != 0, flags&flagHard != 0, flags&flagSimulated != 0
	r.Time = time.UnixMicro(signed()).UTC()
	r.ID = spool.ID(unsigned())
	r.Ordinal = uint32(min(unsigned(), math.MaxUint32))
	r.Tries = int(min(unsigned(), math.MaxInt32))
	r.Code = int(min(unsigned(), math.MaxInt32))
	texts(&r.Event, &r.QueueID, &r.Stream, &r.Recipient, &r.Domain, &r.Queue, &r.Site, &r.Relay, &r.Class, &r.Rule, &r.Enhanced, &r.Reply)
	if flags&flagHash != 0 {
		if ok = ok && at+8 <= len(b); !ok {
			return errRecord
		}
		r.Hash = int64(binary.LittleEndian.Uint64(b[at:]))
		at += 8
	}
	if flags&flagDue != 0 {
		r.Due = time.UnixMicro(signed()).UTC()
	}
	if flags&flagLost != 0 {
		r.Lost = unsigned()
	}
	if flags&flagSource != 0 {
		texts(&r.Source)
	}
	if flags&flagCameBack != 0 {
		texts(&r.FeedbackType, &r.Reporter, &r.Uncounted)
	}
	if !ok {
		return errRecord
	}
	return nil
}
