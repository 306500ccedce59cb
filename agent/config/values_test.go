package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{
		"5d": 120 * time.Hour, "1w": 168 * time.Hour, "4h30m": 270 * time.Minute,
		"90s": 90 * time.Second, "0s": 0, "1w1d": 192 * time.Hour,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "d", "-5m", "1.5h", "5 d", "5ms", "1h ", "99999999999999999999s", "20000w", "9223372036s1w"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Size{
		"0": 0, "4096": 4096, "10k": 10_000, "10kB": 10_000, "1KiB": 1024, "1Ki": 1024,
		"500MB": 500_000_000, "1GiB": 1 << 30, "1 GiB": 1 << 30, "2TiB": 2 << 40, "7B": 7,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "-1", "1.5G", "1iB", "1i", "1XB", "1kk", "1kiBB", "99999999999999999999", "9999999999T"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Rate{"": 0, "100/s": 100, "600/m": 10, "1800/h": 0.5} {
		if got, err := ParseRate(s); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"100", "/s", "0/s", "-1/s", "1/d", "1/s/s", "NaN/s"} {
		if got, err := ParseRate(s); err == nil {
			t.Errorf("ParseRate(%q) = %v, want an error", s, got)
		}
	}
}

func TestRateInTheUnitThatItIsWrittenWith(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{"100/s": "100 second", "60/m": "1 second", "30/m": "30 minute", "1800/h": "30 minute", "5/h": "5 hour", "1/h": "1 hour"} {
		r, err := ParseRate(s)
		n, unit := r.Per()
		if got := fmt.Sprintf("%.3g %s", n, unit); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", s, got, err, want)
		}
	}
}

func TestParseListen(t *testing.T) {
	t.Parallel()
	for s, want := range map[string][2]string{
		"unix:/a/b":            {"unix", "/a/b"},
		"inet:8890@127.0.0.1":  {"tcp4", "127.0.0.1:8890"},
		"inet:8890@localhost":  {"tcp4", "localhost:8890"},
		"inet6:8890@[::1]":     {"tcp6", "[::1]:8890"},
		"inet6:8890@::1":       {"tcp6", "[::1]:8890"},
		"inet6:8890@localhost": {"tcp6", "localhost:8890"},
	} {
		network, address, err := ParseListen(s)
		if got := [2]string{network, address}; err != nil || got != want {
			t.Errorf("ParseListen(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	long := "unix:/"
	for len(long) < 120 {
		long += "x"
	}
	for _, s := range []string{"", "unix:", "unix:a", long, "/a/b", "inet:8890", "inet:@127.0.0.1", "inet:0@127.0.0.1",
		"inet:8890@", "inet6:8890@127.0.0.1", "inet:8890@[::1]", "inet:8890@300.0.0.1", "tcp:8890@127.0.0.1"} {
		if network, address, err := ParseListen(s); err == nil {
			t.Errorf("ParseListen(%q) = %s %s, want an error", s, network, address)
		}
	}
}

func TestHTTPListensAtOneOrSeveral(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Listeners{
		``:                          {"127.0.0.1:8891"},
		`listen = "127.0.0.1:8892"`: {"127.0.0.1:8892"},
		`listen = "unix:/run/millrace/http.sock"`:                     {"unix:/run/millrace/http.sock"},
		`listen = ["unix:/run/millrace/http.sock", "127.0.0.1:8891"]`: {"unix:/run/millrace/http.sock", "127.0.0.1:8891"},
		`listen = ""`: nil,
		`listen = []`: {},
	} {
		c := shipped(t, "hostname = \"mail.example.com\"\n[agent.http]\n"+text+"\n")
		if !slices.Equal(c.Agent.HTTP.Listen, want) {
			t.Errorf("%s: %q", text, c.Agent.HTTP.Listen)
		}
	}
	if first := (Listeners{"unix:/x", "127.0.0.1:8891", "127.0.0.1:8892"}).First(); first != "127.0.0.1:8891" {
		t.Errorf("the first port is %q", first)
	}
	path := filepath.Join(t.TempDir(), "millrace.toml")
	bad := "hostname = \"mail.example.com\"\n[agent.http]\nlisten = [\n\"127.0.0.1:8891\",\n\"unix:http.sock\",\n\"8891\"]\n"
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), path+`:5: listen: "unix:http.sock" has no absolute path; remedy: `) || !strings.Contains(err.Error(), path+`:6: listen: "8891" is not "address:port"; remedy: `) {
		t.Errorf("got %v", err)
	}
}
