package agent

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/route/sts"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// A peer whose STARTTLS is broken costs one handshake in a while, not one for
// each connection, where TLS is not required.
func TestBrokenTLSIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	r := new(speaker).listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.addr.String()}
		c.General.MaxMessagesPerConnection, c.General.MaxSessions = 1, 1
	})
	s.start()
	const n = 5
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
		s.until("delivered", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.mails) == i+1 })
		s.until("settled", s.empty)
	}
	s.stop()
	if r.starttls != 1 || len(r.hellos) < n {
		t.Errorf("STARTTLS %d times in %d sessions", r.starttls, len(r.hellos))
	}
}

// Where TLS is required, its failure keeps the mail here.
func TestRequiredTLSIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	r := new(speaker).listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.addr.String()}
		c.General.TLS = config.TLSRequired
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("a second try", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.starttls >= 2 })
	s.stop()
	if len(r.mails) > 0 || strings.Contains(s.log.String(), "bounced") {
		t.Errorf("%d messages without the TLS that is required\n%s", len(r.mails), s.log)
	}
}

func TestRelayTakesImplicitTLSAuthAndAClientCertificate(t *testing.T) {
	t.Parallel()
	cert, certFile, keyFile := pair(t, "relay.test")
	r := (&speaker{implicit: true, auth: "user pass:word", conf: &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
	}}).listen(t)
	auth := &config.Auth{User: "user", Password: "pass:word"}
	s := newStage(t, func(c *config.Config) {
		c.Agent.TLSCAFile, c.Agent.TLSCertFile, c.Agent.TLSKeyFile = certFile, certFile, keyFile
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.addr.String()}
		c.General.TLS, c.General.RelayWrappermode, c.General.RelayAuth = config.TLSVerify, true, auth
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.mails) == 1 })
	s.until("settled", s.empty)
	s.stop()
	if n := len(r.hellos); !r.mails[0] || r.starttls != 0 || r.clients != n || r.authed != n {
		t.Errorf("%d sessions: TLS %v, %d STARTTLS, %d client certificates, %d logins", n, r.mails, r.starttls, r.clients, r.authed)
	}
}

