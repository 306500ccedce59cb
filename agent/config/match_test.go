package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// load writes text as millrace.toml and loads it.
func load(t *testing.T, text string) (*Config, []Notice) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(file, []byte("hostname = \"mail.example.com\"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, notices, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c, notices
}

func name(q *Queue) string {
	if q == nil {
		return ""
	}
	return q.Name
}

func TestMatchFindsTheListingQueue(t *testing.T) {
	t.Parallel()
	c, _ := load(t, `
[[queue]]
name = "a"
domains = ["Example.COM", "*.example.net", "bücher.example", "xn--caf-dma.example"]
[[queue]]
name = "b"
domains = ["deep.sub.example.net", "*.sub.example.net", "example.net"]
`)
	for domain, want := range map[string]string{
		"example.com":             "a",
		"EXAMPLE.com.":            "a",
		"sub.example.com":         "",
		"bücher.example":          "a",
		"BÜCHER.example":          "a",
		"xn--bcher-kva.example":   "a",
		"XN--BCHER-KVA.EXAMPLE":   "a",
		"café.example":            "a",
		"x.example.net":           "a",
		"x.y.example.net":         "a",
		"example.net":             "b",
		"sub.example.net":         "a",
		"x.sub.example.net":       "b",
		"deep.sub.example.net":    "b",
		"notexample.net":          "",
		"com":                     "",
		"":                        "",
		".":                       "",
		"[192.0.2.1]":             "",
		"not\xffutf8.example.com": "",
	} {
		if got := name(c.Match(domain)); got != want {
			t.Errorf("Match(%q) = %q, want %q", domain, got, want)
		}
	}
}

func TestMatchMXWantsEveryHostInOneQueue(t *testing.T) {
	t.Parallel()
	c, _ := load(t, `
[[queue]]
name = "listed-only"
domains = ["example.com"]
[[queue]]
name = "google"
mx = ["*.google.com", "*.googlemail.com"]
[[queue]]
name = "late"
mx = ["*.google.com", "mx?.example.net"]
`)
	for hosts, want := range map[string]string{
		"aspmx.l.google.com":                            "google",
		"ASPMX.L.Google.com.":                           "google",
		"alt1.aspmx.l.google.com aspmx2.googlemail.com": "google",
		"alt1.aspmx.l.google.com mx1.example.net":       "late",
		"alt1.aspmx.l.google.com mx1.example.org":       "",
		"google.com":                            "",
		"mx10.example.net":                      "",
		"alt1.aspmx.l.google.com.evil.example":  "",
		"aspmx2.googlemail.com mx1.example.net": "",
		"":                                      "",
	} {
		if got := name(c.MatchMX(strings.Fields(hosts))); got != want {
			t.Errorf("MatchMX(%q) = %q, want %q", hosts, got, want)
		}
	}
}

func TestHostDomainsAreLowerCaseALabels(t *testing.T) {
	t.Parallel()
	c, _ := load(t, "[milter]\nhost_domains = [\"Example.com.\", \"*.bücher.example\"]\n")
	if got := fmt.Sprint(c.Milter.HostDomains); got != "[example.com *.xn--bcher-kva.example]" {
		t.Errorf("HostDomains = %s", got)
	}
}

func TestQueueByName(t *testing.T) {
	t.Parallel()
	c, _ := load(t, "[[queue]]\nname = \"a\"\ndomains = [\"a.example\"]\n")
	if c.Queue("general") != &c.General || c.Queue("a") != &c.Queues[0] || c.Queue("b") != nil {
		t.Error("Queue does not find queues by their names")
	}
}

func TestGlobMatchesTheWhole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		glob, s string
		want    bool
	}{
		{"*", "", true},
		{"*", "a.b/c", true},
		{"?", "", false},
		{"?", "ü", true},
		{"*@News.example.com", "a@NEWS.example.com", true},
		{"*@news.example.com", "a@news.example.com.org", false},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"[list] *", "[list] hello", true},
		{"[list] *", "l hello", false},
		{"**a", "ba", true},
		{"", "", true},
		{"", "a", false},
		{"user+*", "user+tag", true},
		{"ÜBER*", "über alles", true},
	} {
		if got := matchGlob(c.glob, c.s); got != c.want {
			t.Errorf("matchGlob(%q, %q) = %t", c.glob, c.s, got)
		}
	}
	// Time must not grow beyond the product of the lengths: this would not end.
	if matchGlob(strings.Repeat("*a", 50)+"b", strings.Repeat("a", 5000)) {
		t.Error("a text without b matches a glob that ends in b")
	}
}
