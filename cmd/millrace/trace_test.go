package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/sink"
)

// receivers are a fake internet and a configuration that sends to it.
func receivers(t *testing.T, more string, providers ...sink.Provider) (config string) {
	t.Helper()
	net, err := sink.New(sink.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	for _, p := range providers {
		if err := net.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := net.CAPEM()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(dir, "millrace.toml")
	text := fmt.Sprintf(`hostname = "mail.lab.test"
[agent]
resolvers = [%q]
port = %d
protocols = ["ipv4"]
allow_destinations = ["127.0.0.0/8"]
tls_ca_file = %q
state_directory = %q
%s`, net.DNSAddr(), net.Port(), filepath.Join(dir, "ca.pem"), filepath.Join(dir, "state"), more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// inOrder checks that a text has all the parts, one after the other.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, p := range parts {
		i := strings.Index(rest, p)
		if i < 0 {
			t.Fatalf("no %q, or not in its place, in\n%s", p, text)
		}
		rest = rest[i+len(p):]
	}
}

func TestTraceShowsTheWayAndTheDialogue(t *testing.T) {
	t.Parallel()
	config := receivers(t, "[general]\ntls = \"verify\"\n",
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{StartTLS: true}})
	r := millrace(t, "", "--config", config, "trace", "someone@Far.test")
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit code %d, %s", r.code, r.stderr)
	}
	inOrder(t, r.stdout, `queue general, tls = "verify"`, "MX 10 mx1.far.test 127.", "; policy: none\n",
		"mx1.far.test[127.", "S: 220 mx1.far.test", "C: EHLO mail.lab.test\n", "STARTTLS\n", "C: STARTTLS\n", "S: 220 ",
		"-- TLS 1.3", "certificate of CN=mx1.far.test", "verified for mx1.far.test\n", "C: EHLO mail.lab.test\n", "C: QUIT\n", "S: 221 ")
	if strings.Contains(r.stdout, "MAIL") {
		t.Errorf("mail was begun:\n%s", r.stdout)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(config), "state")); err == nil {
		t.Error("the agent's state was touched")
	}
}

func TestTraceSaysWhyMailWouldWait(t *testing.T) {
	t.Parallel()
	config := receivers(t, "[general]\ntls = \"required\"\n",
		sink.Provider{Name: "plain", Domains: []string{"plain.test"}},
		sink.Provider{Name: "dead", Domains: []string{"dead.test"}, Behaviour: sink.Behaviour{DNS: sink.ServFail}},
	)
	r := millrace(t, "", "--config", config, "trace", "plain.test")
	if r.code != 1 || !strings.Contains(r.stderr, "server does not offer STARTTLS: mail would wait, for TLS is required here") {
		t.Errorf("exit code %d, %s", r.code, r.stderr)
	}
	inOrder(t, r.stdout, "C: EHLO", "S: 250", "-- STARTTLS: server does not offer STARTTLS")
	r = millrace(t, "", "--config", config, "trace", "dead.test")
	if r.code != 1 || !strings.Contains(r.stderr, "domain dead.test could not be looked up for now") {
		t.Errorf("exit code %d, %s", r.code, r.stderr)
	}
}