// What a connection must have, against a real server.
func TestTLSLevels(t *testing.T) {
	t.Parallel()
	cert, certFile, _ := pair(t, "mx.test")
	own := []tls.Certificate{cert}
	at := func(least, most uint16) *speaker {
		return (&speaker{conf: &tls.Config{Certificates: own, MinVersion: least, MaxVersion: most}}).listen(t)
	}
	modern, old := at(tls.VersionTLS12, tls.VersionTLS13), at(tls.VersionTLS10, tls.VersionTLS11)
	twelve := at(tls.VersionTLS12, tls.VersionTLS12)
	base := func(c config.Agent) *tlsBase {
		t.Helper()
		b, err := newTLSBase(&c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	trusting, strict, alone := base(config.Agent{TLSCAFile: certFile}), base(config.Agent{TLSCAFile: certFile, TLSMinVersion: config.TLS13}), base(config.Agent{})
	tests := []struct {
		name   string
		base   *tlsBase
		at     *speaker
		level  config.TLS
		host   string
		need   route.Need
		secret bool
		wrong  string
	}{
		{"none", trusting, modern, config.TLSNone, "mx.test", route.Need{}, false, ""},
		{"opportunistic", alone, modern, config.TLSOpportunistic, "mx.test", route.Need{}, true, ""},
		{"opportunistic takes old versions", alone, old, config.TLSOpportunistic, "mx.test", route.Need{}, true, ""},
		{"required does not", alone, old, config.TLSRequired, "mx.test", route.Need{}, false, "protocol version"},
		{"a floor", strict, twelve, config.TLSRequired, "mx.test", route.Need{}, false, "protocol version"},
		{"required minds no certificate", alone, modern, config.TLSRequired, "other.test", route.Need{}, true, ""},
		{"verify", trusting, modern, config.TLSVerify, "mx.test", route.Need{}, true, ""},
		{"verify, another name", trusting, modern, config.TLSVerify, "other.test", route.Need{}, false, "not other.test"},
		{"verify, unknown authority", alone, modern, config.TLSVerify, "mx.test", route.Need{}, false, "certificate"},
		{"verify, an address literal", trusting, modern, config.TLSVerify, "", route.Need{}, true, ""},
		{"mta-sts", trusting, modern, config.TLSOpportunistic, "mx.test", route.Need{Asks: route.Valid}, true, ""},
		{"mta-sts, another name", trusting, modern, config.TLSOpportunistic, "other.test", route.Need{Asks: route.Valid}, false, "not other.test"},
		{"mta-sts testing", alone, modern, config.TLSOpportunistic, "mx.test", route.Need{Asks: route.Report}, true, ""},
		{"unusable tlsa", alone, modern, config.TLSOpportunistic, "mx.test", route.Need{Asks: route.Encrypt}, true, ""},
		{"unusable tlsa keeps verify", alone, modern, config.TLSVerify, "mx.test", route.Need{Asks: route.Encrypt}, false, "certificate"},
		{"dane, nothing matches", trusting, modern, config.TLSVerify, "mx.test", route.Need{Asks: route.Match, ServerName: "mx.test"}, false, "DANE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := smtp.Options{Hello: "client.test"}
			reports := 0
			tt.base.secure(&o, &config.Queue{TLS: tt.level}, peer{name: tt.host, addr: tt.at.addr, need: tt.need}, func(string) { reports++ })
			c, err := smtp.Dial(t.Context(), tt.at.addr, o)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("error %v, want %q", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Quit(t.Context())
			if _, ok := c.TLS(); ok != tt.secret {
				t.Errorf("TLS %v", ok)
			}
			if want := tt.need.Asks == route.Report; (reports == 1) != want {
				t.Errorf("%d reports", reports)
			}
		})
	}
}

// A TLS session is resumed for the same host at the same level only.
func TestTicketsBelongToALevel(t *testing.T) {
	t.Parallel()
	cert, certFile, _ := pair(t, "mx.test")
	r := (&speaker{conf: &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}}).listen(t)
	b, err := newTLSBase(&config.Agent{TLSCAFile: certFile})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.Certificate[0])
	record := dane.Record{Usage: dane.EE, Selector: dane.Cert, Matching: dane.SHA256, Data: string(sum[:])}
	match := func(records ...dane.Record) route.Need {
		return route.Need{Asks: route.Match, ServerName: "mx.test", Records: records}
	}
	for i, tt := range []struct {
		level  config.TLS
		host   string
		need   route.Need
		resume bool
	}{
		{config.TLSOpportunistic, "mx.test", route.Need{}, false},
		{config.TLSOpportunistic, "mx.test", route.Need{}, true},
		{config.TLSVerify, "mx.test", route.Need{}, false},
		{config.TLSVerify, "mx.test", route.Need{}, true},
		{config.TLSOpportunistic, "mx.test", route.Need{Asks: route.Valid}, false},
		{config.TLSRequired, "mx.test", route.Need{}, false},
		{config.TLSOpportunistic, "mx.test", match(record), false},
		{config.TLSOpportunistic, "mx.test", match(record), true},
		{config.TLSOpportunistic, "mx.test", match(record, dane.Record{Usage: dane.EE}), false}, // other records
		{config.TLSOpportunistic, "mx2.test", route.Need{}, false},
		{config.TLSOpportunistic, "mx.test", route.Need{}, true},
	} {
		o := smtp.Options{Hello: "client.test"}
		b.secure(&o, &config.Queue{TLS: tt.level}, peer{name: tt.host, addr: r.addr, need: tt.need}, nil)
		c, err := smtp.Dial(t.Context(), r.addr, o)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := c.TLS()
		c.Quit(t.Context())
		if st.DidResume != tt.resume {
			t.Errorf("%d: resumed %v", i, st.DidResume)
		}
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
		set, err := newSettings(&c, s.log.Logger(), nil)
		if err != nil {
			t.Fatal(err)
		}
		site := ""
		for _, d := range domains {
			w, err := set.route(t.Context(), d)
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

func TestPoliciesChooseAmongHosts(t *testing.T) {
	t.Parallel()
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	why := errors.New("the policy does not name it")
	plan := &route.Plan{Domain: "d.test", Hosts: []route.Host{
		{Name: "mx1.test", Preference: 1, Addrs: addr("192.0.2.1"), Need: route.Need{Asks: route.Avoid, Err: why}},
		{Name: "mx2.test", Preference: 2, Addrs: addr("192.0.2.2"), Need: route.Need{Asks: route.Valid}},
	}}
	s := &settings{config: &config.Config{}}
	peers := func(level config.TLS) (list []string, err error) {
		t.Helper()
		all, err := s.peers(t.Context(), queue.Route{Queue: &config.Queue{TLS: level}, Plan: plan})
		for _, p := range all {
			list = append(list, p.name+" "+p.need.String())
		}
		return list, err
	}
	if got, err := peers(config.TLSOpportunistic); err != nil || !slices.Equal(got, []string{"mx2.test MTA-STS"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := peers(config.TLSNone); err != nil || !slices.Equal(got, []string{"mx1.test none", "mx2.test none"}) {
		t.Errorf("a queue without TLS: %q, %v", got, err)
	}
	plan.Hosts = plan.Hosts[:1]
	if got, err := peers(config.TLSOpportunistic); !errors.Is(err, why) {
		t.Errorf("%q, %v", got, err)
	}
}
