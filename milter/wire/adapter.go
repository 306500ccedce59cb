package wire

import (
	"context"
	"net"
	"net/textproto"
	"runtime/debug"

	"github.com/emersion/go-milter"
)

// adapter is the engine's backend: it hands each call on to the Handler, with
// the packet as it came instead of what the engine made of it.
type adapter struct{ c *Conn }

var _ milter.Milter = adapter{}

// reply is a response after which the engine keeps its backend, whatever the
// code says: connection data must outlive a verdict.
type reply byte

var _ milter.Response = reply(0)

func (r reply) Response() *milter.Message { return &milter.Message{Code: byte(r)} }
func (r reply) Continue() bool            { return true }

// Connect hands on the SMTP client's name and address.
func (a adapter) Connect(string, string, uint16, net.IP, *milter.Modifier) (milter.Response, error) {
	client, err := parseClient(a.c.cur.data)
	if err != nil {
		return nil, err
	}
	return a.step(func() { a.c.handler.Connect(client) })
}

// Helo hands on the HELO name.
func (a adapter) Helo(name string, _ *milter.Modifier) (milter.Response, error) {
	return a.step(func() { a.c.handler.Helo(name) })
}

// MailFrom hands on the sender with its arguments.
func (a adapter) MailFrom(string, *milter.Modifier) (milter.Response, error) {
	a.c.broken, a.c.headerLen, a.c.headerCut = false, 0, false
	s, _ := cstrings(a.c.cur.data)
	return a.step(func() { a.c.handler.Mail(s[0], s[1:]) })
}

// RcptTo hands on a recipient with its arguments.
func (a adapter) RcptTo(string, *milter.Modifier) (milter.Response, error) {
	s, _ := cstrings(a.c.cur.data)
	return a.step(func() { a.c.handler.Rcpt(s[0], s[1:]) })
}

// Header hands on a field.
func (a adapter) Header(string, string, *milter.Modifier) (milter.Response, error) {
	s, _ := cstrings(a.c.cur.data)
	return a.step(func() { a.c.handler.Header(s[0], s[1]) })
}

// Headers asks for the decision at the end of the headers.
func (a adapter) Headers(textproto.MIMEHeader, *milter.Modifier) (milter.Response, error) {
	return a.verdict(a.c.handler.EndOfHeaders)
}

// BodyChunk hands on a piece of the body.
func (a adapter) BodyChunk([]byte, *milter.Modifier) (milter.Response, error) {
	return a.step(func() { a.c.handler.Body(a.c.cur.data) })
}

// Body asks for the decision at the end of the message. The protocol lets the
// last piece of the body come with it.
func (a adapter) Body(*milter.Modifier) (milter.Response, error) {
	if len(a.c.cur.data) > 0 {
		if _, err := a.step(func() { a.c.handler.Body(a.c.cur.data) }); err != nil {
			return nil, err
		}
	}
	return a.verdict(a.c.handler.EndOfMessage)
}

// Abort ends the message in hand, if there is one: the engine is also given an
// ABORT to make it forget a message that has its verdict.
func (a adapter) Abort(*milter.Modifier) error {
	a.c.stored = false
	a.c.macros.endMessage()
	if a.c.aborting {
		_, err := a.step(a.c.handler.Abort)
		return err
	}
	return nil
}

// step runs a handler's call and answers only if an answer is due.
func (a adapter) step(f func()) (milter.Response, error) {
	if !a.c.broken {
		a.c.broken = !guarded(a.c, f)
	}
	if !a.c.terms.replies(a.c.cur.code) {
		return nil, nil
	}
	return reply(Continue), nil
}

// verdict runs a handler's decision and prepares its write. A message over
// which a handler panicked is the MTA's.
func (a adapter) verdict(decide func(context.Context) Verdict) (milter.Response, error) {
	v := Verdict{Action: Accept}
	if !a.c.broken {
		if !guarded(a.c, func() { v = decide(a.c.ctx) }) {
			guarded(a.c, a.c.handler.Abort)
			v = Verdict{Action: Accept}
		}
	} else {
		guarded(a.c, a.c.handler.Abort)
	}
	next := idle
	if v.Action == Continue && a.c.cur.code == milter.CodeEOH {
		next = body
	} else {
		a.c.macros.endMessage()
	}
	a.c.mu.Lock()
	a.c.stage = next
	a.c.mu.Unlock()
	for _, rcpt := range v.Delete {
		a.c.prelude = appendPacket(a.c.prelude, byte(milter.ActDelRcpt), rcpt+"\x00")
	}
	a.c.written = v.Written
	return reply(v.Action), nil
}

// guarded runs a handler's call and reports whether it came back. A panic is
// logged here: mail of others must go on.
func guarded(c *Conn, f func()) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			c.log.Error("panic over a message, leaving it with the host", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f()
	return true
}
