package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/millrace/millrace/contrib/lab/proxy"
)

// mailbox is a go-smtp server that keeps what it receives.
type mailbox struct {
	addr netip.AddrPort
	pool *x509.CertPool

	mu   sync.Mutex
	mail []letter
}

type letter struct {
	from, to string
	options  gosmtp.MailOptions
	tls      bool
	content  []byte
}

// newMailbox starts a server with a certificate of its own for mx.example.
func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	id := newIdentity(t)
	m := &mailbox{pool: id.client.RootCAs}

	s := gosmtp.NewServer(gosmtp.BackendFunc(func(c *gosmtp.Conn) (gosmtp.Session, error) {
		return &visit{box: m, conn: c}, nil
	}))
	s.Domain = "mx.example"
	s.EnableSMTPUTF8, s.EnableDSN = true, true
	s.MaxMessageBytes = 10 << 20
	s.ReadTimeout, s.WriteTimeout = patience, patience
	s.TLSConfig = id.server
	s.ErrorLog = log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = l.Addr().(*net.TCPAddr).AddrPort()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return m
}

func (m *mailbox) take() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	mail := m.mail
	m.mail = nil
	return mail
}

type visit struct {
	box    *mailbox
	conn   *gosmtp.Conn
	letter letter
}

func (v *visit) Mail(from string, o *gosmtp.MailOptions) error {
	_, encrypted := v.conn.TLSConnectionState()
	v.letter = letter{from: from, options: *o, tls: encrypted}
	return nil
}

func (v *visit) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if to == "nobody@b.example" {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	v.letter.to = to
	return nil
}

func (v *visit) Data(r io.Reader) (err error) {
	if v.letter.content, err = io.ReadAll(r); err != nil {
		return err
	}
	v.box.mu.Lock()
	defer v.box.mu.Unlock()
	v.box.mail = append(v.box.mail, v.letter)
	return nil
}

func (v *visit) Reset()        {}
func (v *visit) Logout() error { return nil }

// Content arrives octet for octet, plain and encrypted, one message after the
// other on a connection.
func TestDeliversOctetForOctet(t *testing.T) {
	t.Parallel()
	all := make([]byte, 0, 256)
	for b := range 256 {
		if b != '\r' && b != '\n' {
			all = append(all, byte(b))
		}
	}
	contents := []string{
		"Subject: x\r\n\r\nhello\r\n",
		"",
		"no line end",
		".\r\n..\r\n...\r\n\r\n.\r\n",
		"8-bit: " + string(all) + "\r\n",
		strings.Repeat(strings.Repeat("x", 990)+"\r\n", 100),
		strings.Repeat("."+strings.Repeat("y", 60)+"\r\n", 80_000), // 5 MB, a dot in each line
		strings.Repeat("\r\n.", 50_000),
	}
	for name, level := range map[string]Level{"plain": None, "opportunistic": Opportunistic, "required": Required, "verify": Verify} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMailbox(t)
			c, err := Dial(t.Context(), m.addr, Options{
				Hello: "client.example", TLS: level, Timeouts: patient(),
				ServerName: "mx.example.", TLSConfig: &tls.Config{RootCAs: m.pool},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			state, encrypted := c.TLS()
			if encrypted != (level != None) {
				t.Errorf("encrypted: %v", encrypted)
			}
			if encrypted && (state.ServerName != "mx.example" || (len(state.VerifiedChains) > 0) != (level == Verify)) {
				t.Errorf("%q, %d chains", state.ServerName, len(state.VerifiedChains))
			}
			if e := c.Extensions(); !e.Pipelining || !e.EightBitMIME || !e.DSN || !e.SMTPUTF8 || e.MaxSize != 10<<20 || e.StartTLS != (level == None) {
				t.Errorf("%+v", e)
			}
			prefix := "Received: from x by y;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
			for i, content := range contents {
				tx := message("s@a.example", "r@b.example", "nobody@b.example")
				tx.Args = []string{"ENVID=x"}
				tx.Prefix, tx.Content, tx.EightBit = []byte(prefix), strings.NewReader(content), true
				tx.Size = int64(len(prefix) + len(content))
				res, err := c.Send(t.Context(), tx)
				if err != nil {
					t.Fatal(err)
				}
				if r := res.Recipients[0]; r.Fate != Accepted || !r.DSNTaken || r.Reply.Code != 250 || r.Reply.Enhanced != "2.0.0" {
					t.Errorf("%+v", r)
				}
				if r := res.Recipients[1]; r.Fate != Refused || r.Stage != StageRcpt || r.Reply.String() != "550 5.1.1 no such user" {
					t.Errorf("%+v", r)
				}
				mail := m.take()
				if len(mail) != 1 {
					t.Fatalf("%d letters", len(mail))
				}
				got := mail[0]
				if !bytes.Equal(got.content, []byte(withEnd(prefix+content))) {
					t.Errorf("content %d: %d octets, want %d", i, len(got.content), len(prefix)+len(content))
				}
				if got.tls != encrypted || got.options.Body != gosmtp.Body8BitMIME || got.options.Size != tx.Size || got.options.EnvelopeID != "x" {
					t.Errorf("%+v", got.options)
				}
				if err := c.Check(); err != nil {
					t.Fatal(err)
				}
			}
			c.Quit(t.Context())
		})
	}
}

