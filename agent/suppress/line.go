package suppress

import (
	"bytes"
	"errors"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/outcome"
)

// A line of the file has its fields between tabs and ends with a checksum:
//
//	+  seconds since 1970, bounces, class, number, stream, address, CRC
//	-  stream, address, CRC
//
// The class has "late:" before it if the bounce came in a report. + puts an entry on the list in place of an older one, - takes one off. The
// number is mark.seq. Stream and address are quoted as in Go where they have
// characters that would not do here. The CRC is CRC32C of all before the last
// tab, in eight hexadecimal digits. A line whose CRC does not match counts for
// nothing: the last one, when a crash cut it short.

// late stands before the class of a bounce that came in a report.
const late = "late:"

// header is the first line of the file.
const header = "millrace suppression 1\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendAdd(b []byte, m mark, e *Entry) []byte {
	start := len(b)
	b = append(b, '+', '\t')
	b = strconv.AppendUint(b, uint64(m.last), 10)
	b = append(b, '\t')
	b = strconv.AppendUint(b, uint64(m.bounces), 10)
	b = append(b, '\t')
	if m.class&lateBit != 0 {
		b = append(b, late...)
	}
	b = append(b, outcome.Class(m.class&^lateBit).String()...)
	b = append(b, '\t')
	b = strconv.AppendUint(b, uint64(m.seq), 10)
	return appendNames(b, start, e.Stream, e.Address)
}

func appendRemove(b []byte, stream, address string) []byte {
	return appendNames(append(b, '-'), len(b), stream, address)
}

func appendNames(b []byte, start int, stream, address string) []byte {
	b = appendText(append(b, '\t'), stream)
	b = appendText(append(b, '\t'), address)
	sum := uint64(crc32.Checksum(b[start:], castagnoli))
	b = append(b, '\t')
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[sum>>shift&15])
	}
	return append(b, '\n')
}

func appendText(b []byte, s string) []byte {
	plain := s == "" || s[0] != '"'
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] != 0x7f
	}
	if plain {
		return append(b, s...)
	}
	return strconv.AppendQuote(b, s)
}

func parseText(b []byte) (string, error) {
	if len(b) == 0 || b[0] != '"' {
		return string(b), nil
	}
	return strconv.Unquote(string(b))
}

var errLine = errors.New("not a line of a suppression list")

// parseLine reads a line without its end. add is false for one that takes an
// entry off.
func parseLine(line []byte) (e Entry, m mark, add bool, err error) {
	n := len(line) - 9
	if n < 1 || line[n] != '\t' {
		return e, m, false, errLine
	}
	sum, err := strconv.ParseUint(string(line[n+1:]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[:n], castagnoli) {
		return e, m, false, errLine
	}
	var field [7][]byte
	fields := field[:0]
	for f := range bytes.SplitSeq(line[:n], []byte{'\t'}) {
		if len(fields) == cap(fields) {
			return e, m, false, errLine
		}
		fields = append(fields, f)
	}
	switch {
	case len(fields) == 7 && string(fields[0]) == "+":
		last, err1 := strconv.ParseUint(string(fields[1]), 10, 32)
		bounces, err2 := strconv.ParseUint(string(fields[2]), 10, 8)
		name, isLate := strings.CutPrefix(string(fields[3]), late)
		class, ok := outcome.ParseClass(name)
		seq, err3 := strconv.ParseUint(string(fields[4]), 10, 16)
		if err := errors.Join(err1, err2, err3); err != nil || !ok {
			return e, m, false, errLine
		}
		m = mark{last: uint32(last), bounces: uint8(bounces), class: uint8(class), seq: uint16(seq)}
		if isLate {
			m.class |= lateBit
		}
		e, add = m.entry(), true
	case len(fields) == 3 && string(fields[0]) == "-":
	default:
		return e, m, false, errLine
	}
	if e.Stream, err = parseText(fields[len(fields)-2]); err == nil {
		e.Address, err = parseText(fields[len(fields)-1])
	}
	return e, m, add, err
}
