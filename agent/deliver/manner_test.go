package deliver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// withRSA is a certificate for mx.test whose key can exchange keys.
func withRSA(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"}, DNSNames: []string{"mx.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// withNegativeSerial is a certificate as appliances are met to make for themselves.
func withNegativeSerial(t *testing.T, c tls.Certificate) tls.Certificate {
	t.Helper()
	const serial = "\xa0\x03\x02\x01\x02\x02\x01"
	before, after, ok := bytes.Cut(c.Certificate[0], []byte(serial+"\x01"))
	if !ok {
		t.Fatal("there is no serial number of 1")
	}
	c.Certificate = [][]byte{slices.Concat(before, []byte(serial+"\xfb"), after)} // -5; whoever signed it is not asked
	return c
}

// Opportunistic TLS delivers to every receiver: with what its TLS can do, else in the clear,
// and the next connect begins with what worked. What is required is never weakened.
func TestMailIsDeliveredWhereTLSIsOdd(t *testing.T) {
	t.Parallel()
	cert, certFile, keyFile := smtptest.Pair(t, "mx.test")
	byRSA := withRSA(t)
	conf := func(change func(*tls.Config)) *tls.Config {
		c := &tls.Config{Certificates: []tls.Certificate{cert}}
		change(c)
		return c
	}
	refuse := func([][]byte, [][]*x509.Certificate) error { return errors.New("not you") }
	for _, tt := range []struct {
		name     string
		receiver *smtptest.Server
		want     manners.TLS // how it is spoken to in the end
		required bool        // required TLS comes about, too
	}{
		{"well", &smtptest.Server{Conf: conf(func(*tls.Config) {})}, manners.Whole, true},
		{"closes after the handshake", &smtptest.Server{Conf: conf(func(*tls.Config) {}), Mute: true}, manners.Clear, false},
		{"hangs", &smtptest.Server{Silent: true}, manners.Clear, false},
		{"refuses our certificate, TLS 1.3", &smtptest.Server{Conf: conf(func(c *tls.Config) {
			c.ClientAuth, c.VerifyPeerCertificate = tls.RequestClientCert, func(raw [][]byte, x [][]*x509.Certificate) error {
				if len(raw) == 0 {
					return nil
				}
				return refuse(raw, x)
			}
		})}, manners.NoCertificate, false},
		{"refuses our certificate, TLS 1.2", &smtptest.Server{Conf: conf(func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth, c.VerifyPeerCertificate = tls.VersionTLS12, tls.RequestClientCert, func(raw [][]byte, x [][]*x509.Certificate) error {
				if len(raw) == 0 {
					return nil
				}
				return refuse(raw, x)
			}
		})}, manners.NoCertificate, false},
		{"hangs at a large ClientHello", &smtptest.Server{Conf: conf(func(c *tls.Config) {
			c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				if slices.Contains(h.SupportedCurves, tls.X25519MLKEM768) {
					io.Copy(io.Discard, h.Conn)
				}
				return nil, nil
			}
		})}, manners.SmallHello, false},
		{"RSA key exchange only", &smtptest.Server{Conf: &tls.Config{
			Certificates: []tls.Certificate{byRSA}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA},
		}}, manners.Whole, true},
		{"a negative serial number", &smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{withNegativeSerial(t, byRSA)}}}, manners.Whole, true},
		{"3DES only", &smtptest.Server{Conf: &tls.Config{
			Certificates: []tls.Certificate{byRSA}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, CipherSuites: []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA},
		}}, manners.Whole, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := tt.receiver.Listen(t)
			// list is what is wrong with handshakes that may take so long.
			speak := func(patience time.Duration) (list []string) {
				wrong := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
				set := testSettings(t, func(c *config.Config) { c.Agent.TLSCertFile, c.Agent.TLSKeyFile = certFile, keyFile })
				p := settings.Host{Name: "mx.test", Addr: r.Addr}
				options := func(level config.TLS) smtp.Options {
					o := set.Options(queue.Route{Queue: &config.Queue{TLS: level}}, p, nil)
					o.Timeouts.Handshake = patience
					return o
				}
				m := manners.New()
				for i := range 2 {
					before, tries := r.Seen(), 0
					c, err := call(t.Context(), m, p, options(config.TLSOpportunistic), func(manners.TLS, error) { tries++ })
					if err != nil {
						wrong("%v", err)
						return list
					}
					_, secret := c.TLS()
					res, err := c.Send(t.Context(), &smtp.Tx{Sender: "s@a.test", Recipients: []smtp.Rcpt{{Address: "r@b.test"}}, Content: strings.NewReader("x\r\n")})
					if err != nil || res.Recipients[0].Fate != smtp.Accepted {
						wrong("%v, %v", res, err)
					}
					c.Quit(t.Context())
					if got := m.Of(endpoint(p), time.Now()).TLS; got != tt.want || secret != (tt.want != manners.Clear) {
						wrong("spoken to %s, TLS: %v; want %s", got, secret, tt.want)
					}
					if n := r.Seen() - before; i == 1 && n != 1 || n != tries+1 {
						wrong("connect %d took %d connections after %d tries", i, n, tries)
					}
				}
				c, err := call(t.Context(), m, p, options(config.TLSRequired), func(next manners.TLS, _ error) { wrong("required TLS is tried %s", next) })
				if err == nil {
					c.Quit(t.Context())
				}
				if (err == nil) != tt.required || err != nil && !noTLS(err) {
					wrong("required: %v", err)
				}
				o := options(config.TLSOpportunistic)
				o.Auth, r.Auth = &smtp.Auth{User: "user", Password: "secret"}, "user secret"
				if tt.want > manners.NoCertificate { // a ticket of before does without, too
					_, err := call(t.Context(), m, p, o, func(next manners.TLS, _ error) { wrong("with a password it is tried %s", next) })
					if err == nil || r.Authed != 0 {
						wrong("with a password: %v", err)
					}
				}
				return list
			}
			// One that hangs costs all of its time, and one that does not may be slow.
			patience := time.Minute
			if strings.HasPrefix(tt.name, "hangs") {
				patience = time.Second
			}
			list := speak(patience)
			for len(list) > 0 && patience < 30*time.Second {
				patience *= 5
				list = speak(patience)
			}
			for _, wrong := range list {
				t.Errorf("with %v for a handshake: %s", patience, wrong)
			}
		})
	}
}

