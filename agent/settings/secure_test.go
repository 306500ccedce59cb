package settings

import (
	"crypto/sha256"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// What a connection must have, against a real server.
func TestTLSLevels(t *testing.T) {
	t.Parallel()
	cert, certFile, _ := smtptest.Pair(t, "mx.test")
	own := []tls.Certificate{cert}
	at := func(least, most uint16) *smtptest.Server {
		return (&smtptest.Server{Conf: &tls.Config{Certificates: own, MinVersion: least, MaxVersion: most}}).Listen(t)
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
		at     *smtptest.Server
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
			tt.base.secure(&o, &config.Queue{TLS: tt.level}, Host{Name: tt.host, Addr: tt.at.Addr, Need: tt.need}, func(string) { reports++ })
			c, err := smtp.Dial(t.Context(), tt.at.Addr, o)
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
	cert, certFile, _ := smtptest.Pair(t, "mx.test")
	r := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}}).Listen(t)
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
		b.secure(&o, &config.Queue{TLS: tt.level}, Host{Name: tt.host, Addr: r.Addr, Need: tt.need}, nil)
		c, err := smtp.Dial(t.Context(), r.Addr, o)
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
