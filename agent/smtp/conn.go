package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is one connection to an SMTP server, past greeting, EHLO and STARTTLS.
type Conn struct {
	addr     netip.AddrPort
	local    netip.Addr
	timeouts Timeouts
	wire     wire
	replies  replyReader
	ext      Extensions
	tls      *tls.Conn // nil: plain
	closed   atomic.Bool
	phase    atomic.Int32 // of the transaction, see Abandon

	ignore  []string // EHLO keywords that are not taken at their word
	heard   bool     // the peer has replied, and through TLS since there is TLS
	chunked bool     // the peer has answered a BDAT
	stale   bool     // the last transaction failed: RSET before the next
	behind  int      // replies that are awaited after the next one, of commands in the same write
	lost    error    // a write failed: only what the peer said before is still read

	body    body   // the content on its way
	command []byte // scratch: commands of one write
	steps   []step // scratch: commands of one transaction

	trace      func(TraceEvent)          // nil: nobody looks on
	traced     func() bool               // whether somebody does now; nil: always
	writeBlock func([]byte) (int, error) // writes content

	idle     syscall.RawConn // nil: the transport has none
	peek     func(fd uintptr)
	readable bool // peek's answer
}

func newConn(nc net.Conn, addr netip.AddrPort, t Timeouts, trace func(TraceEvent), traced func() bool) *Conn {
	c := &Conn{addr: addr, timeouts: t, trace: trace, traced: traced}
	if a, ok := nc.LocalAddr().(*net.TCPAddr); ok {
		c.local = a.AddrPort().Addr().Unmap()
	}
	c.wire.raw, c.wire.nc = nc, nc
	c.wire.ctx = context.Background()
	c.replies = newReplyReader(&c.wire)
	c.replies.more = c.wire.goOn
	if trace != nil {
		c.replies.seen = func(line []byte) {
			if c.traces() {
				c.show(Server, line)
			}
		}
	}
	c.writeBlock = func(p []byte) (int, error) {
		if c.body.ended && !c.commit() { // this block has the final dot
			return 0, ErrAbandoned
		}
		return c.wire.write(p, t.DataBlock)
	}
	if s, ok := nc.(syscall.Conn); ok {
		if rc, err := s.SyscallConn(); err == nil {
			c.idle, c.peek = rc, c.poll
		}
	}
	return c
}

// LocalAddr is the address that the connection comes from; the zero address: it is of a Unix
// socket.
func (c *Conn) LocalAddr() netip.Addr { return c.local }

// RemoteAddr is the address that was dialled.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.addr }

// Extensions is what the peer offers, after STARTTLS if there was one.
func (c *Conn) Extensions() Extensions { return c.ext }

// TLS gives the state of the encryption; ok is false on a plain connection.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	if c.tls == nil {
		return tls.ConnectionState{}, false
	}
	return c.tls.ConnectionState(), true
}

// Check tells whether an idle connection is still usable: nil, or an *Error
// after which it is closed. The peer may have closed it, or said something (421
// before it closes: then the reply is in the error). It costs one system call
// and waits only if something has arrived. The transport must have a
// SyscallConn; otherwise only what was read already is looked at.
func (c *Conn) Check() error {
	if c.closed.Load() {
		return &Error{Stage: StageIdle, Err: net.ErrClosed}
	}
	if !c.replies.unread() {
		if c.idle == nil {
			return nil
		}
		c.readable = false
		if err := c.idle.Control(c.peek); err != nil {
			return c.fail(StageIdle, err)
		}
		if !c.readable {
			return nil
		}
	}
	c.wire.bind(context.Background())
	err := c.reply(checkWait, nil)
	switch {
	case err == nil:
		return c.failReply(StageIdle, ErrOutOfTurn)
	case errors.Is(err, os.ErrDeadlineExceeded) && c.tls != nil && !c.replies.unread():
		return nil // TLS has things of its own to say, such as session tickets
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrOutOfTurn
	}
	return c.fail(StageIdle, err)
}

// checkWait is how long Check waits for the rest of what has begun to arrive.
const checkWait = 50 * time.Millisecond

