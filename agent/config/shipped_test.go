package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"
	"time"
)

// shipped loads millrace.toml beside a copy of the lists that are shipped.
func shipped(t *testing.T, text string) *Config {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "conf.d"), os.DirFS("../../packaging/conf.d")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"millrace.toml": text, "partners.txt": "a.partner.example\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := Load(filepath.Join(dir, "millrace.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestShippedListsKnowTheBigProviders(t *testing.T) {
	t.Parallel()
	c := shipped(t, `hostname = "mail.example.com"`)
	type limits struct{ sessions, messages int }
	for _, p := range []struct {
		queue   string
		domains []string
		mx      []string // hosts of a domain that is not listed
		limits  limits
	}{
		{"google", []string{"gmail.com", "googlemail.com"}, []string{"aspmx.l.google.com", "alt1.aspmx.l.google.com", "aspmx2.googlemail.com"}, limits{25, 50}},
		{"yahoo", []string{"yahoo.com", "aol.com", "ymail.com"}, []string{"mta5.am0.yahoodns.net"}, limits{20, 20}},
		{"outlook", []string{"outlook.com", "hotmail.com", "live.com", "msn.com"}, []string{"outlook-com.olc.protection.outlook.com"}, limits{5, 50}},
		{"office365", nil, []string{"example-com.mail.protection.outlook.com"}, limits{5, 50}},
		{"office365", nil, []string{"example-com.p-v1.mx.microsoft"}, limits{5, 50}},
		{"apple", []string{"icloud.com", "me.com", "mac.com"}, []string{"mx01.mail.icloud.com", "mx02.mail.icloud.com"}, limits{10, 5}},
		{"comcast", []string{"comcast.net"}, []string{"mx1.comcast.net"}, limits{25, 1000}},
		{"gmx", []string{"gmx.de", "web.de", "mail.com"}, []string{"mx00.gmx.net"}, limits{4, 20}},
		{"orange", []string{"orange.fr", "wanadoo.fr"}, []string{"smtp-in.orange.fr"}, limits{2, 100}},
		{"yahoo-japan", []string{"yahoo.co.jp"}, []string{"mx1.mail.yahoo.co.jp"}, limits{2, 20}},
		{"mimecast", nil, []string{"eu-smtp-inbound-1.mimecast.com", "eu-smtp-inbound-2.mimecast.com"}, limits{10, 100}},
		{"qq", []string{"qq.com", "foxmail.com"}, []string{"mxbiz1.qq.com"}, limits{4, 8}},
		{"netease", []string{"163.com", "126.com"}, []string{"163mx01.mxmail.netease.com"}, limits{4, 7}},
	} {
		want := c.Queue(p.queue)
		if want == nil {
			t.Fatalf("no queue %s", p.queue)
		}
		for _, domain := range p.domains {
			if got := c.Match(domain); got != want {
				t.Errorf("%s is in queue %q, want %q", domain, name(got), p.queue)
			}
		}
		if got := c.MatchMX(p.mx); got != want {
			t.Errorf("%v: queue %q, want %q", p.mx, name(got), p.queue)
		}
		if got := (limits{want.MaxSessions, want.MaxMessagesPerConnection}); got != p.limits {
			t.Errorf("%s: %+v, want %+v", p.queue, got, p.limits)
		}
	}
	if q := c.Queue("google"); q.TLS != TLSRequired {
		t.Errorf("google: tls %q", q.TLS)
	}
	if q := c.Queue("yahoo-japan"); q.MaxMessageRate != 10 {
		t.Errorf("yahoo-japan: %v messages/s", q.MaxMessageRate)
	}
	if q := c.Match("example.com"); q != nil {
		t.Errorf("example.com is in queue %q", q.Name)
	}
}

// TestShippedConfigurationShowsTheDefaults loads the commented file as it is,
// and with every commented key switched on.
func TestShippedConfigurationShowsTheDefaults(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../packaging/millrace.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c := shipped(t, string(b)); c.Milter.Mode != Observe {
		t.Errorf("the shipped mode is %q", c.Milter.Mode)
	}
	text := regexp.MustCompile(`(?m)^#([a-z_]+ = |\[\[)`).ReplaceAllString(string(b), "$1")
	text = regexp.MustCompile(`"domains/partners.txt"`).ReplaceAllString(text, `"partners.txt"`)
	c, want := shipped(t, text), defaults()
	if n := len(c.Milter.HostDomains); n != 2 || len(c.Milter.Peers) != 2 || len(c.Milter.AcceptBypass) != 1 || len(c.Milter.Rules) != 1 || c.Queue("partners") == nil {
		t.Error("the examples were not switched on")
	}
	if c.PoolNamed("news") == nil || c.StreamOf("news-1") == nil {
		t.Error("the examples of a pool and a stream were not switched on")
	}
	if len(c.Webhooks) != 1 || !c.Simulates("simulated.test") {
		t.Error("the examples of a webhook and of simulated outcomes were not switched on")
	}
	if !c.Inlet.On() || c.DKIMFor("news.example.com") == nil || len(c.Inlet.Allow) != 2 || len(c.Inlet.AcceptBypass) != 1 {
		t.Error("the examples of an inlet and its key were not switched on")
	}
	c.Inlet.Listen, c.Inlet.Allow, c.Inlet.UIDs, c.Inlet.AcceptBypass = nil, nil, nil, nil
	c.General.MaxSessionsTotal = 0 // follows from there being a pool
	c.Milter.HostDomains, c.Milter.Peers, c.Milter.AcceptBypass, c.Milter.Rules = nil, nil, nil, nil
	// A default that would move mail on hosts of before is for new installations only.
	if c.Milter.BulkWindow != time.Hour {
		t.Errorf("bulk_window of a new installation: %v", c.Milter.BulkWindow)
	}
	c.Milter.BulkWindow = want.Milter.BulkWindow
	for _, p := range [][2]any{
		{c.Spool, want.Spool}, {c.Milter, want.Milter}, {c.Inlet, want.Inlet}, {c.Handback, want.Handback}, {c.Log, want.Log}, {c.General, want.General},
		{c.Agent.HTTP.Listen, want.Agent.HTTP.Listen}, {c.Agent.Control, want.Agent.Control}, {c.Agent.Port, want.Agent.Port},
		{c.Agent.Protocols, want.Agent.Protocols}, {c.Agent.MaxSessions, want.Agent.MaxSessions},
		{len(c.Agent.Resolvers) + len(c.Agent.SourceAddresses) + len(c.Agent.AllowDestinations) + len(c.Agent.HTTP.Hostnames), 0},
	} {
		if !reflect.DeepEqual(p[0], p[1]) {
			t.Errorf("shown as default: %+v\nis:               %+v", p[0], p[1])
		}
	}
	if c.Fleet.On() || len(c.Fleet.Stores) != 2 {
		t.Errorf("fleet: %+v", c.Fleet)
	}
	for table, fields := range map[string]map[string]any{"inlet": fieldsOf(&Inlet{}), "fleet": fieldsOf(&Fleet{})} {
		for key := range fields {
			if !regexp.MustCompile(`(?m)^` + key + ` = `).MatchString(text) {
				t.Errorf("the shipped file does not show %s of [%s]", key, table)
			}
		}
	}
	// Each key of [general] stands in the file, so that none is forgotten there.
	for key := range fieldsOf(&Queue{}) {
		if !regexp.MustCompile(`(?m)^` + key + ` = `).MatchString(text) {
			t.Errorf("the shipped file does not show %s", key)
		}
	}
}
