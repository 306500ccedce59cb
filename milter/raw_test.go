package milter_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/millrace/millrace/contrib/lab/pipes"
)

// appendPacket appends a packet of NUL-terminated strings.
func appendPacket(p []byte, code byte, data ...string) []byte {
	s := ""
	for _, d := range data {
		s += d + "\x00"
	}
	p = binary.BigEndian.AppendUint32(p, uint32(1+len(s)))
	return append(append(p, code), s...)
}

// rawMTA is an MTA made of packets.
type rawMTA struct {
	net.Conn
	r *bufio.Reader
}

// newRawMTA negotiates as Postfix does and tells of a client.
func newRawMTA(c net.Conn) (*rawMTA, error) {
	m := &rawMTA{c, bufio.NewReader(c)}
	offer := binary.BigEndian.AppendUint32(nil, 13)
	m.Write(append(offer, 'O', 0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff))
	if err := m.expect("O"); err != nil {
		return nil, err
	}
	p := appendPacket(nil, 'D', "Cj", "mx.example", "v", "Postfix 3.7.11", "{daemon_name}", "smtpd")
	p = appendPacket(p, 'C', "client.example\x004\x00\x19192.0.2.1")
	m.Write(appendPacket(p, 'H', "client.example"))
	return m, nil
}

// reply reads one reply.
func (m *rawMTA) reply() (code byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(m.r, head[:]); err != nil {
		return 0, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err = io.ReadFull(m.r, b)
	return b[0], err
}

// expect reads replies. A write that failed shows here.
func (m *rawMTA) expect(codes string) error {
	for _, want := range []byte(codes) {
		if got, err := m.reply(); err != nil || got != want {
			return fmt.Errorf("reply %q (%v), want %q", got, err, want)
		}
	}
	return nil
}

// wants is expect for a test.
func (m *rawMTA) wants(t *testing.T, codes string) {
	t.Helper()
	if err := m.expect(codes); err != nil {
		t.Fatal(err)
	}
}

// message is a message to c@d.example as Postfix sends it, up to the end of the
// header.
func (m *rawMTA) message(from string, args ...string) {
	p := appendPacket(nil, 'D', "M{auth_authen}", "joe")
	p = appendPacket(p, 'M', append([]string{from}, args...)...)
	p = appendPacket(p, 'D', "Ri", "Q1", "{rcpt_mailer}", "smtp", "{rcpt_host}", "d.example")
	p = appendPacket(p, 'R', "<c@d.example>")
	p = appendPacket(p, 'L', "Subject", " x")
	p = appendPacket(p, 'D', "Ni", "Q1")
	m.Write(appendPacket(p, 'N'))
}

// lines sends a body of so many lines of 64 octets in one piece.
func (m *rawMTA) lines(n int) { m.Write(bodyPacket(n)) }

// end ends the message.
func (m *rawMTA) end() { m.Write(appendPacket(nil, 'E')) }

// bodyPacket is a piece of a body.
func bodyPacket(lines int) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(1+64*lines))
	p = append(p, 'B')
	for range lines {
		p = append(p, "A line of text as one finds it in a message, of 64 octets now.\r\n"...)
	}
	return p
}

// dial is a new MTA connection.
func dial(t testing.TB, l *pipes.Listener) *rawMTA {
	t.Helper()
	m, err := newRawMTA(l.Dial())
	if err != nil {
		t.Fatal(err)
	}
	return m
}
