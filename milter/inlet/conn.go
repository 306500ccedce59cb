package inlet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/milter/wire"
)

const (
	// maxCommand is the longest command line in octets (Postfix's line_length_limit).
	maxCommand = 2048
	// minRate is how many octets a second a message must come with, over the time-out
	// (Postfix's smtpd_min_data_rate).
	minRate = 500
	// lastWord is how long a client may take to read the reply that ends its connection.
	lastWord = 10 * time.Second
)

// conn is a client's connection: command lines and content come in, replies go out. Only
// CRLF ends a line. Replies wait in out until the client is waited for, so those to
// pipelined commands go in one write (RFC 2920 section 3.2).
type conn struct {
	net.Conn
	server *Server
	who    string     // whose connection it counts as; "": it is not counted by itself
	user   string     // at a Unix socket
	client netip.Addr // zero at a Unix socket

	in    []byte // read, and not used yet: a part of room
	room  []byte
	out   []byte
	began time.Time // the content in hand, or the chunk
	taken int64     // octets of it
}

// newConn's room holds a command line and, mostly, all that is pipelined.
func newConn(c net.Conn, s *Server) *conn {
	return &conn{Conn: c, server: s, room: make([]byte, 4<<10)}
}

// end is an error after which the connection is closed: a last reply, or none, and why, for
// the log. The empty why is no fault of the client's.
type end struct{ reply, why string }

func (e end) Error() string { return e.why }

var (
	endTimeout = end{"421 4.4.2 time-out", ""}
	endLong    = end{"500 5.5.2 line is too long", "line of a command that is too long"}
	endBareLF  = end{"550 5.5.2 bare <LF> received", "bare LF"}
	endBareCR  = end{"550 5.5.2 bare <CR> received", "bare CR"}
	endNUL     = end{"550 5.5.2 NUL received", "NUL in a command"}
	endEndless = end{"552 5.3.4 message is too large", "endless message"}
)

// endStop is what a client is told when the inlet ends: the host MTA takes its mail, now and
// for good.
func (s *Server) endStop() end {
	return end{"421 4.3.2 service is shutting down; " + s.judge.Config().Inlet.Host() + " takes mail meanwhile", ""}
}

// command returns the next command line without its CRLF. Its deadline is that of the whole
// line, so nobody stays by sending an octet now and then.
func (c *conn) command() (string, error) {
	deadline := time.Now().Add(c.server.cfg.Timeout)
	for seen := 0; ; {
		if i := bytes.IndexByte(c.in[seen:], '\n'); i >= 0 {
			line := c.in[:seen+i]
			c.in = c.in[len(line)+1:]
			text, ok := bytes.CutSuffix(line, []byte("\r"))
			switch {
			case len(text) > maxCommand-2:
				return "", endLong
			case !ok:
				return "", endBareLF
			case bytes.IndexByte(text, '\r') >= 0:
				return "", endBareCR
			case bytes.IndexByte(text, 0) >= 0:
				return "", endNUL
			}
			return string(text), nil
		}
		if seen = len(c.in); seen > maxCommand {
			return "", endLong
		}
		n := copy(c.room, c.in)
		got, err := c.read(c.room[n:], deadline, c.server.stop)
		c.in = c.room[:n+got]
		if err != nil {
			return "", err
		}
	}
}

// read reads from the socket, after what waits to be written. It ends when the client is not
// to be waited for any longer, as stop says.
func (c *conn) read(b []byte, deadline time.Time, stop context.Context) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	// hurry sets another deadline after stop is done: whichever of the two comes second, a
	// stop is seen.
	c.SetReadDeadline(deadline)
	if stop.Err() != nil {
		return 0, c.server.endStop()
	}
	n, err := c.Conn.Read(b)
	switch {
	case n > 0:
		return n, nil
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return 0, err
	case stop.Err() != nil:
		return 0, c.server.endStop()
	case time.Now().Before(deadline):
		return 0, nil // another stop, of clients without a message in hand
	}
	return 0, endTimeout
}

// more reads content: the next octets within the time-out, all of it at no less than minRate.
func (c *conn) more(b []byte) (int, error) {
	if len(c.in) > 0 {
		n := copy(b, c.in)
		c.in = c.in[n:]
		c.taken += int64(n)
		return n, nil
	}
	timeout := c.server.cfg.Timeout
	deadline := c.began.Add(timeout + time.Duration(c.taken/minRate)*time.Second)
	if next := time.Now().Add(timeout); next.Before(deadline) {
		deadline = next
	}
	n, err := c.read(b, deadline, c.server.abort)
	c.taken += int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// unread gives back what came after the content.
func (c *conn) unread(b []byte) {
	switch {
	case len(b) == 0:
	case len(c.in) > 0: // b is of it
		c.in = append(append(make([]byte, 0, len(b)+len(c.in)), b...), c.in...)
	case len(b) <= len(c.room):
		c.in = c.room[:copy(c.room, b)]
	default:
		c.in = bytes.Clone(b)
	}
}

// work are buffers for content on its way in.
var work = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// data takes the content of DATA, up to its end mark and not an octet more (RFC 5321 section
// 4.1.1.4).
//
// A CR or LF by itself ends the connection: a peer that takes one for the end of a line
// would see commands where we see content (SMTP smuggling), and nothing that follows can be
// believed.
func (c *conn) data(m *content) error {
	buf := work.Get().(*[64 << 10]byte)
	defer work.Put(buf)
	c.begin()
	most := 2*m.max + 1<<20
	for held := 0; ; {
		n, err := c.more(buf[held:])
		if err != nil {
			return err
		}
		used, ended, err := m.scan(buf[:held+n], true)
		if err != nil {
			return err
		}
		if ended {
			c.unread(buf[used : held+n])
			return nil
		}
		if c.taken > most {
			return endEndless
		}
		held = copy(buf[:], buf[used:held+n])
	}
}

// chunk takes size octets of BDAT (RFC 3030), with a nil m for nobody. Cut short by the end of
// the connection they are an error, which go-smtp's server, for one, takes for the end of
// the message (0.25.1: the copy of the chunk ends without an error, and LAST closes the pipe).
func (c *conn) chunk(m *content, size int64) error {
	buf := work.Get().(*[64 << 10]byte)
	defer work.Put(buf)
	c.begin()
	for size > 0 {
		n, err := c.more(buf[:min(size, int64(len(buf)))])
		if err != nil {
			return err
		}
		size -= int64(n)
		if m != nil {
			m.piece(buf[:n])
		}
	}
	return nil
}

func (c *conn) begin() { c.began, c.taken = time.Now(), 0 }

// say queues a reply, of one or more lines without the last CRLF.
func (c *conn) say(r reply) { c.out = append(append(c.out, r...), '\r', '\n') }

// flush writes what was said. An error that wraps wire.ErrCut says that a part was written.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	within := c.server.cfg.Timeout
	c.SetWriteDeadline(time.Now().Add(within))
	if c.server.abort.Err() != nil {
		c.SetWriteDeadline(time.Now().Add(min(within, lastWord)))
	}
	n, err := c.Conn.Write(c.out)
	if c.out = c.out[:0]; err != nil && n > 0 {
		err = errors.Join(wire.ErrCut, err)
	}
	return err
}

// hurry ends a wait for the client, or for it to read.
func (c *conn) hurry(within time.Duration) {
	c.SetReadDeadline(time.Now())
	if within > 0 {
		c.SetWriteDeadline(time.Now().Add(within))
	}
}