// poll asks the kernel whether a read would return anything: octets, the
// peer's end, or an error.
func (c *Conn) poll(fd uintptr) {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(fds[:], 0)
		if err == unix.EINTR {
			continue
		}
		c.readable = err != nil || n > 0
		return
	}
}

// quitWait is how long the reply to QUIT is waited for. The receiver sees the QUIT half a
// round trip later, and a connection that takes its place comes to it one after that; so
// to wait longer would only cost a round trip for each connection. smtp(8) waits not at all
// (smtp_skip_quit_response).
const quitWait = 10 * time.Millisecond

// Quit says QUIT, waits for the reply at most Timeouts.Quit or until ctx ends,
// and closes. It is for idle connections; on a closed one it does nothing.
func (c *Conn) Quit(ctx context.Context) {
	if c.closed.Load() {
		return
	}
	defer c.Close()
	c.wire.bind(ctx)
	end := time.Now().Add(c.timeouts.Quit)
	if err := c.say([]byte("QUIT\r\n"), c.timeouts.Quit); err != nil {
		return
	}
	if c.reply(max(0, time.Until(end)), nil) == nil && c.tls != nil {
		_ = c.tls.Close() // says close_notify
	}
}

// Part is Quit for a caller whose next connection is to take this one's place: it waits, at
// most d, until the peer has closed. The receiver counts the place as free then.
func (c *Conn) Part(ctx context.Context, d time.Duration) {
	if c.closed.Load() {
		return
	}
	defer c.Close()
	c.wire.bind(ctx)
	end := time.Now().Add(d)
	if c.say([]byte("QUIT\r\n"), d) != nil {
		return
	}
	for time.Now().Before(end) && c.reply(time.Until(end), nil) == nil {
		continue // 221, and then its end
	}
}

// Close cuts the connection, without a word and without waiting. A Send under
// way in another goroutine fails. It may be called again.
func (c *Conn) Close() {
	if c.closed.CompareAndSwap(false, true) {
		// The TCP connection, not TLS: its goodbye could block.
		_ = c.wire.raw.Close()
	}
	c.wire.release()
}

// The phases of a transaction.
const (
	noneOffered int32 = iota
	offering          // nothing can have been accepted
	committed         // the final dot, or its like, is about to be written
	abandoned
)

// Abandon cuts the connection if a Send is under way, in another goroutine, whose message
// cannot have been accepted yet, and says whether it was so: its recipients are NotOffered,
// and the error wraps ErrAbandoned. From the final dot on, or the write of a BDAT, a Send
// goes on.
func (c *Conn) Abandon() bool {
	if !c.phase.CompareAndSwap(offering, abandoned) {
		return false
	}
	c.Close()
	return true
}

// commit notes that what comes may end the message; false: it is abandoned.
func (c *Conn) commit() bool { return c.phase.CompareAndSwap(offering, committed) }

// body is the content of a message as it is read.
type body struct {
	io.Reader
	ended bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// say writes command lines within d.
func (c *Conn) say(lines []byte, d time.Duration) error {
	c.traceCommands(lines)
	_, err := c.wire.write(lines, d)
	return err
}

// reply reads the next reply within d; it is in c.replies then. Where others are awaited
// after it, a line that is no reply may be a part of one, and the next lines answer to
// other commands than they seem to.
func (c *Conn) reply(d time.Duration, each func(text []byte)) error {
	c.wire.await(d)
	c.replies.lenient = c.behind == 0
	err := c.replies.next(each)
	c.heard = c.heard || err == nil
	return err
}

// fail closes the connection and says why. TLS through which no reply has come is of no
// use: its handshake may have failed at the peer (RFC 8446 4.6: with TLS 1.3 the client
// learns only afterwards that its certificate was refused).
func (c *Conn) fail(stage Stage, err error) error {
	c.Close()
	if c.phase.Load() == abandoned {
		err = ErrAbandoned
	}
	e := &Error{Stage: stage, Err: err}
	if c.tls != nil && !c.heard {
		e.Stage = StageStartTLS
	}
	if c.replies.code == 0 {
		e.Reply.Text = string(c.replies.text)
	}
	return e
}

// failReply closes the connection over the reply just read.
func (c *Conn) failReply(stage Stage, err error) error {
	c.Close()
	return &Error{Stage: stage, Reply: c.replies.reply(), Err: err}
}
