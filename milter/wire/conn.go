package wire

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-milter"
)

// Conn is one MTA connection. To the protocol engine it is a net.Conn of
// checked packets; to the Handler it is what the MTA has said beside them.
//
// The engine gets the packets that something is decided over, and those that
// begin and end the connection. The others, dozens in a message, go past it.
//
// The engine's goroutine reads, runs the handler and writes, in turn; only
// PROGRESS and the server's stop come from elsewhere, and mu is between them.
type Conn struct {
	net.Conn
	o       Options
	log     *slog.Logger
	handler Handler
	ctx     context.Context // done when the connection is closed or given up
	cancel  context.CancelFunc
	done    chan struct{} // closed by Close

	accepted   time.Time
	negotiated func() // called when that is done
	silent     bool   // closed for want of a negotiation; to be read once done is closed

	r         *bufio.Reader
	buf       []byte      // of the packet read last
	strs      []string    // and its strings
	cur       packet      // what the engine is at work on
	out       []byte      // octets of cur that the engine has not read yet
	in        []byte      // octets of a reply that the engine has not finished
	prelude   []byte      // packets that go out with the next reply
	written   func(error) // of the verdict on its way
	terms     terms
	macros    macros
	preamble  int // octets since MAIL, before the body
	headerLen int
	headerCut bool
	broken    bool // a handler panicked over this message

	mu       sync.Mutex
	stage    stage
	stopping bool
	err      error       // why the connection ends, the first reason
	waiting  bool        // the MTA waits for a verdict
	progress *time.Timer // sends PROGRESS while waiting
	closed   sync.Once
}

// readAhead is the size of a connection's read buffer. The envelope and the
// header of most messages fit, and so come with one read(2).
const readAhead = 8 << 10

