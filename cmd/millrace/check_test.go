package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/cmd/internal/program"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

var update = flag.Bool("update", false, "write what millrace check says into testdata/check")

// TestCheckSaysWhatDoesNotFit runs the program over the configurations of
// testdata/check, with the real postconf, and compares all it says.
func TestCheckSaysWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/check/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			texts := map[string]string{}
			for _, f := range archive.Files {
				texts[f.Name] = string(f.Data)
				if f.Name == "millrace.toml" { // behind all lines that are named
					f.Data = append(slices.Clip(f.Data), "\n[outcomes]\nkeep = \"7d\"\n[feedback]\nread = true\n[breaker]\ncomplaints = \"0.3%\"\n"...)
				}
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := lab.WritePostfixConfig(dir, texts["main.cf"], texts["master.cf"]); err != nil {
				t.Fatal(err)
			}
			r := millrace(t, "", "--config", filepath.Join(dir, "millrace.toml"), "check", "--no-dns", "--postfix-config", dir)
			got := fmt.Sprintf("%s%sexit code %d\n", r.stdout, strings.ReplaceAll(strings.ReplaceAll(r.stderr, dir+"/", ""), dir, "DIR"), r.code)
			want := &archive.Files[len(archive.Files)-1]
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if string(want.Data) != got {
				t.Errorf("got:\n%s\nwant:\n%s", got, want.Data)
			}
			for line := range strings.Lines(r.stderr) {
				if strings.Contains(line, ".cf: ") && !strings.Contains(line, "; remedy: ") {
					t.Errorf("no remedy: %s", line)
				}
			}
		})
	}
}

// TestShippedSnippetsFit: who follows contrib/postfix has nothing to mend.
func TestShippedSnippetsFit(t *testing.T) {
	t.Parallel()
	main := "compatibility_level = 3.6\nmyhostname = mail.example.com\nmydestination = mail.example.com\nsmtp_tls_security_level = may\n" + snippets.MainCF
	master := "smtp inet n - y - - smtpd\nsubmission inet n - n - - smtpd\ncleanup unix n - y - 0 cleanup\nsmtp unix - - y - - smtp\n" + snippets.MasterCF
	file := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(file, []byte("hostname = \"mail.example.com\"\n[milter]\nmode = \"divert\"\nhost_domains = [\"mail.example.com\"]\n[handback]\nrelay = \"unix:/var/spool/postfix/public/millrace\"\n[outcomes]\nkeep = \"7d\"\n[feedback]\nread = true\n[breaker]\ncomplaints = \"0.3%\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := millrace(t, "", "--config", file, "check", "--no-dns", "--postfix-config", instance(t, main+"in_flow_delay = 0\n", master))
	if r.code != 0 || r.stderr != "millrace: no errors, no warnings\n" || r.stdout != "" {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	dir := instance(t, main, master)
	r = millrace(t, "", "--config", file, "check", "--no-dns", "--postfix-config", dir)
	if r.code != 0 || !strings.HasPrefix(r.stderr, "millrace: warning: main.cf: in_flow_delay is 1s: ") ||
		!strings.HasSuffix(r.stderr, "; remedy: postconf -c "+dir+" -e in_flow_delay=0\nmillrace: no errors, 1 warning\n") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}

func TestWithoutPostfixOnlyTheConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "millrace.toml")
	if err := os.WriteFile(file, []byte("hostname = \"mail.example.com\"\n[agent.http]\nlisten = \"192.0.2.1:1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// MAIL_CONFIG is Postfix's own way to name another directory; there is no main.cf.
	r := millrace(t, "MAIL_CONFIG="+dir, "--config", file, "check", "--no-dns")
	lines := strings.Split(r.stderr, "\n")
	if r.code != 0 || len(lines) != 8 ||
		!strings.HasPrefix(lines[0], "millrace: warning: "+file+":3: ") ||
		!strings.HasPrefix(lines[1], "millrace: there is no Postfix on this host (") ||
		lines[2] != "millrace: warning: millrace.toml: while the host's MTA is down any local user can listen at [handback] relay 127.0.0.1:10626, "+
			"and take bounces and mail that Millrace hands back; remedy: give the MTA and relay a port below 1024, which only root can take" ||
		!strings.HasPrefix(lines[3], `millrace: what became of mail is not kept: with keep = "7d"`) || // an offer
		!strings.HasPrefix(lines[4], "millrace: delivery reports and complaints that come back are not read: ") ||
		!strings.HasPrefix(lines[5], "millrace: no stream is held for its bounces or complaints: ") ||
		lines[6] != "millrace: no errors, 2 warnings" {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	// Who names a directory means it.
	r = millrace(t, "", "--config", file, "check", "--no-dns", "--postfix-config", filepath.Join(dir, "none"))
	if r.code != program.ExitFailure || !strings.Contains(r.stderr, "/none/main.cf: No such file or directory") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}

func TestReportCountsWhatItSays(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := printer{out: &out}
	r.warn("one")
	r.add(postconf.Finding{Severity: postconf.Accepted, Where: "main.cf", Wrong: "header_checks is x", Bypass: "header_checks"})
	r.add(postconf.Finding{Where: "main.cf", Wrong: "two", Remedy: "mend it"})
	if err := r.end(); err != nil {
		t.Errorf("warnings are no error: %v", err)
	}
	r.add(postconf.Finding{Severity: postconf.Contradiction, Where: "master.cf", Wrong: "three", Remedy: "mend it"})
	err := r.end()
	var e program.Error
	if !errors.As(err, &e) || e.Code != program.ExitFailure || !strings.HasPrefix(e.Error(), "1 error, 2 warnings: ") {
		t.Errorf("got %v", err)
	}
	const want = "millrace: warning: one\nmillrace: main.cf: header_checks is x (accept_bypass has header_checks)\nmillrace: warning: main.cf: two; remedy: mend it\nmillrace: no errors, 2 warnings\nmillrace: error: master.cf: three; remedy: mend it\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// instance writes a configuration directory of Postfix.
func instance(t *testing.T, main, master string) string {
	t.Helper()
	dir := t.TempDir()
	if err := lab.WritePostfixConfig(dir, main, master); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A key that everybody can read is no reason not to run, and an error with file, line
// and remedy.
func TestCheckFailsOverAKeyThatOthersCanRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := selfsigned.New("mail.example.com")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("hostname = \"mail.example.com\"\n[spool]\ndirectory = %q\n[agent]\ntls_cert_file = \"%[1]s/cert.pem\"\ntls_key_file = \"%[1]s/key.pem\"\n", dir)
	for name, octets := range map[string][]byte{"cert.pem": p.Cert, "key.pem": p.Key, "millrace.toml": []byte(text)} {
		if err := os.WriteFile(filepath.Join(dir, name), octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := lab.WritePostfixConfig(dir, "", ""); err != nil {
		t.Fatal(err)
	}
	const said = "error: millrace.toml:6: tls_key_file: everybody can read "
	for mode, fails := range map[os.FileMode]bool{0o600: false, 0o644: true} {
		if err := os.Chmod(filepath.Join(dir, "key.pem"), mode); err != nil {
			t.Fatal(err)
		}
		r := millrace(t, "", "--config", filepath.Join(dir, "millrace.toml"), "check", "--no-dns", "--postfix-config", dir)
		if got := strings.Contains(strings.ReplaceAll(r.stderr, dir+"/", ""), said); got != fails || fails && r.code != program.ExitFailure {
			t.Errorf("%04o: exit code %d\n%s", mode, r.code, r.stderr)
		}
	}
}
