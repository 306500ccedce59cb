package e2e

import (
	"bufio"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// peer is an SMTP client that says what it is told, in the groups it is told.
type peer struct {
	room *room
	conn net.Conn
	in   *bufio.Reader
}

// call connects from an address, the zero one for any, and reads the banner.
func (r *room) call(from netip.Addr, addr string) *peer {
	r.t.Helper()
	d := net.Dialer{}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	network, address := lab.Network(addr)
	c, err := d.DialContext(r.ctx, network, address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	p := &peer{r, c, bufio.NewReader(c)}
	p.hears("220")
	return p
}

// local connects as a program on the host would.
func (r *room) local() *peer {
	r.t.Helper()
	return r.call(netip.Addr{}, r.Postfix.SMTPAddr())
}

// waits gives the next step its time. A session has none: it may be of hundreds of messages.
func (p *peer) waits() { _ = p.conn.SetDeadline(time.Now().Add(waiting)) }

// write writes lines in one write; each gets its CRLF.
func (p *peer) write(lines ...string) {
	p.room.t.Helper()
	p.raw(strings.Join(lines, "\r\n") + "\r\n")
}

func (p *peer) raw(octets string) {
	p.room.t.Helper()
	p.waits()
	if _, err := p.conn.Write([]byte(octets)); err != nil {
		p.room.t.Fatal(err)
	}
}

// hears reads as many replies as codes are expected, "250 354", and returns the
// last line of the last one. An x in a code is any digit.
func (p *peer) hears(codes string) (last string) {
	p.room.t.Helper()
	for _, want := range strings.Fields(codes) {
		p.waits()
		for {
			line, err := p.in.ReadString('\n')
			if err != nil {
				p.room.t.Fatalf("waiting for %s of %q: %v", want, codes, err)
			}
			if last = strings.TrimSpace(line); len(last) < 4 || last[3] == ' ' {
				break
			}
		}
		for i := range want {
			if len(last) < 3 || want[i] != 'x' && want[i] != last[i] {
				p.room.t.Fatalf("reply %q where %s of %q was expected", last, want, codes)
			}
		}
	}
	return last
}

// says writes lines in one write and reads the replies to them.
func (p *peer) says(codes string, lines ...string) (last string) {
	p.room.t.Helper()
	p.write(lines...)
	return p.hears(codes)
}

// sends sends a whole message and returns its queue id.
func (p *peer) sends(mail string, rcpts []string, content string) (qid string) {
	p.room.t.Helper()
	group := []string{"MAIL FROM:" + mail}
	for _, rcpt := range rcpts {
		group = append(group, "RCPT TO:"+rcpt)
	}
	p.says(strings.Repeat("250 ", len(group))+"354", append(group, "DATA")...)
	return lab.QueueID(p.says("250", content+"."))
}

// quits ends the session in order.
func (p *peer) quits() {
	p.room.t.Helper()
	p.says("221", "QUIT")
	p.hangsUp()
}

// hangsUp closes the connection without a word.
func (p *peer) hangsUp() {
	p.room.t.Helper()
	if err := p.conn.Close(); err != nil {
		p.room.t.Fatal(err)
	}
}