func TestVerifyRefusesAnInvalidCertificate(t *testing.T) {
	t.Parallel()
	m := newMailbox(t)
	for name, o := range map[string]Options{
		"unknown root": {ServerName: "mx.example"},
		"other name":   {ServerName: "mx.other.example", TLSConfig: &tls.Config{RootCAs: m.pool}},
		"no name":      {TLSConfig: &tls.Config{RootCAs: m.pool}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Hello, o.TLS, o.Timeouts = "client.example", Verify, patient()
			_, err := Dial(t.Context(), m.addr, o)
			var e *Error
			if !errors.As(err, &e) || e.Stage != StageStartTLS || e.Reply.Code != 0 {
				t.Fatalf("%v", err)
			}
			if ce := (*tls.CertificateVerificationError)(nil); o.ServerName != "" && !errors.As(err, &ce) {
				t.Errorf("%T: %v", e.Err, err)
			}
			o.TLS = Required // any certificate will do
			c, err := Dial(t.Context(), m.addr, o)
			if err != nil {
				t.Fatal(err)
			}
			c.Quit(t.Context())
		})
	}
}

func TestTLSSessionsAreResumed(t *testing.T) {
	t.Parallel()
	m := newMailbox(t)
	o := Options{
		Hello: "client.example", TLS: Opportunistic, ServerName: "mx.example", Timeouts: patient(),
		TLSConfig: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(10)},
	}
	for i := range 3 {
		c, err := Dial(t.Context(), m.addr, o)
		if err != nil {
			t.Fatal(err)
		}
		if s, _ := c.TLS(); s.DidResume != (i > 0) {
			t.Errorf("connection %d resumed: %v", i, s.DidResume)
		}
		c.Quit(t.Context())
	}
}

// A warm message is two writes to the network also through TLS.
func TestWarmMessageIsTwoWritesThroughTLS(t *testing.T) {
	t.Parallel()
	m := newMailbox(t)
	var wire *counted
	c, err := Dial(t.Context(), m.addr, Options{
		Hello: "client.example", TLS: Required, Timeouts: patient(),
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			wire = &counted{Conn: nc}
			return wire, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Quit(t.Context())
	for range 3 {
		before := wire.writes
		tx := message("s@a.example", "r@b.example")
		tx.Content = strings.NewReader(letter8K)
		if _, err := c.Send(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if n := wire.writes - before; n != 2 {
			t.Errorf("%d writes", n)
		}
	}
}

type counted struct {
	net.Conn
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// What a peer says while idle is seen through TLS. Octets that are nothing of
// SMTP's, such as a session ticket or here the beginning of a record, leave the
// connection usable.
func TestCheckThroughTLS(t *testing.T) {
	t.Parallel()
	m := newMailbox(t)
	// The way back from the mailbox can be held in mid record.
	var hold atomic.Bool
	held := make(chan struct{})
	relay, err := proxy.New(proxy.Options{Listen: "127.0.0.1:0", ToClient: func(client io.Writer, server io.Reader) error {
		for b := make([]byte, 32<<10); ; {
			n, err := server.Read(b)
			if err != nil {
				return err
			}
			rest := b[:n]
			if hold.Load() {
				if _, err := client.Write(rest[:1]); err != nil {
					return err
				}
				<-held
				rest = rest[1:]
			}
			if _, err := client.Write(rest); err != nil {
				return err
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	if err := relay.Pass(m.addr.String()); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(relay.Addr())
	c, err := Dial(t.Context(), addr, Options{Hello: "client.example", TLS: Required, Timeouts: patient()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	release := sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	// As far as c knows, nobody has asked for the answer to this.
	if _, err := io.WriteString(c.tls, "NOOP\r\n"); err != nil {
		t.Fatal(err)
	}
	arrived(t, c)
	if err := c.Check(); err != nil {
		t.Fatalf("with half a record: %v", err)
	}
	release()
	arrived(t, c)
	var e *Error
	if err := c.Check(); !errors.As(err, &e) || e.Reply.Code != 250 || !errors.Is(err, ErrOutOfTurn) {
		t.Errorf("with a reply: %v", err)
	}
}
