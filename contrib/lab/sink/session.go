package sink

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

const (
	bufferSize = 16 << 10
	maxCommand = 4 << 10 // octets of a command line; RFC 5321 and extensions ask for less
	lingering  = time.Second
)

var errLongCommand = errors.New("command line too long")

// session is one connection of a receiver. Its goroutine runs run; others may
// only close tcp.
type session struct {
	host   *host
	number uint64
	tcp    stream
	line   *delayLine
	conn   net.Conn // line, or TLS over it
	tls    bool

	turnedAway Cause // by the gate, at the start
	screened   bool  // the client's first connection, at a host that screens
	holds      bool  // has a place; guarded by provider.mu
	place      *slots

	buf      []byte // buf[r:w] is read and not yet used
	r, w     int
	out      []byte // replies not yet written
	deadline time.Time
	ending   bool // close when out is written
	hung     bool // nothing is said any more

	helo     string
	messages int // accepted on this connection
	tries    int // MAIL commands that were well-formed
	taken    int // recipients that had 250

	// The transaction.
	mail     bool
	chunked  bool   // its content comes by BDAT
	arena    []byte // addresses and parameters, one after the other
	sender   span
	mailArgs span
	rcpts    []recipient

	content content
	digest  ledger.Digest
	keep    bytes.Buffer // the content, if Options.Message wants it
	list    [][]byte
}

// span is a part of session.arena.
type span struct{ from, to int }

type recipient struct{ address, args span }

func newSession(h *host, c stream) *session {
	n := h.provider.internet
	s := &session{host: h, number: n.conns.Add(1), tcp: c}
	s.line = &delayLine{Conn: c, rtt: func() time.Duration { return h.behaviour.Load().RTT }, closed: n.closed}
	s.conn = s.line
	return s
}

// client is the address of the client.
func (s *session) client() netip.Addr { return s.tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() }

func (s *session) internet() *Internet   { return s.host.provider.internet }
func (s *session) behaviour() *Behaviour { return s.host.behaviour.Load() }

// run serves the connection.
func (s *session) run() {
	s.buf = make([]byte, bufferSize)
	if s.internet().options.Message != nil {
		s.content.to = io.MultiWriter(&s.digest, &s.keep)
	} else {
		s.content.to = &s.digest
	}
	defer s.host.forget(s)
	err := s.serve()
	if s.screened {
		s.host.provider.learn(s.client())
	}
	s.host.leave(s) // before the client can see the end
	if err == nil {
		err = s.flush()
	}
	if t, ok := s.conn.(*tls.Conn); ok && err == nil {
		t.CloseWrite()
	}
	s.line.drain()
	if err == nil {
		s.linger()
	}
	s.tcp.Close()
}

// linger ends the connection so that the last reply arrives: closing a socket
// with unread input would reset it.
func (s *session) linger() {
	s.tcp.CloseWrite()
	s.tcp.SetReadDeadline(time.Now().Add(lingering))
	io.Copy(io.Discard, s.tcp)
}

// serve talks until the connection is to be closed. With an error there is
// nobody to talk to any more.
func (s *session) serve() error {
	b := s.behaviour()
	// The kernel has accepted already: a client far away would have waited one
	// latency for that.
	if !pause(s.internet().closed, b.RTT+b.GreetingDelay) {
		return net.ErrClosed
	}
	if s.turnedAway != "" && b.OverLimit != AtMail && b.OverLimit != AtDot {
		s.reply(b.reply(s.turnedAway))
		return nil
	}
	if s.turnedAway == "" && s.host.connects.hits(b.HangConnect) {
		return s.hang()
	}
	if s.troubled(b, TroubleBanner) {
		s.refuse(b, CauseTrouble)
		return nil
	}
	s.screened = b.Screen && !s.host.provider.knows(s.client())
	if b.Junk {
		s.out = append(s.out, "*** authorised use only ***\r\n\r\n"...)
	}
	s.reply("220 " + s.host.name + " ESMTP sink")
	for !s.ending {
		line, err := s.readLine()
		if errors.Is(err, errLongCommand) {
			s.reply("500 5.5.2 Line too long")
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.command(line); err != nil {
			return err
		}
	}
	return nil
}

// hang says nothing any more until the client has gone.
func (s *session) hang() error {
	s.out = s.out[:0]
	for {
		s.r, s.w = 0, 0
		if err := s.fill(); err != nil {
			return err
		}
	}
}

// readLine gives the next command without its line end, valid until the next
// read. A bare LF ends a command too; content is stricter.
func (s *session) readLine() ([]byte, error) {
	for {
		if i := bytes.IndexByte(s.buf[s.r:s.w], '\n'); i >= 0 {
			line := s.buf[s.r : s.r+i]
			s.r += i + 1
			if i > 0 && line[i-1] == '\r' {
				line = line[:i-1]
			}
			return line, nil
		}
		if s.w-s.r > maxCommand {
			return nil, errLongCommand
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more input. The replies so far go out first: the client has no
// more commands for us, so its group is over.
func (s *session) fill() error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
	n, err := s.conn.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil
	}
	return err
}

// flush writes the replies so far in one piece and puts the deadline off. A
// deadline costs a timer, so it is not moved for every flight.
func (s *session) flush() error {
	idle := s.internet().options.Idle
	if now := time.Now(); now.Add(idle * 7 / 8).After(s.deadline) {
		s.deadline = now.Add(idle)
		s.tcp.SetDeadline(s.deadline)
	}
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// reply queues a reply; a 421 ends the connection. Text of several lines has
// its codes before each.
func (s *session) reply(text string) {
	s.host.replies[text[0]-'0'].Add(1)
	for i := range len(text) {
		if text[i] == '\n' {
			s.out = append(s.out, '\r')
		}
		s.out = append(s.out, text[i])
	}
	s.out = append(s.out, '\r', '\n')
	if text[:3] == "421" {
		s.ending = true
	}
}

// refuse queues the reply for a cause and counts it.
func (s *session) refuse(b *Behaviour, c Cause) {
	s.reply(b.reply(c))
	s.host.countRefusal(c)
}
