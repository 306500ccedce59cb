package route

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/route/sts"
)

const (
	digest  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digest2 = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// needsOf writes what is asked of each host: "mx.example: DANE".
func needsOf(p *Plan) string {
	var list []string
	for _, h := range p.Hosts {
		word := h.Name + ": " + h.Need.String()
		if h.Need.ServerName != "" && h.Need.ServerName != h.Name {
			word += " at " + h.Need.ServerName
		}
		list = append(list, word)
	}
	return strings.Join(list, ", ")
}

func TestDANE(t *testing.T) {
	t.Parallel()
	z := zone{
		"mx.example A":               {"300 A 192.0.2.1"},
		"mx.example AAAA":            {"300 AAAA 2001:db8::1"},
		"_25._tcp.mx.example TLSA":   {"300 TLSA 3 1 1 " + digest},
		"pkix.example A":             {"300 A 192.0.2.2"},
		"_25._tcp.pkix.example TLSA": {"300 TLSA 1 1 1 " + digest, "300 TLSA 3 9 1 " + digest},
		"none.example A":             {"300 A 192.0.2.3"},
		"dead.example A":             {"300 A 192.0.2.4"},
		"_25._tcp.dead.example TLSA": {"SERVFAIL"},
		"gone.example A":             {"300 A 192.0.2.4"},
		"_25._tcp.gone.example TLSA": {"TIMEOUT"},
		"ta.example A":               {"300 A 192.0.2.5"},
		"_25._tcp.ta.example TLSA":   {"300 CNAME tlsa.example.", "300 @tlsa.example. TLSA 2 1 1 " + digest},

		"alias.example A":     {"300 CNAME mx.example.", "300 @mx.example. A 192.0.2.1"},
		"alias.example CNAME": {"300 CNAME mx.example."},
		"alias.example AAAA":  {"300 CNAME mx.example."},
		"own.example A":       {"300 CNAME none.example.", "300 @none.example. A 192.0.2.3"},
		"own.example CNAME":   {"300 CNAME none.example."},
		"own.example AAAA":    {"300 CNAME none.example."},

		"_25._tcp.own.example TLSA": {"300 TLSA 3 1 1 " + digest},

		"d.example MX":        {"300 MX 10 mx.example."},
		"mixed.example MX":    {"300 MX 10 mx.example.", "300 MX 20 none.example."},
		"unusable.example MX": {"300 MX 10 pkix.example."},
		"without.example MX":  {"300 MX 10 none.example."},
		"servfail.example MX": {"300 MX 10 dead.example.", "300 MX 20 gone.example."},
		"ta-d.example MX":     {"300 MX 10 ta.example."},
		"alias-d.example MX":  {"300 MX 10 alias.example."},
		"own-d.example MX":    {"300 MX 10 own.example."},
		"implicit.example A":  {"300 A 192.0.2.9"},

		"_25._tcp.implicit.example TLSA": {"300 TLSA 3 1 1 " + digest},
	}
	tests := []struct {
		name, domain string
		plain        string // key of an answer that is not validated
		want         string
	}{
		{"records", "d.example", "", "mx.example: DANE"},
		{"records of one host", "mixed.example", "", "mx.example: DANE, none.example: none"},
		{"unusable records", "unusable.example", "", "pkix.example: DANE, unusable records"},
		{"no records", "without.example", "", "none.example: none"},
		{"nobody knows", "servfail.example", "", "dead.example: avoid, gone.example: avoid"},
		{"records by a CNAME", "ta-d.example", "", "ta.example: DANE"},
		{"host is an alias", "alias-d.example", "", "alias.example: DANE at mx.example"},
		{"records at the alias itself", "own-d.example", "", "own.example: DANE"},
		{"no MX records", "implicit.example", "", "implicit.example: DANE"},
		{"exchangers not validated", "d.example", "d.example MX", "mx.example: none"},
		{"denial of exchangers not validated", "implicit.example", "implicit.example MX", "implicit.example: none"},
		{"an address not validated", "d.example", "mx.example AAAA", "mx.example: none"},
		{"records not validated", "d.example", "_25._tcp.mx.example TLSA", "mx.example: none"},
		{"alias validated, its end not", "own-d.example", "own.example A", "own.example: DANE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(z)
			f.plain = func(key string) bool { return key == tt.plain }
			r := newResolver(t, f, func(o *Options) { o.DANE = TrustAlways })
			p, err := r.Lookup(t.Context(), tt.domain)
			if err != nil {
				t.Fatal(err)
			}
			if got := needsOf(p); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	t.Run("reason", func(t *testing.T) {
		t.Parallel()
		f := newFake(z)
		f.plain = func(string) bool { return false }
		p, err := newResolver(t, f, func(o *Options) { o.DANE = TrustAlways }).Lookup(t.Context(), "servfail.example")
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Hosts[0].Need.Err.Error(); !strings.Contains(got, "host dead.example") || !strings.Contains(got, "SERVFAIL") {
			t.Error(got)
		}
		if d := time.Until(p.Expires); d > time.Minute {
			t.Errorf("asked again in %v only", d)
		}
	})
	t.Run("resolver not trusted", func(t *testing.T) {
		t.Parallel()
		f := newFake(z)
		f.plain = func(string) bool { return false }
		p, err := newResolver(t, f).Lookup(t.Context(), "d.example")
		if err != nil {
			t.Fatal(err)
		}
		if got := needsOf(p); got != "mx.example: none" || f.count("_25._tcp.mx.example TLSA") != 0 {
			t.Errorf("%q, %d lookups", got, f.count("_25._tcp.mx.example TLSA"))
		}
	})
}

func TestOnlyLoopbackResolversAreTrusted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		resolvers []string
		trust     Trust
		want      bool
	}{
		{[]string{"127.0.0.1:53"}, TrustLoopback, true},
		{[]string{"::1", "127.0.0.53"}, TrustLoopback, true},
		{[]string{"127.0.0.1:53", "192.0.2.1:53"}, TrustLoopback, false},
		{[]string{"192.0.2.1:53"}, TrustAlways, true},
		{[]string{"127.0.0.1:53"}, TrustNever, false},
	} {
		r, err := New(Options{Resolvers: tt.resolvers, DANE: tt.trust})
		if err != nil {
			t.Fatal(err)
		}
		if r.dane() != tt.want {
			t.Errorf("%v, %d: %v", tt.resolvers, tt.trust, r.dane())
		}
	}
}

// Domains share sessions exactly if what they ask of the same hosts is the same.
func TestNeedsTellPoliciesApart(t *testing.T) {
	t.Parallel()
	z := zone{
		"mx.example A":             {"300 A 192.0.2.1"},
		"_25._tcp.mx.example TLSA": {"300 TLSA 3 1 1 " + digest},
		"a.example MX":             {"300 MX 10 mx.example."},
		"b.example MX":             {"300 MX 10 mx.example."},
		"plain.example MX":         {"300 MX 10 mx.example."},
		"ta.example A":             {"300 A 192.0.2.1"},
		"_25._tcp.ta.example TLSA": {"300 TLSA 2 1 1 " + digest},
		"c.example MX":             {"300 MX 10 ta.example."},
		"d.example MX":             {"300 MX 10 ta.example."},
	}
	f := newFake(z)
	f.plain = func(key string) bool { return key == "plain.example MX" }
	look := func(domain string) string {
		t.Helper()
		p, err := newResolver(t, f, func(o *Options) { o.DANE = TrustAlways }).Lookup(t.Context(), domain)
		if err != nil {
			t.Fatal(err)
		}
		return p.Needs()
	}
	a := look("a.example")
	if b := look("b.example"); a != b || a == "" {
		t.Errorf("same records: %q and %q", a, b)
	}
	if p := look("plain.example"); p != "" {
		t.Errorf("exchangers not validated: %q", p)
	}
	if c, d := look("c.example"), look("d.example"); c == d {
		t.Errorf("an authority's certificate may carry either domain's name, but both are %q", c)
	}
	f.set("_25._tcp.mx.example TLSA", "300 TLSA 3 1 1 "+digest2)
	if b := look("a.example"); a == b {
		t.Errorf("other records: %q", a)
	}
}

func TestMTASTS(t *testing.T) {
	t.Parallel()
	z := zone{
		"mx1.example A":             {"300 A 192.0.2.1"},
		"mx2.example A":             {"300 A 192.0.2.2"},
		"dane.example A":            {"300 A 192.0.2.3"},
		"_mta-sts.both.example TXT": {`300 TXT "v=STS" "v1; id=1;"`},
		"both.example MX":           {"300 MX 10 mx1.example.", "300 MX 20 mx2.example."},
		"test.example MX":           {"300 MX 10 mx1.example.", "300 MX 20 mx2.example."},
		"off.example MX":            {"300 MX 10 mx1.example."},
		"old.example MX":            {"300 MX 10 mx1.example."},
		"dd.example MX":             {"300 MX 10 dane.example."},
		"du.example MX":             {"300 MX 10 pkix.example."},
		"pkix.example A":            {"300 A 192.0.2.2"},

		"_25._tcp.dane.example TLSA": {"300 TLSA 3 1 1 " + digest},
		"_25._tcp.pkix.example TLSA": {"300 TLSA 1 1 1 " + digest},
	}
	dir := t.TempDir()
	store := func(domain string, mode sts.Mode, maxAge time.Duration, mx ...string) {
		t.Helper()
		writePolicy(t, dir, domain, mode, maxAge, mx...)
	}
	store("both.example", sts.Enforce, 24*time.Hour, "mx1.example")
	store("test.example", sts.Testing, 24*time.Hour, "mx1.example")
	store("off.example", sts.None, 24*time.Hour)
	store("old.example", sts.Enforce, time.Second, "mx1.example")
	store("dd.example", sts.Enforce, 24*time.Hour, "mx1.example")
	store("du.example", sts.Enforce, 24*time.Hour, "pkix.example")
	for domain, want := range map[string]string{
		"both.example": "mx1.example: MTA-STS, mx2.example: avoid",
		"test.example": "mx1.example: MTA-STS testing, mx2.example: MTA-STS testing",
		"off.example":  "mx1.example: none",
		"old.example":  "mx1.example: none",
		"dd.example":   "dane.example: DANE",    // DANE goes first
		"du.example":   "pkix.example: MTA-STS", // and asks for less
	} {
		f := newFake(z)
		f.plain = func(string) bool { return false }
		p, err := newResolver(t, f, func(o *Options) { o.DANE, o.STSDirectory = TrustAlways, dir }).Lookup(t.Context(), domain)
		if err != nil {
			t.Fatal(err)
		}
		if got := needsOf(p); got != want {
			t.Errorf("%s: %q, want %q", domain, got, want)
		}
		switch domain {
		case "both.example":
			if err := p.Hosts[1].Need.Err; err == nil || !strings.Contains(err.Error(), "mx2.example is not one that the policy of both.example names (mx1.example)") {
				t.Errorf("reason: %v", err)
			}
			if got := p.Needs(); got != "mx1.example=sts,mx2.example=avoid" {
				t.Errorf("needs %q", got)
			}
		case "test.example":
			if p.Needs() != "" || p.Hosts[0].Need.Err != nil || p.Hosts[1].Need.Err == nil {
				t.Errorf("testing: needs %q, %v, %v", p.Needs(), p.Hosts[0].Need.Err, p.Hosts[1].Need.Err)
			}
		}
	}
}

// writePolicy leaves a policy as an earlier run fetched it a quarter of an hour ago.
func writePolicy(t *testing.T, dir, domain string, mode sts.Mode, maxAge time.Duration, mx ...string) {
	t.Helper()
	text := "domain: " + domain + "\nid: 1\nfetched: " + time.Now().Add(-15*time.Minute).UTC().Format(time.RFC3339) +
		"\n\nversion: STSv1\nmode: " + string(mode) + "\nmax_age: " + strconv.Itoa(int(maxAge/time.Second)) + "\n"
	for _, m := range mx {
		text += "mx: " + m + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, sts.FileName(domain)), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The addresses of a policy's server are a stranger's choice too.
func TestPolicyServerAtARefusedAddressIsNotAsked(t *testing.T) {
	t.Parallel()
	r := newResolver(t, newFake(zone{
		"mta-sts.d.example A":    {"300 A 127.0.0.1"},
		"mta-sts.d.example AAAA": {"300 AAAA fd00::1"},
	}))
	_, err := r.dial(t.Context(), "tcp", "mta-sts.d.example:443")
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v", err)
	}
	r = newResolver(t, newFake(zone{"mta-sts.d.example A": {"300 A 127.0.0.1"}}), func(o *Options) {
		o.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.dial(ctx, "tcp", "mta-sts.d.example:443"); err == nil || strings.Contains(err.Error(), "refused (") {
		t.Errorf("allowed, but: %v", err)
	}
}