// What a connect found that was given up in its handshake is remembered, though it has no
// time left for another try.
func TestAHandshakeThatIsGivenUpIsRemembered(t *testing.T) {
	t.Parallel()
	shaking := make(chan struct{})
	r := (&smtptest.Server{Silent: true, Shaking: func() { shaking <- struct{}{} }}).Listen(t)
	set := testSettings(t, func(c *config.Config) { c.Agent.Port = r.Addr.Port() })
	d := testDeliverer(t, set, nil)
	rt := queue.Route{Site: "far", Queue: &config.Queue{TLS: config.TLSOpportunistic}, Plan: &route.Plan{
		Domain: "far.test", Hosts: []route.Host{{Name: "mx.test", Addrs: []netip.Addr{r.Addr.Addr()}}},
	}}
	at := manners.Endpoint{Name: "mx.test", Addr: r.Addr}
	for _, want := range []manners.TLS{manners.SmallHello, manners.Clear} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-shaking
			cancel(errAbandoned)
		}()
		if _, _, _, err := d.connect(ctx, rt, queue.Place{Addr: r.Addr}, new(dialogue.Board).Session("")); err == nil {
			t.Fatal("connected")
		}
		if got := d.manners.Of(at, time.Now()).TLS; got != want {
			t.Errorf("remembered: %s, want %s", got, want)
		}
	}
	c, _, _, err := d.connect(t.Context(), rt, queue.Place{Addr: r.Addr}, new(dialogue.Board).Session(""))
	if err != nil {
		t.Fatal(err)
	}
	c.Quit(t.Context())
}
