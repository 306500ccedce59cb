package deliver

import (
	"bytes"
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
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// A relay gets the password when its certificate was verified, when the configuration
// says that any will do, or on loopback; never in the clear. The others get nothing:
// neither mail nor a second try without TLS.
func TestPasswordGoesToVerifiedRelaysOnly(t *testing.T) {
	t.Parallel()
	cert, certFile, _ := smtptest.Pair(t, "relay.test")
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
			r := (&smtptest.Server{Implicit: tt.implicit, Auth: "user secret", Conf: &tls.Config{Certificates: []tls.Certificate{cert}}}).Listen(t)
			set := testSettings(t, func(c *config.Config) {
				if tt.trusted {
					c.Agent.TLSCAFile = certFile
				}
			})
			q := &config.Queue{
				Name: "relayed", TLS: tt.tls, RelayAuthTLS: tt.auth, RelayWrappermode: tt.implicit,
				RelayAuth: &config.Auth{User: "user", Password: "secret"},
			}
			p := settings.Host{Name: "relay.test", Addr: r.Addr}
			if !tt.loopback {
				p.Addr = netip.MustParseAddrPort("192.0.2.1:587")
			}
			o := set.Options(queue.Route{Queue: q}, p, nil)
			o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, r.Addr.String())
			}
			c, err := smtp.Dial(t.Context(), p.Addr, o)
			if err == nil {
				c.Quit(t.Context())
			}
			if again := mayWeaken(&o) && noTLS(err); again {
				t.Errorf("would be tried in the clear after %v", err)
			}
			r.Mu.Lock()
			defer r.Mu.Unlock()
			if (err == nil) != tt.authed || (r.Authed == 1) != tt.authed {
				t.Errorf("%v, %d logins", err, r.Authed)
			}
		})
	}
}

// What our own demand keeps from its relay waits and does not expire, the admin is
// told once in the log and for as long as it lasts by /readyz.
func TestUnverifiedRelayIsToldAndItsMailIsKept(t *testing.T) {
	t.Parallel()
	set := testSettings(t, nil)
	var log bytes.Buffer
	d := testDeliverer(t, set, &log)
	q := &config.Queue{Name: "relayed", TLS: config.TLSOpportunistic, RelayAuthTLS: config.TLSVerify, RelayAuth: &config.Auth{User: "u"}, Expire: time.Hour}
	p := settings.Host{Name: "relay.test", Addr: netip.MustParseAddrPort("192.0.2.1:587")}
	o := set.Options(queue.Route{Queue: q}, p, nil)
	failed := &smtp.Error{Stage: smtp.StageStartTLS, Err: errors.New("certificate signed by unknown authority")}
	waits := func() bool {
		return slices.ContainsFunc(d.Trouble(), func(s string) bool { return strings.HasPrefix(s, "queue relayed waits: ") })
	}
	err := d.relays.note(q, &o, p, &smtp.Error{Stage: smtp.StageConnect, Err: errors.New("connection refused")}, d.log)
	if waits() || settings.Ours(err) {
		t.Error("kept though it was not reached")
	}
	for range 3 {
		err = d.relays.note(q, &o, p, failed, d.log)
	}
	if !waits() || !settings.Ours(err) || !errors.Is(err, failed) {
		t.Errorf("not kept, or not told: %v", d.Trouble())
	}
	if n := strings.Count(log.String(), "queue relayed waits"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	next := *set.Config
	next.Queues = []config.Queue{*q}
	if d.Reload(&next); !waits() {
		t.Error("forgotten at a reload that changes nothing")
	}
	next.Queues = slices.Clone(next.Queues)
	next.Queues[0].RelayAuthTLS = config.TLSRequired
	if d.Reload(&next); waits() {
		t.Error("kept though any certificate will do")
	}
	d.relays.note(q, &o, p, failed, d.log)
	if err := d.relays.note(q, &o, p, nil, d.log); err != nil || waits() {
		t.Errorf("%v: kept after it was verified", err)
	}
	own := &config.Queue{Name: "own", TLS: config.TLSVerify, RelayAuth: q.RelayAuth, Expire: time.Hour}
	o = set.Options(queue.Route{Queue: own}, p, nil)
	if err := d.relays.note(own, &o, p, failed, d.log); settings.Ours(err) {
		t.Error("an admin's own demand lets mail wait for ever")
	}
}
