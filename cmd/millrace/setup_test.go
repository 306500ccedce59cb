package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/postconf"
	snippets "github.com/millrace/millrace/contrib/sendmail"
)

// staged is a copy of a configuration with the shipped millrace.toml.
func staged(t *testing.T, conf map[string]string) (*configFiles, string) {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile("../../packaging/millrace.toml")
	if err != nil {
		t.Fatal(err)
	}
	conf["millrace.toml"] = string(text)
	for name, text := range conf {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := stageConfig(filepath.Join(dir, "millrace.toml"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	return f, dir
}

func TestWhatSetupWritesCanBeRead(t *testing.T) {
	t.Parallel()
	f, dir := staged(t, map[string]string{
		hostFile:              "of an earlier setup, and not even TOML",
		"conf.d/google.toml":  "[[queue]]\nname = \"google\"\ndomain_files = [\"lists/google\"]\n",
		"conf.d/lists/google": "gmail.com\n",
		"conf.d/mine.toml":    "hostname = \"mine.example.com\"\n[general]\nmax_sessions = 4\n",
	})
	x := &hostFacts{relay: "127.0.0.1:10627", dir: "/etc/postfix", Export: &postconf.Export{
		Hostname: "out.example.com", HostDomains: []string{"a.example", "b.example"}, Remote: []string{"smtp", "esmtp", "slow"},
		Protocols: []string{"ipv4"}, TLS: config.TLSRequired, General: postconf.Limits{Sessions: 7, Recipients: 9},
		Queues: []postconf.ExportedQueue{
			{Name: "slow", Domains: []string{"slow.example"}, Limits: postconf.Limits{Sessions: 3, Delay: 2 * time.Second}},
			{Name: "elsewhere", Domains: []string{"inside.example"}, Handback: true},
		},
	}}
	if err := f.writeHost(x); err != nil {
		t.Fatal(err)
	}
	if err := f.divert(); err != nil {
		t.Fatal(err)
	}
	c, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "mine.example.com" || c.General.MaxSessions != 4 {
		t.Errorf("the admin's words were overridden: %s, %d sessions", c.Hostname, c.General.MaxSessions)
	}
	slow := c.Match("slow.example")
	if c.Milter.Mode != config.Divert || len(c.Milter.HostDomains) != 2 || c.General.TLS != config.TLSRequired ||
		c.General.MaxRecipientsPerMessage != 9 || slow == nil || slow.MaxSessions != 1 || slow.MaxMessageRate != 0.5 ||
		c.Match("inside.example").Route.Kind != config.RouteHandback || c.Match("gmail.com").Name != "google" || c.Handback.Relay != "127.0.0.1:10627" {
		t.Errorf("it came to %+v, slow %+v", c.Milter, slow)
	}
	changes, err := f.changes()
	if err != nil || len(changes) != 2 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	for _, c := range changes {
		if err := c.Apply(filepath.Join(dir, "millrace.toml")); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(c.Path)
		if err != nil || string(text) != string(c.New) {
			t.Errorf("%s: %v\n%s", c.Path, err, text)
		}
	}
}

// TestConfigurationBesideOtherFiles runs setup on a configuration that stands in the
// directory of temporary files: neither those nor the copy itself are copied.
func TestConfigurationBesideOtherFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"x.toml":         "hostname = \"mail.example.com\"\n[[queue]]\nname = \"a\"\ndomain_files = [\"lists/a\", \"b.txt\"]\n",
		"conf.d/c.toml":  "[[queue]]\nname = \"c\"\ndomain_files = [\"lists/c\"]\n",
		"lists/a":        "a.example\n",
		"b.txt":          "b.example\n",
		"conf.d/lists/c": "c.example\n",
		"deep/" + strings.Repeat("d/", 50) + "file": "of somebody else",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	etc := instance(t, "compatibility_level = 3.6\nmyhostname = mail.example.com\n", "smtp inet n - y - - smtpd\n")
	r := millrace(t, "TMPDIR="+dir, "--config", filepath.Join(dir, "x.toml"), "setup", "--dry-run", "--postfix-config", etc)
	if r.code != 0 || !strings.Contains(r.stdout, "+smtpd_milters") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "millrace-setup-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestModeIsChangedOnlyWhereItIsPlain(t *testing.T) {
	t.Parallel()
	f, _ := staged(t, map[string]string{})
	path := f.staged("millrace.toml")
	if err := os.WriteFile(path, []byte("milter.mode = 'observe'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.divert(); err == nil || !strings.Contains(err.Error(), `set [milter] mode = "divert" by hand`) {
		t.Error(err)
	}
}

func TestSendmailIsCompared(t *testing.T) {
	t.Parallel()
	c := &config.Config{
		Milter:   config.Milter{Listen: []string{"unix:/run/millrace/milter.sock"}},
		Handback: config.Handback{Relay: "127.0.0.1:10626"},
	}
	for _, tt := range []struct{ name, cf, want string }{
		{"nothing", "O DaemonPortOptions=Name=MTA\n", "no filter millrace (INPUT_MAIL_FILTER)|no daemon on the hand-back port 10626"},
		{"all of it", "O InputMailFilters=opendkim,millrace\nO DaemonPortOptions=Name=HANDBACK, Addr=127.0.0.1, Port=10626, Modifiers=CE, InputMailFilters=\n" +
			"Xmillrace, S=local:/run/millrace/milter.sock, T=C:30s;S:30s;R:30s;E:5m\n", ""},
		{"all wrong", "O InputMailFilters=millrace, opendkim\nO DaemonPortOptions=Name=HANDBACK, Port=10626\n" +
			"Xmillrace, S=local:/run/other.sock, F=T\n",
			`the filter millrace is "S=local:/run/other.sock, F=T", and [milter] listen unix:/run/millrace/milter.sock|` +
				"the filter millrace has F=: mail is refused while Millrace is down; leave it out|" +
				"millrace is not the last of InputMailFilters|the hand-back port has filters: it needs an empty InputMailFilters="},
	} {
		if got := strings.Join(sendmailLacks(tt.cf, c), "|"); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
	c.Handback.Relay = "unix:/var/spool/postfix/public/millrace"
	if got := sendmailLacks("", c); len(got) != 2 || !strings.Contains(got[1], "Sendmail takes mail at ports only") {
		t.Errorf("a socket: %q", got)
	}
	if !strings.Contains(snippets.MC, "Port=10626") {
		t.Error("the lines to paste have another port")
	}
}
