package deliver

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// What must have TLS never goes without: not when the handshake fails, not when
// the peer's certificate is not the right one, and not at a host of which we
// remember, from other mail, that its STARTTLS is broken.
func TestNoFallbackWhereTLSIsNeeded(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "another.test")
	broken := new(smtptest.Server).Listen(t)
	stranger := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{cert}}}).Listen(t)
	set := testSettings(t, nil)
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
			d := testDeliverer(t, set, nil)
			if remembered {
				d.manners.TLSFailed(manners.Endpoint{Name: "mx.test", Addr: r.Addr}, manners.SmallHello, false, time.Now())
			}
			for _, tt := range needs {
				rt := queue.Route{Queue: &config.Queue{TLS: tt.level}}
				before := r.Seen()
				c, err := d.dial(t.Context(), set, rt, settings.Host{Name: "mx.test", Addr: r.Addr, Need: tt.need}, new(dialogue.Board).Session(""))
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
// handshake under that name comes about, breaks nobody's TLS: no name is sent that is not
// verified.
func TestANeighboursNameDoesNotBreakTLS(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "mx.victim.test")
	r := (&smtptest.Server{Conf: &tls.Config{
		Certificates: []tls.Certificate{cert},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != "" && h.ServerName != "mx.victim.test" {
				return nil, errors.New("unrecognized name")
			}
			return nil, nil
		},
	}}).Listen(t)
	set := testSettings(t, func(c *config.Config) { c.Agent.Port = r.Addr.Port() })
	d := testDeliverer(t, set, nil)
	secret := func(host string) bool {
		t.Helper()
		rt := queue.Route{Site: host, Queue: &config.Queue{TLS: config.TLSOpportunistic}, Plan: &route.Plan{
			Domain: host, Hosts: []route.Host{{Name: host, Addrs: []netip.Addr{r.Addr.Addr()}}},
		}}
		c, _, _, err := d.connect(t.Context(), rt, queue.Place{Addr: r.Addr}, new(dialogue.Board).Session(""))
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		defer c.Quit(t.Context())
		_, ok := c.TLS()
		return ok
	}
	for range 2 {
		if !secret("mx.neighbour.test") {
			t.Error("mail to the neighbour goes in the clear")
		}
		if !secret("mx.victim.test") {
			t.Error("mail to the victim goes in the clear")
		}
	}
	if r.StartTLS != 4 {
		t.Errorf("%d handshakes", r.StartTLS)
	}
}
