package smtp

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
)

// VerifyPeer is asked at every level, also where a session is resumed, and its
// word is the last one: no mail comes after a no.
func TestVerifyPeerJudgesEveryHandshake(t *testing.T) {
	t.Parallel()
	m := newMailbox(t)
	for name, level := range map[string]Level{"opportunistic": Opportunistic, "required": Required, "verify": Verify} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, answer := 0, error(nil)
			o := Options{
				Hello: "client.example", TLS: level, Timeouts: patient(), ServerName: "mx.example",
				TLSConfig: &tls.Config{RootCAs: m.pool, ClientSessionCache: tls.NewLRUClientSessionCache(1)},
				VerifyPeer: func(s tls.ConnectionState) error {
					asked++
					if len(s.PeerCertificates) != 1 || s.PeerCertificates[0].Subject.CommonName != "mx.example" {
						t.Errorf("%d certificates", len(s.PeerCertificates))
					}
					if want := asked > 1; s.DidResume != want {
						t.Errorf("resumed: %v, want %v", s.DidResume, want)
					}
					return answer
				},
			}
			for range 2 {
				c, err := Dial(t.Context(), m.addr, o)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Send(t.Context(), message("s@a.example", "r@b.example")); err != nil {
					t.Fatal(err)
				}
				c.Quit(t.Context())
			}
			answer = errors.New("not the one in the zone")
			_, err := Dial(t.Context(), m.addr, o)
			var e *Error
			if !errors.As(err, &e) || e.Stage != StageStartTLS || !errors.Is(err, answer) || e.Reply.Code != 0 {
				t.Errorf("%v", err)
			}
			if asked != 3 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
	o := Options{Hello: "client.example", Timeouts: patient(), VerifyPeer: func(tls.ConnectionState) error { return io.EOF }}
	c, err := Dial(t.Context(), m.addr, o)
	if err != nil {
		t.Fatalf("on a plain connection: %v", err)
	}
	c.Quit(t.Context())
}

// secure starts a server of implicit TLS and gives its address.
func secure(t *testing.T, conf *tls.Config, seen chan<- tls.ConnectionState) (addr net.Addr) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	s := gosmtp.NewServer(gosmtp.BackendFunc(func(c *gosmtp.Conn) (gosmtp.Session, error) {
		state, _ := c.TLSConnectionState()
		seen <- state
		return &visit{box: &mailbox{}, conn: c}, nil
	}))
	s.ReadTimeout, s.WriteTimeout = patience, patience
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr()
}

// The certificate and the least version of TLSConfig hold, with implicit TLS and
// whatever the level.
func TestClientCertificateAndLeastVersion(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	conf := id.server.Clone()
	conf.ClientAuth, conf.ClientCAs, conf.MaxVersion = tls.RequireAndVerifyClientCert, id.client.RootCAs, tls.VersionTLS12
	seen := make(chan tls.ConnectionState, 1)
	addr := secure(t, conf, seen).(*net.TCPAddr).AddrPort()
	o := Options{
		Hello: "client.example", TLS: Verify, ImplicitTLS: true, Timeouts: patient(), ServerName: "mx.example",
		TLSConfig: &tls.Config{RootCAs: id.client.RootCAs, Certificates: id.server.Certificates},
	}
	c, err := Dial(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	if state := <-seen; len(state.VerifiedChains) == 0 {
		t.Error("the server has not verified the client's certificate")
	}
	if _, err := c.Send(t.Context(), message("s@a.example", "r@b.example")); err != nil {
		t.Error(err)
	}
	c.Quit(t.Context())

	for name, change := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"TLS 1.3":        func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 },
	} {
		bad := o
		bad.TLS, bad.TLSConfig = Opportunistic, o.TLSConfig.Clone()
		change(bad.TLSConfig)
		var e *Error
		if _, err := Dial(t.Context(), addr, bad); !errors.As(err, &e) || e.Stage != StageStartTLS || e.Reply.Code != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
