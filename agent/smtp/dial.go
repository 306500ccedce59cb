package smtp

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/netip"
	"strings"
)

// Dial connects to addr, or to o.Socket, and brings the connection up: greeting, EHLO or HELO,
// STARTTLS and the second EHLO as o.TLS says. Each step has its timeout; ctx
// interrupts them all, and has no hold on the connection afterwards.
//
// The error is an *Error. One with StageStartTLS means that TLS did not come
// about: nothing is tried again here. With Opportunistic a peer that does not
// offer STARTTLS or answers it with 4xx or 5xx is spoken to in plain text;
// where the handshake fails the connection is gone, and the caller may dial
// again with None.
func Dial(ctx context.Context, addr netip.AddrPort, o Options) (*Conn, error) {
	if !isHello(o.Hello) {
		return nil, &Error{Stage: StageConnect, Err: ErrBadHello}
	}
	t := o.Timeouts.orDefault(o.TLS == Opportunistic && !o.ImplicitTLS)
	network, to := "tcp", addr.String()
	if o.Socket != "" {
		network, to = "unix", o.Socket
	}
	dial := o.Dial
	if dial == nil {
		var d net.Dialer
		if o.Local.IsValid() && network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Local, 0))
		}
		dial = d.DialContext
	}
	connect, cancel := context.WithTimeout(ctx, t.Connect)
	defer cancel()
	nc, err := dial(connect, network, to)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &Error{Stage: StageConnect, Err: err}
	}

	c := newConn(nc, addr, t, o.Trace, o.Traced)
	c.ignore = o.Ignore
	c.note("connected to %s", to)
	c.wire.bind(ctx)
	if err := c.open(&o); err != nil {
		return nil, err
	}
	c.wire.release()
	return c, nil
}

// open takes the dialogue to where MAIL may follow.
func (c *Conn) open(o *Options) error {
	if o.ImplicitTLS {
		if err := c.encrypt(o); err != nil {
			return err
		}
	}
	if err := c.reply(c.timeouts.Greeting, nil); err != nil {
		return c.fail(StageGreeting, err)
	}
	if c.replies.code/100 != 2 {
		return c.refused(StageGreeting)
	}
	if err := c.hello(o.Hello); err != nil {
		return err
	}
	if !o.ImplicitTLS {
		if err := c.startTLS(o); err != nil {
			return err
		}
	}
	if o.Auth == nil {
		return nil
	}
	return c.auth(o.Auth, o.TLS == Verify)
}

// hello says EHLO, and HELO where that is refused. RFC 5321 3.2 has that for 5xx; servers are
// met that say 4xx and mean the same, and smtp(8) asks them all the same, but after 421.
func (c *Conn) hello(name string) error {
	c.ext = Extensions{}
	first := true
	err := c.ask(StageHello, "EHLO "+name, func(text []byte) {
		if !first { // the first line is the server's name
			c.ext.add(text, c.ignore)
		}
		first = false
	})
	if err != nil {
		return err
	}
	if c.replies.code/100 == 2 {
		return nil
	}
	c.ext = Extensions{}
	if err := c.ask(StageHello, "HELO "+name, nil); err != nil {
		return err
	}
	if c.replies.code/100 != 2 {
		return c.refused(StageHello)
	}
	return nil
}

// startTLS says STARTTLS (RFC 3207) as far as the level wants it, shakes hands
// and says EHLO again: what was offered before may have been forged.
func (c *Conn) startTLS(o *Options) error {
	if o.TLS == None {
		return nil
	}
	if !c.ext.StartTLS {
		if o.TLS == Opportunistic {
			return nil
		}
		c.goodbye()
		return c.fail(StageStartTLS, ErrNoTLS)
	}
	if err := c.ask(StageStartTLS, "STARTTLS", nil); err != nil {
		return err
	}
	if code := c.replies.code; code/100 != 2 {
		if o.TLS == Opportunistic && code/100 != 3 {
			return nil
		}
		return c.refused(StageStartTLS)
	}
	if c.replies.unread() {
		// Sent in the clear, it would be taken for a reply from inside TLS.
		return c.fail(StageStartTLS, ErrOutOfTurn)
	}
	if err := c.encrypt(o); err != nil {
		return err
	}
	return c.hello(o.Hello)
}

