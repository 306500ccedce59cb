package agent

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route/sts"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// A peer whose STARTTLS is broken costs one handshake in a while, not one for
// each connection, where TLS is not required.
func TestBrokenTLSIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	r := new(smtptest.Server).Listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.Addr.String()}
		c.General.MaxMessagesPerConnection, c.General.MaxSessions = 1, 1
	})
	s.start()
	const n = 5
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
		s.until("delivered", func() bool { r.Mu.Lock(); defer r.Mu.Unlock(); return len(r.Mails) == i+1 })
		s.until("settled", s.empty)
	}
	s.stop()
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if r.StartTLS != 2 || len(r.Hellos) < n { // whole, and with a small ClientHello
		t.Errorf("STARTTLS %d times in %d sessions", r.StartTLS, len(r.Hellos))
	}
}

// Where TLS is required, its failure keeps the mail here.
func TestRequiredTLSIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	r := new(smtptest.Server).Listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.Addr.String()}
		c.General.TLS = config.TLSRequired
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("a second try", func() bool { r.Mu.Lock(); defer r.Mu.Unlock(); return r.StartTLS >= 2 })
	s.stop()
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if len(r.Mails) > 0 || strings.Contains(s.log.String(), "bounced") {
		t.Errorf("%d messages without the TLS that is required\n%s", len(r.Mails), s.log)
	}
}

func TestRelayTakesImplicitTLSAuthAndAClientCertificate(t *testing.T) {
	t.Parallel()
	cert, certFile, keyFile := smtptest.Pair(t, "relay.test")
	r := (&smtptest.Server{Implicit: true, Auth: "user pass:word", Conf: &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
	}}).Listen(t)
	auth := &config.Auth{User: "user", Password: "pass:word"}
	s := newStage(t, func(c *config.Config) {
		c.Agent.TLSCAFile, c.Agent.TLSCertFile, c.Agent.TLSKeyFile = certFile, certFile, keyFile
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.Addr.String()}
		c.General.TLS, c.General.RelayWrappermode, c.General.RelayAuth = config.TLSVerify, true, auth
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { r.Mu.Lock(); defer r.Mu.Unlock(); return len(r.Mails) == 1 })
	s.until("settled", s.empty)
	s.stop()
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if n := len(r.Hellos); !r.Mails[0] || r.StartTLS != 0 || r.Clients != n || r.Authed != n {
		t.Errorf("%d sessions: TLS %v, %d STARTTLS, %d client certificates, %d logins", n, r.Mails, r.StartTLS, r.Clients, r.Authed)
	}
}

// Domains with the same hosts share a destination, and so its sessions, only if
// their policies come to the same; they share the site's limits in any case.
func TestSessionsAreNotSharedAcrossPolicies(t *testing.T) {
	t.Parallel()
	domains := []string{"strict1.test", "strict2.test", "other.test", "trial.test", "plain.test"}
	s := newStage(t, func(c *config.Config) { c.Agent.StateDirectory = t.TempDir() },
		sink.Provider{Name: "far", Domains: domains, Hosts: 2})
	dir := filepath.Join(s.config.Agent.StateDirectory, "mta-sts")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for domain, policy := range map[string]string{
		"strict1.test": "mode: enforce\nmx: *.far.test\n", "strict2.test": "mode: enforce\nmx: mx1.far.test\nmx: mx2.far.test\n",
		"other.test": "mode: enforce\nmx: mx1.far.test\n", "trial.test": "mode: testing\nmx: mx1.far.test\n",
	} {
		text := "domain: " + domain + "\nid: 1\nfetched: " + time.Now().UTC().Format(time.RFC3339) +
			"\n\nversion: STSv1\nmax_age: 86400\n" + policy
		if err := os.WriteFile(filepath.Join(dir, sts.FileName(domain)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keys := make(map[string]string)
	look := func(level config.TLS) {
		t.Helper()
		c := *s.config
		c.General.TLS = level
		set, err := settings.New(&c, s.log.Logger(), nil)
		if err != nil {
			t.Fatal(err)
		}
		site := ""
		for _, d := range domains {
			w, err := set.Route(t.Context(), d, true)
			if err != nil {
				t.Fatal(err)
			}
			if site != "" && site != w.Site {
				t.Errorf("%s: site %q, not %q", d, w.Site, site)
			}
			keys[d], site = w.Key, w.Site
		}
	}
	look(config.TLSOpportunistic)
	if keys["strict1.test"] != keys["strict2.test"] {
		t.Errorf("the same hosts at the same level: %q and %q", keys["strict1.test"], keys["strict2.test"])
	}
	if keys["trial.test"] != keys["plain.test"] {
		t.Errorf("testing asks for nothing: %q and %q", keys["trial.test"], keys["plain.test"])
	}
	if keys["strict1.test"] == keys["plain.test"] || keys["strict1.test"] == keys["other.test"] || keys["other.test"] == keys["plain.test"] {
		t.Errorf("policies that differ share a destination: %v", keys)
	}
	verify := keys["plain.test"]
	look(config.TLSVerify)
	if keys["plain.test"] == verify {
		t.Error("another level, the same destination")
	}
	look(config.TLSNone)
	if keys["strict1.test"] != keys["plain.test"] {
		t.Error("a queue without TLS minds policies")
	}
}
