package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// A relay gets the password when its certificate was verified, when the configuration
// says that any will do, or on loopback; never in the clear. The others get nothing:
// neither mail nor a second try without TLS.
func TestPasswordGoesToVerifiedRelaysOnly(t *testing.T) {
	t.Parallel()
	cert, certFile, _ := pair(t, "relay.test")
	for _, tt := range []struct {
		name     string
		tls      config.TLS
		auth     config.TLS // relay_auth_tls
		implicit bool
		trusted  bool // the certificate is valid
		loopback bool
		authed   bool
	}{
		{"opportunistic, valid", config.TLSOpportunistic, config.TLSVerify, false, true, false, true},
		{"opportunistic", config.TLSOpportunistic, config.TLSVerify, false, false, false, false},
		{"required", config.TLSRequired, config.TLSVerify, false, false, false, false},
		{"required, valid", config.TLSRequired, config.TLSVerify, false, true, false, true},
		{"verify", config.TLSVerify, config.TLSVerify, false, false, false, false},
		{"wrapped", config.TLSOpportunistic, config.TLSVerify, true, false, false, false},
		{"wrapped, valid", config.TLSOpportunistic, config.TLSVerify, true, true, false, true},
		{"wrapped without a level", config.TLSNone, config.TLSVerify, true, false, false, false},
		{"wrapped without a level, valid", config.TLSNone, config.TLSVerify, true, true, false, true},
		{"any will do", config.TLSOpportunistic, config.TLSRequired, false, false, false, true},
		{"any will do, wrapped", config.TLSRequired, config.TLSRequired, true, false, false, true},
		{"any will do, but for verify", config.TLSVerify, config.TLSRequired, false, false, false, false},
		{"no TLS", config.TLSNone, config.TLSVerify, false, true, false, false},
		{"no TLS, any will do", config.TLSNone, config.TLSRequired, false, true, false, false},
		{"loopback", config.TLSOpportunistic, config.TLSVerify, false, false, true, true},
		{"loopback without TLS", config.TLSNone, config.TLSVerify, false, false, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := (&speaker{implicit: tt.implicit, auth: "user secret", conf: &tls.Config{Certificates: []tls.Certificate{cert}}}).listen(t)
			s := newStage(t, func(c *config.Config) {
				if tt.trusted {
					c.Agent.TLSCAFile = certFile
				}
			})
			set, err := newSettings(s.config, s.log.logger(), nil)
			if err != nil {
				t.Fatal(err)
			}
			q := &config.Queue{
				Name: "relayed", TLS: tt.tls, RelayAuthTLS: tt.auth, RelayWrappermode: tt.implicit,
				RelayAuth: &config.Auth{User: "user", Password: "secret"},
			}
			p := peer{name: "relay.test", addr: r.addr}
			if !tt.loopback {
				p.addr = netip.MustParseAddrPort("192.0.2.1:587")
			}
			o := set.options(queue.Way{Queue: q}, p, nil)
			o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, r.addr.String())
			}
			c, err := smtp.Dial(t.Context(), p.addr, o)
			if err == nil {
				c.Quit(t.Context())
			}
			if again := mayFallBack(&o, err); again {
				t.Errorf("would be tried in the clear after %v", err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if (err == nil) != tt.authed || (r.authed == 1) != tt.authed {
				t.Errorf("%v, %d logins", err, r.authed)
			}
		})
	}
}

// What our own demand keeps from its relay waits and does not expire, the admin is
// told once in the log and for as long as it lasts by /readyz.
func TestUnverifiedRelayIsToldAndItsMailIsKept(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	a := s.start()
	q := &config.Queue{Name: "relayed", TLS: config.TLSOpportunistic, RelayAuthTLS: config.TLSVerify, RelayAuth: &config.Auth{User: "u"}, Expire: time.Hour}
	p := peer{name: "relay.test", addr: netip.MustParseAddrPort("192.0.2.1:587")}
	set := a.now.Load()
	o := set.options(queue.Way{Queue: q}, p, nil)
	failed := &smtp.Error{Stage: smtp.StageStartTLS, Err: errors.New("certificate signed by unknown authority")}
	waits := func() bool {
		return slices.ContainsFunc(a.notReady(), func(s string) bool { return strings.HasPrefix(s, "queue relayed waits: ") })
	}
	err := a.relays.note(q, &o, p, &smtp.Error{Stage: smtp.StageConnect, Err: errors.New("connection refused")}, a.log)
	if waits() || ours(err) {
		t.Error("kept though it was not reached")
	}
	for range 3 {
		err = a.relays.note(q, &o, p, failed, a.log)
	}
	if !waits() || !ours(err) || !errors.Is(err, failed) {
		t.Errorf("not kept, or not told: %v", a.notReady())
	}
	if n := strings.Count(s.log.String(), "queue relayed waits"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	next := *s.config
	next.Queues = []config.Queue{*q}
	if err := a.Reload(&next); err != nil || !waits() {
		t.Errorf("%v: forgotten at a reload that changes nothing", err)
	}
	next.Queues = slices.Clone(next.Queues)
	next.Queues[0].RelayAuthTLS = config.TLSRequired
	if err := a.Reload(&next); err != nil || waits() {
		t.Errorf("%v: kept though any certificate will do", err)
	}
	a.relays.note(q, &o, p, failed, a.log)
	if err := a.relays.note(q, &o, p, nil, a.log); err != nil || waits() {
		t.Errorf("%v: kept after it was verified", err)
	}
	own := &config.Queue{Name: "own", TLS: config.TLSVerify, RelayAuth: q.RelayAuth, Expire: time.Hour}
	o = set.options(queue.Way{Queue: own}, p, nil)
	if err := a.relays.note(own, &o, p, failed, a.log); ours(err) {
		t.Error("an admin's own demand lets mail wait for ever")
	}
}

// Credentials that others can read are not used: the relay is not even called, the
// mail waits, the agent runs and says why.
func TestMailWaitsForCredentialsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := (&speaker{auth: "user secret"}).listen(t)
	const why = "relay_auth_file: group users can read \"/etc/auth\""
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.addr.String()}
		c.General.RelayAuthFile, c.General.RelayAuthRefused = "/etc/auth", why
		c.Refused = []config.Notice{{File: "millrace.toml", Line: 7, Text: why}}
	})
	a := s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("a try", func() bool { return strings.Contains(s.log.String(), "msg=connect") && s.status().Waiting == 1 })
	if r.seen() != 0 || !strings.Contains(s.log.String(), "group users can read") {
		t.Errorf("%d connections\n%s", r.seen(), s.log)
	}
	if !slices.Contains(a.notReady(), "millrace.toml:7: "+why) {
		t.Errorf("/readyz: %v", a.notReady())
	}
}
