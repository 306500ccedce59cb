package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-milter"
)

// maxPacket is the longest packet taken, command octet and data. The protocol's
// body chunks are 65,535 octets; a header field may be longer where an admin
// raised Postfix's header_size_limit. It is also what go-milter takes.
const maxPacket = 1 << 20

// readStep bounds how much memory a packet's length claims before its octets
// have arrived.
const readStep = 64 << 10

// codeUnknown is SMFIC_UNKNOWN, an SMTP command the MTA does not know;
// go-milter has no name for it.
const codeUnknown milter.Code = 'U'

// codeProgress is SMFIR_PROGRESS: the milter is still at work.
const codeProgress = 'p'

// packet is one command of the MTA.
type packet struct {
	code milter.Code
	data []byte
}

// readPacket reads one packet into buf, which it may grow and returns for the
// next call. A clean end between packets is io.EOF; within one it is an error
// that says so.
func readPacket(r *bufio.Reader, buf []byte) (packet, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = errors.New("packet cut short")
		}
		return packet{}, buf, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n == 0 {
		return packet{}, buf, errors.New("packet of length zero")
	}
	if n > maxPacket {
		return packet{}, buf, fmt.Errorf("packet of %d octets is too long", n)
	}
	buf = buf[:0]
	for len(buf) < n {
		step := min(n-len(buf), readStep)
		at := len(buf)
		if cap(buf) < at+step {
			grown := make([]byte, at, max(min(2*cap(buf), maxPacket), at+step))
			copy(grown, buf)
			buf = grown
		}
		buf = buf[:at+step]
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = errors.New("packet cut short")
			}
			return packet{}, buf, err
		}
	}
	return packet{milter.Code(buf[0]), buf[1:]}, buf, nil
}

// appendPacket appends a packet as it goes over the wire.
func appendPacket(b []byte, code byte, data string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(1+len(data)))
	b = append(b, code)
	return append(b, data...)
}

// wholePacket reports whether the next packet is in the buffer already.
func wholePacket(r *bufio.Reader) bool {
	have := r.Buffered()
	if have < 4 {
		return false
	}
	head, err := r.Peek(4)
	return err == nil && uint64(binary.BigEndian.Uint32(head)) <= uint64(have-4)
}

// appendStrings splits NUL-terminated strings. The last one must be terminated
// too.
func appendStrings(strs []string, data []byte) ([]string, bool) {
	if len(data) == 0 || data[len(data)-1] != 0 {
		return strs, false
	}
	for rest := string(data); rest != ""; {
		var s string
		s, rest, _ = strings.Cut(rest, "\x00")
		strs = append(strs, s)
	}
	return strs, true
}

// parseClient reads a CONNECT packet: name NUL family [port address NUL].
func parseClient(data []byte) (Client, error) {
	malformed := errors.New("malformed CONNECT packet")
	host, rest, ok := bytes.Cut(data, []byte{0})
	if !ok || len(rest) == 0 {
		return Client{}, malformed
	}
	c := Client{Host: string(host)}
	family, rest := milter.ProtoFamily(rest[0]), rest[1:]
	switch family {
	case milter.FamilyUnknown, milter.FamilyUnix:
		return c, nil
	case milter.FamilyInet, milter.FamilyInet6:
		if len(rest) < 3 {
			return Client{}, malformed
		}
		c.Port = binary.BigEndian.Uint16(rest)
		addr, end, ok := bytes.Cut(rest[2:], []byte{0})
		if !ok || len(end) != 0 {
			return Client{}, malformed
		}
		c.Addr = string(addr)
		return c, nil
	default:
		return Client{}, malformed
	}
}

// parse checks what a command must look like before anyone acts on it, and
// appends its strings, of those commands that are nothing but strings.
func (p packet) parse(strs []string) (_ []string, err error) {
	ok := true
	switch p.code {
	case milter.CodeConn:
		_, err := parseClient(p.data)
		return strs, err
	case milter.CodeHelo:
		strs, ok = appendStrings(strs, p.data)
		ok = ok && len(strs) == 1
	case milter.CodeMail: // empty text: the null sender of sendmail(1) mail
		strs, ok = appendStrings(strs, p.data)
	case milter.CodeRcpt:
		strs, ok = appendStrings(strs, p.data)
		ok = ok && strs[0] != ""
	case milter.CodeHeader:
		strs, ok = appendStrings(strs, p.data)
		ok = ok && len(strs) == 2 && strs[0] != ""
	case milter.CodeMacro:
		ok = len(p.data) > 0
	case milter.CodeOptNeg:
		ok = len(p.data) >= 12
	}
	if !ok {
		return strs, fmt.Errorf("malformed %q packet", byte(p.code))
	}
	return strs, nil
}

// endsMessage reports whether a command ends the message in hand, if there is one.
func (p packet) endsMessage() bool {
	switch p.code {
	case milter.CodeAbort, milter.CodeMail, milter.CodeHelo, milter.CodeQuitNewConn, milter.CodeQuit:
		return true
	}
	return false
}
