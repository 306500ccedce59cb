package agent

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// What must have TLS never goes without: not when the handshake fails, not when
// the peer's certificate is not the right one, and not at a host of which we
// remember, from other mail, that its STARTTLS is broken.
func TestNoFallbackWhereTLSIsNeeded(t *testing.T) {
	t.Parallel()
	cert, _, _ := pair(t, "another.test")
	broken := new(speaker).listen(t)
	stranger := (&speaker{conf: &tls.Config{Certificates: []tls.Certificate{cert}}}).listen(t)
	s := newStage(t, nil)
	set, err := newSettings(s.config, s.log.logger(), nil)
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
	for _, r := range []*speaker{broken, stranger} {
		for _, remembered := range []bool{false, true} {
			a := &Agent{log: s.log.logger(), metrics: metrics.New("test", nil)}
			if remembered {
				a.hosts.tlsFailed(endpoint{"mx.test", r.addr}, time.Now())
			}
			for _, tt := range needs {
				way := queue.Way{Queue: &config.Queue{TLS: tt.level}}
				before := r.seen()
				c, err := a.dial(t.Context(), set, way, peer{name: "mx.test", addr: r.addr, need: tt.need})
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
				if n := r.seen() - before; n != 1 {
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
	cert, _, _ := pair(t, "mx.victim.test")
	r := (&speaker{conf: &tls.Config{
		Certificates: []tls.Certificate{cert},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != "mx.victim.test" {
				return nil, errors.New("unrecognized name")
			}
			return nil, nil
		},
	}}).listen(t)
	s := newStage(t, func(c *config.Config) { c.Agent.Port = r.addr.Port() })
	set, err := newSettings(s.config, s.log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{log: s.log.logger(), metrics: metrics.New("test", nil)}
	a.now.Store(set)
	secret := func(host string) bool {
		t.Helper()
		way := queue.Way{Site: host, Queue: &config.Queue{TLS: config.TLSOpportunistic}, Plan: &route.Plan{
			Domain: host, Hosts: []route.Host{{Name: host, Addrs: []netip.Addr{r.addr.Addr()}}},
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
	if r.starttls != 3 { // the neighbour's once, the victim's twice
		t.Errorf("%d handshakes", r.starttls)
	}
}

// A handshake that fails once is no reason to keep mail in the clear from a host
// that insists on TLS: at its word TLS is tried again at once.
func TestAHostThatInsistsOnTLSGetsIt(t *testing.T) {
	t.Parallel()
	cert, _, _ := pair(t, "mx.test")
	r := (&speaker{conf: &tls.Config{Certificates: []tls.Certificate{cert}}, insists: true, stumbles: 1}).listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.addr.String()}
		c.General.MaxSessions = 1
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.mails) == 1 })
	s.until("settled", s.empty)
	s.stop()
	if !r.mails[0] || r.starttls != 2 {
		t.Errorf("TLS %v after %d STARTTLS", r.mails, r.starttls)
	}
}
