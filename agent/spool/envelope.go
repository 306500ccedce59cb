package spool

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"
)

// maxEnvelope bounds an encoded envelope, in octets. 16 MiB holds some 100,000
// recipients; beyond it a length is taken for damage.
const maxEnvelope = 16 << 20

// noTime stands for the zero time.Time in files, where times are nanoseconds
// since 1970.
const noTime = math.MinInt64

func timeToFile(t time.Time) int64 {
	if t.IsZero() {
		return noTime
	}
	return t.UnixNano()
}

func timeFromFile(n int64) time.Time {
	if n == noTime {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// besideStream stands in files between a stream's name, its former one, the pool and Moved. No name
// has a control character. An agent that does not know of these, while a package is being
// upgraded, takes them for a part of the stream's name, or of the former one.
const besideStream = "\t"

func streamToFile(e *Envelope) string {
	switch {
	case e.Moved != "":
		return e.Stream + besideStream + e.Formerly + besideStream + e.Pool + besideStream + e.Moved
	case e.Pool != "":
		return e.Stream + besideStream + e.Formerly + besideStream + e.Pool
	case e.Formerly != "":
		return e.Stream + besideStream + e.Formerly
	}
	return e.Stream
}

// appendEnvelope encodes e as the package comment says. Size, HeaderSize and
// EightBit are not in it: they are known only when the content was read, and
// stand in the record header.
func appendEnvelope(b []byte, e *Envelope) []byte {
	b = append(b, byte(e.Origin))
	b = appendString(b, e.Sender)
	b = appendStrings(b, e.Args)
	b = appendString(b, streamToFile(e))
	b = binary.LittleEndian.AppendUint64(b, uint64(timeToFile(e.Arrived)))
	for _, s := range e.trace() {
		b = appendString(b, *s)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Recipients)))
	for i := range e.Recipients {
		b = appendString(b, e.Recipients[i].Address)
		b = appendStrings(b, e.Recipients[i].Args)
	}
	return b
}

// EncodeEnvelope is an envelope in the form that it has in a segment, for one that goes to another
// node. Size, HeaderSize and EightBit are not in it.
func EncodeEnvelope(e *Envelope) []byte { return appendEnvelope(nil, e) }

// DecodeEnvelope reads what EncodeEnvelope wrote; the error wraps ErrDamaged.
func DecodeEnvelope(b []byte) (*Envelope, error) {
	if len(b) > maxEnvelope {
		return nil, fmt.Errorf("%w: an envelope of %d octets", ErrDamaged, len(b))
	}
	return decodeEnvelope(b)
}

// trace lists the fields of where the message came from, in file order.
func (e *Envelope) trace() [8]*string {
	return [8]*string{&e.QueueID, &e.ClientName, &e.ClientAddr, &e.Helo, &e.Protocol, &e.AuthUser, &e.Daemon, &e.ByHost}
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// decodeEnvelope reads what appendEnvelope wrote. The strings of the result
// share one copy of b.
func decodeEnvelope(b []byte) (*Envelope, error) {
	d := decoder{s: string(b)}
	e := &Envelope{Origin: Origin(d.byte())}
	e.Sender = d.string()
	e.Args = d.strings()
	e.Stream, e.Formerly, _ = strings.Cut(d.string(), besideStream)
	e.Formerly, e.Pool, _ = strings.Cut(e.Formerly, besideStream)
	e.Pool, e.Moved, _ = strings.Cut(e.Pool, besideStream)
	e.Arrived = timeFromFile(int64(d.uint64()))
	for _, s := range e.trace() {
		*s = d.string()
	}
	// A recipient takes at least two octets, so a count is never believed
	// beyond what the rest can hold.
	if n := d.count(2); n > 0 {
		e.Recipients = make([]Recipient, n)
		for i := range e.Recipients {
			e.Recipients[i] = Recipient{Address: d.string(), Args: d.strings()}
		}
	}
	if d.bad || d.s != "" {
		return nil, fmt.Errorf("%w: envelope cannot be decoded", ErrDamaged)
	}
	return e, nil
}

// decoder takes values off the front of s; once something is missing it is bad
// for good and gives zero values.
type decoder struct {
	s   string
	bad bool
}

func (d *decoder) take(n uint64) string {
	if d.bad || n > uint64(len(d.s)) {
		d.bad = true
		return ""
	}
	v := d.s[:n]
	d.s = d.s[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.take(1); v != "" {
		return v[0]
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if v := d.take(8); v != "" {
		return binary.LittleEndian.Uint64([]byte(v))
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		c := d.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	d.bad = true
	return 0
}

// count reads a number of things of at least size octets each.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.s)/size) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) string() string { return d.take(d.uvarint()) }

func (d *decoder) strings() []string {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.string()
	}
	return list
}
