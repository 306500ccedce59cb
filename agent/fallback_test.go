package agent

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/hosts"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/smtp/smtptest"
	"github.com/millrace/millrace/agent/spool"
)

// What must have TLS never goes without: not when the handshake fails, not when
// the peer's certificate is not the right one, and not at a host of which we
// remember, from other mail, that its STARTTLS is broken.
func TestNoFallbackWhereTLSIsNeeded(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "another.test")
	broken := new(smtptest.Server).Listen(t)
	stranger := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{cert}}}).Listen(t)
	s := newStage(t, nil)
	set, err := settings.New(s.config, s.log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	records := []dane.Record{{Usage: dane.EE, Selector: dane.Cert, Matching: dane.SHA256, Data: "of another"}}
	needs := []struct {
		name  string
		level config.TLS
		need  route.Need
		any   bool // any certificate will do
	}{
		{"required", config.TLSRequired, route.Need{}, true},
		{"verify", config.TLSVerify, route.Need{}, false},
		{"MTA-STS", config.TLSOpportunistic, route.Need{Asks: route.Valid}, false},
		{"DANE", config.TLSOpportunistic, route.Need{Asks: route.Match, ServerName: "mx.test", Records: records}, false},
		{"DANE without a usable record", config.TLSOpportunistic, route.Need{Asks: route.Encrypt}, true},
	}
	for _, r := range []*smtptest.Server{broken, stranger} {
		for _, remembered := range []bool{false, true} {
			a := &Agent{log: s.log.logger(), metrics: metrics.New("test", nil), hosts: hosts.New(queue.HangAfter)}
			if remembered {
				a.hosts.TLSFailed(hosts.Endpoint{Name: "mx.test", Addr: r.Addr}, time.Now())
			}
			for _, tt := range needs {
				way := queue.Route{Queue: &config.Queue{TLS: tt.level}}
				before := r.Seen()
				c, err := a.dial(t.Context(), set, way, settings.Host{Name: "mx.test", Addr: r.Addr, Need: tt.need})
				if err == nil {
					_, secret := c.TLS()
					c.Quit(t.Context())
					if !secret || r != stranger || !tt.any {
						t.Errorf("%s, remembered %v: connected, TLS %v", tt.name, remembered, secret)
					}
					continue
				}
				if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Stage != smtp.StageStartTLS || r == stranger && tt.any {
					t.Errorf("%s, remembered %v: %v", tt.name, remembered, err)
				}
				if n := r.Seen() - before; n != 1 {
					t.Errorf("%s, remembered %v: %d connections, want one and no second try", tt.name, remembered, n)
				}
			}
		}
	}
}

// Whoever has a mail exchanger of his own lead to another's address, where no
// handshake under that name comes about, breaks the TLS of his own mail only.
func TestANeighboursNameDoesNotBreakTLS(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "mx.victim.test")
	r := (&smtptest.Server{Conf: &tls.Config{
		Certificates: []tls.Certificate{cert},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != "mx.victim.test" {
				return nil, errors.New("unrecognized name")
			}
			return nil, nil
		},
	}}).Listen(t)
	s := newStage(t, func(c *config.Config) { c.Agent.Port = r.Addr.Port() })
	set, err := settings.New(s.config, s.log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{log: s.log.logger(), metrics: metrics.New("test", nil), hosts: hosts.New(queue.HangAfter)}
	a.settings = settings.NewSource(set)
	secret := func(host string) bool {
		t.Helper()
		way := queue.Route{Site: host, Queue: &config.Queue{TLS: config.TLSOpportunistic}, Plan: &route.Plan{
			Domain: host, Hosts: []route.Host{{Name: host, Addrs: []netip.Addr{r.Addr.Addr()}}},
		}}
		c, _, _, err := a.connect(t.Context(), way)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		defer c.Quit(t.Context())
		_, ok := c.TLS()
		return ok
	}
	for range 2 {
		if secret("mx.neighbour.test") {
			t.Error("the neighbour's handshake came about")
		}
		if !secret("mx.victim.test") {
			t.Error("mail to the victim goes in the clear")
		}
	}
	if r.StartTLS != 3 { // the neighbour's once, the victim's twice
		t.Errorf("%d handshakes", r.StartTLS)
	}
}

// A handshake that fails once is no reason to keep mail in the clear from a host
// that insists on TLS: at its word TLS is tried again at once.
func TestAHostThatInsistsOnTLSGetsIt(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "mx.test")
	r := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{cert}}, Insists: true, Stumbles: 1}).Listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.Addr.String()}
		c.General.MaxSessions = 1
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { r.Mu.Lock(); defer r.Mu.Unlock(); return len(r.Mails) == 1 })
	s.until("settled", s.empty)
	s.stop()
	if !r.Mails[0] || r.StartTLS != 2 {
		t.Errorf("TLS %v after %d STARTTLS", r.Mails, r.StartTLS)
	}
}
