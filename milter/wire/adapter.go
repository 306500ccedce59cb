package wire

import (
	"context"
	"net/textproto"
	"runtime/debug"

	"github.com/emersion/go-milter"
)

// adapter is the engine's backend. It is asked for the two decisions of a
// message; nothing else reaches the engine that has a backend's answer.
type adapter struct {
	milter.NoOpMilter
	c *Conn
}

var _ milter.Milter = adapter{}

// reply is a response after which the engine keeps its backend, whatever the
// code says: connection data must outlive a verdict.
type reply byte

var _ milter.Response = reply(0)

func (r reply) Response() *milter.Message { return &milter.Message{Code: byte(r)} }
func (r reply) Continue() bool            { return true }

// Headers asks for the decision at the end of the headers.
func (a adapter) Headers(textproto.MIMEHeader, *milter.Modifier) (milter.Response, error) {
	return a.verdict(a.c.handler.EndOfHeaders), nil
}

// Body asks for the decision at the end of the message. The protocol lets the
// last piece of the body come with it.
func (a adapter) Body(*milter.Modifier) (milter.Response, error) {
	if c := a.c; len(c.cur.data) > 0 && !c.broken {
		c.broken = !guarded(c, func() { c.handler.Body(c.cur.data) })
	}
	return a.verdict(a.c.handler.EndOfMessage), nil
}

// verdict runs a handler's decision and prepares its write. A message over
// which a handler panicked is the MTA's.
func (a adapter) verdict(decide func(context.Context) Verdict) reply {
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
	return reply(v.Action)
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