// encrypt shakes hands and lets the caller's policy judge the peer.
func (c *Conn) encrypt(o *Options) error {
	var conf *tls.Config
	if o.TLSConfig != nil {
		conf = o.TLSConfig.Clone()
	} else {
		conf = &tls.Config{}
	}
	conf.ServerName = strings.TrimSuffix(o.ServerName, ".")
	conf.InsecureSkipVerify = o.TLS != Verify
	conf.DynamicRecordSizingDisabled = true // a record is a write; small ones help only browsers

	tc := tls.Client(c.wire.raw, conf)
	if err := c.wire.handshake(tc, c.timeouts.Handshake); err != nil {
		return c.fail(StageStartTLS, err)
	}
	c.tls, c.heard = tc, false
	if c.traces() {
		c.note("%s", describe(tc.ConnectionState()))
	}
	if o.VerifyPeer == nil {
		return nil
	}
	// Not left to tls.Config.VerifyConnection: with TLS 1.3 the peer would learn
	// of it as a broken handshake, and so may look like one that cannot do TLS.
	if err := o.VerifyPeer(tc.ConnectionState()); err != nil {
		c.goodbye()
		return c.fail(StageStartTLS, err)
	}
	return nil
}

// auth logs in. PLAIN comes first: one flight less. verified says that TLS, if there
// is any, came about only with a valid certificate.
func (c *Conn) auth(a *Auth, verified bool) error {
	if !c.addr.Addr().Unmap().IsLoopback() {
		var err error
		switch {
		case c.tls == nil:
			err = ErrAuthInClear
		case !verified && !a.AnyCertificate:
			err = ErrAuthUnverified
		}
		if err != nil {
			c.goodbye()
			return c.fail(StageAuth, err)
		}
	}
	base64 := base64.StdEncoding.EncodeToString
	var err error
	switch {
	case c.ext.AuthPlain:
		err = c.ask(StageAuth, "AUTH PLAIN "+base64([]byte("\x00"+a.User+"\x00"+a.Password)), nil)
	case c.ext.AuthLogin:
		// Both prompts are taken on trust; servers word them differently.
		err = c.ask(StageAuth, "AUTH LOGIN", nil)
		for _, answer := range []string{a.User, a.Password} {
			if err == nil && c.replies.code == 334 {
				err = c.ask(StageAuth, base64([]byte(answer)), nil)
			}
		}
	default:
		c.goodbye()
		return c.fail(StageAuth, ErrNoAuth)
	}
	if err == nil && c.replies.code/100 != 2 {
		err = c.refused(StageAuth)
	}
	return err
}

// ask writes one command and reads its reply, a Timeouts.Hello each. 421 is an
// error wherever it comes.
func (c *Conn) ask(stage Stage, command string, each func([]byte)) error {
	line := []byte(command + "\r\n")
	if stage == StageAuth {
		c.traceCommands([]byte(masked(command)))
	} else {
		c.traceCommands(line)
	}
	if _, err := c.wire.write(line, c.timeouts.Hello); err != nil {
		return c.fail(stage, err)
	}
	if err := c.reply(c.timeouts.Hello, each); err != nil {
		return c.fail(stage, err)
	}
	if c.replies.code == 421 {
		return c.refused(stage)
	}
	return nil
}

// refused ends the connection over the reply just read.
func (c *Conn) refused(stage Stage) error {
	if c.replies.code != 421 {
		c.goodbye()
	}
	return c.failReply(stage, nil)
}

// goodbye says QUIT without waiting for the answer; a full buffer is no reason
// to wait either.
func (c *Conn) goodbye() {
	_ = c.say([]byte("QUIT\r\n"), c.timeouts.Quit)
}