func newConn(ctx context.Context, nc net.Conn, o Options, log *slog.Logger) *Conn {
	c := &Conn{Conn: nc, o: o, log: log, r: bufio.NewReaderSize(nc, readAhead), done: make(chan struct{}),
		accepted: time.Now(), negotiated: func() {}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// Macro returns the value of a macro, its name without braces, at the latest
// stage that defines it; "" if none does.
func (c *Conn) Macro(name string) string { return c.macros.find(name) }

// RcptMacro returns the value of a macro that came with the RCPT in hand.
func (c *Conn) RcptMacro(name string) string {
	v, _ := c.macros.at(stageOf(milter.CodeRcpt), name)
	return v
}

// CanDelete reports whether the MTA lets us delete recipients.
func (c *Conn) CanDelete() bool { return c.terms.actions&milter.OptRemoveRcpt != 0 }

// ExactHeaders reports whether header values come with their leading blank. If
// not, the fields cannot be put together again as the client sent them.
func (c *Conn) ExactHeaders() bool { return c.terms.steps&milter.OptHeaderLeadingSpace != 0 }

// HeaderCut reports whether header fields of this message were dropped because
// there was too much of them.
func (c *Conn) HeaderCut() bool { return c.headerCut }

// Read gives the engine the octets of the next packet. A broken connection is
// io.EOF to it, whatever broke: the reason is logged once, by Close.
func (c *Conn) Read(p []byte) (int, error) {
	for len(c.out) == 0 {
		if err := c.take(); err != nil {
			c.fail(err)
			return 0, io.EOF
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// take reads the next packet, checks it and either deals with it or lays it out
// for the engine.
func (c *Conn) take() error {
	if err := c.await(); err != nil {
		return err
	}
	var p packet
	var err error
	if p, c.buf, err = readPacket(c.r, c.buf); err != nil {
		return err
	}
	if c.strs, err = p.parse(c.strs[:0]); err != nil {
		return err
	}
	c.mu.Lock()
	s := c.stage
	c.mu.Unlock()
	if !s.allows(p.code) {
		return outOfOrder(s, p.code)
	}
	if s.inMessage() && p.endsMessage() {
		c.abort()
	}
	return c.begin(p)
}

// await waits for the first octet of a packet and sets the deadline for the
// rest of it, if that is not there.
func (c *Conn) await() error {
	if c.r.Buffered() == 0 {
		c.mu.Lock()
		err := c.err
		if err == nil && c.stopping && !c.stage.inMessage() {
			err = errStopped
		}
		if err == nil {
			c.SetReadDeadline(c.patience(c.o.IdleTimeout)) // fails only where the Read will
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if cap(c.buf) > 2*readStep {
			c.buf, c.out = nil, nil // one huge packet shall not stay with an idle connection
		}
		clear(c.strs)
		if _, err := c.r.Peek(1); err != nil {
			return err
		}
	}
	if !wholePacket(c.r) {
		c.SetReadDeadline(c.patience(c.o.PacketTimeout))
	}
	return nil
}

// patience is when a read that may take d ends. The whole of the negotiation has one
// time of its own, which no octet prolongs.
func (c *Conn) patience(d time.Duration) time.Time {
	if c.stage == fresh { // changed by this goroutine alone
		return c.accepted.Add(c.o.NegotiationTimeout)
	}
	return time.Now().Add(d)
}

// begin takes a packet: what the engine has no use for is done here.
func (c *Conn) begin(p packet) error {
	c.cur = p
	c.mu.Lock()
	c.stage = c.stage.after(p.code)
	c.mu.Unlock()
	c.macros.began(p.code)
	switch p.code {
	case milter.CodeOptNeg:
		var err error
		if c.terms, err = negotiate(p.data); err != nil {
			return err
		}
		c.negotiated()
	case milter.CodeEOH, milter.CodeEOB:
		c.startProgress()
	case milter.CodeQuit:
	default:
		return c.step(p)
	}
	c.out = binary.BigEndian.AppendUint32(c.out[:0], uint32(1+len(p.data)))
	c.out = append(append(c.out, byte(p.code)), p.data...)
	return nil
}

// step does all there is to do over a packet without a verdict.
func (c *Conn) step(p packet) error {
	if p.code != milter.CodeBody {
		if c.preamble += len(p.data); c.preamble > c.o.MaxPreamble {
			return fmt.Errorf("more than %d octets before a body", c.o.MaxPreamble)
		}
	}
	switch p.code {
	case milter.CodeMacro:
		return c.macros.define(p.data)
	case milter.CodeQuitNewConn:
		c.macros = macros{}
		return nil
	case milter.CodeAbort:
		c.macros.endMessage() // also that of a message that has its verdict
		return nil
	case milter.CodeMail:
		c.broken, c.preamble, c.headerLen, c.headerCut = false, 0, 0, false
	case milter.CodeHeader:
		c.headerLen += len(p.data)
		c.headerCut = c.headerCut || c.headerLen > c.o.MaxHeader
	}
	if !c.broken {
		c.broken = !guarded(c, func() { c.hand(p) })
	}
	return c.answer()
}

// hand gives a packet to the handler.
func (c *Conn) hand(p packet) {
	switch s := c.strs; p.code {
	case milter.CodeConn:
		client, _ := parseClient(p.data) // that it can be read was checked
		c.handler.Connect(client)
	case milter.CodeHelo:
		c.handler.Helo(s[0])
	case milter.CodeMail:
		c.handler.Mail(s[0], slices.Clone(s[1:]))
	case milter.CodeRcpt:
		c.handler.Rcpt(s[0], slices.Clone(s[1:]))
	case milter.CodeHeader:
		if !c.headerCut {
			c.handler.Header(s[0], s[1])
		}
	case milter.CodeBody:
		c.handler.Body(p.data)
	}
}

// abort ends the message in hand without a verdict.
func (c *Conn) abort() {
	c.mu.Lock()
	c.stage = min(c.stage, idle)
	c.mu.Unlock()
	c.macros.endMessage()
	guarded(c, c.handler.Abort)
}

// answer says Continue to a step, if an answer is due.
func (c *Conn) answer() error {
	if !c.terms.replies(c.cur.code) {
		return nil
	}
	return c.send(appendPacket(nil, byte(milter.ActContinue), ""))
}

// Write takes the engine's replies, puts them together to whole packets, and
// sends them as the terms want. It never fails towards the engine, which would
// log a line of its own; the next Read ends the connection.
func (c *Conn) Write(p []byte) (int, error) {
	c.in = append(c.in, p...)
	for len(c.in) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(c.in))
		if len(c.in) < n {
			break
		}
		reply := c.in[:n:n]
		if c.cur.code == milter.CodeOptNeg {
			reply = c.terms.packet()
		}
		var err error
		if c.terms.replies(c.cur.code) {
			err = c.send(append(c.prelude, reply...))
		}
		c.prelude = nil
		c.in = append(c.in[:0], c.in[n:]...)
		if err != nil {
			c.fail(err)
		}
		c.settle(err)
	}
	return len(p), nil
}

// send writes octets in one write and ends the wait for a verdict.
func (c *Conn) send(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
	if c.progress != nil {
		c.progress.Stop()
	}
	if c.err != nil {
		return c.err // PROGRESS could not be written: the MTA is gone
	}
	if c.written != nil && (c.r.Buffered() > 0 || gone(c.Conn)) {
		return errGone
	}
	return c.write(b)
}

func (c *Conn) write(b []byte) error {
	c.SetWriteDeadline(time.Now().Add(c.o.WriteTimeout))
	n, err := c.Conn.Write(b)
	if err != nil && n > 0 {
		return fmt.Errorf("%w: %w", ErrCut, err)
	}
	return err
}

// settle tells the handler what became of its verdict.
func (c *Conn) settle(err error) {
	if f := c.written; f != nil {
		c.written = nil
		f(err)
	}
}

// startProgress starts to tell the MTA, from time to time, that we are at work.
func (c *Conn) startProgress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = true
	if c.progress == nil {
		c.progress = time.AfterFunc(c.o.ProgressEvery, c.sendProgress)
	} else {
		c.progress.Reset(c.o.ProgressEvery)
	}
}

func (c *Conn) sendProgress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waiting || c.err != nil {
		return
	}
	if err := c.write(appendPacket(nil, codeProgress, "")); err != nil {
		// Nobody waits for the verdict any more.
		c.err = fmt.Errorf("writing PROGRESS: %w", err)
		c.cancel()
		return
	}
	c.progress.Reset(c.o.ProgressEvery)
}

// errStopped ends a connection because the server stops.
var errStopped = errors.New("server stops")

// stop ends the connection now if it is between messages, or else as soon as
// the message in hand has its verdict.
func (c *Conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if !c.stage.inMessage() {
		c.SetReadDeadline(time.Unix(1, 0)) // wakes a Read that waits
	}
}

// errSilent ends a connection that has not negotiated.
var errSilent = errors.New("nothing was negotiated")

// kill ends the connection wherever it is.
func (c *Conn) kill() { c.end(errStopped) }

func (c *Conn) end(why error) {
	c.fail(why)
	c.cancel()
	c.Conn.Close()
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// Close is called by the engine, once, as the last thing its goroutine does.
func (c *Conn) Close() error {
	var err error
	c.closed.Do(func() {
		c.mu.Lock()
		c.waiting = false
		if c.progress != nil {
			c.progress.Stop()
		}
		why, s := c.err, c.stage
		if why == nil && c.cur.code != milter.CodeQuit {
			why = errors.New("protocol engine gave up")
		}
		if c.stopping && (errors.Is(why, os.ErrDeadlineExceeded) || errors.Is(why, net.ErrClosed)) {
			why = errStopped
		}
		if s == fresh && errors.Is(why, os.ErrDeadlineExceeded) {
			why = errSilent
		}
		c.silent = why == errSilent
		c.mu.Unlock()

		c.cancel()
		err = c.Conn.Close()
		c.settle(cmp.Or(why, net.ErrClosed))
		guarded(c, func() {
			if s.inMessage() {
				c.handler.Abort()
			}
			c.handler.Close()
		})
		c.logEnd(why, s)
		close(c.done)
	})
	return err
}

// logEnd writes the one line of a connection that did not end with QUIT.
func (c *Conn) logEnd(why error, s stage) {
	switch {
	case why == nil, errors.Is(why, errStopped) && !s.inMessage(), why == errSilent, why == io.EOF && !s.inMessage():
		c.log.Debug("MTA connection ends", "stage", s.String())
	default:
		if why == io.EOF {
			why = errors.New("MTA closed the connection in the middle of a message")
		}
		c.log.Warn("closing MTA connection", "stage", s.String(), "err", why)
	}
}

// Context is done when the connection is closed or given up.
func (c *Conn) Context() context.Context { return c.ctx }
