package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

const plainMaster = "smtp inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\nsmtp unix - - n - - smtp\n"

// configured writes a millrace.toml in a directory of its own.
func configured(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(file, []byte("hostname = \"mail.example.com\"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSetupTakesWhatPostfixTakes: values that are right in main.cf do not make a
// configuration that Millrace refuses.
func TestSetupTakesWhatPostfixTakes(t *testing.T) {
	t.Parallel()
	for name, main := range map[string]string{
		"any IPv4 address": "smtp_bind_address = 0.0.0.0\n",
		"any IPv6 address": "smtp_bind_address6 = ::\n",
		"all subdomains":   "relay_domains = .example.net\n",
		"an address":       "mydestination = mail.example.com, [192.0.2.7]\n",
		"an underscore":    "mydestination = host_1.example.com\nsmtp_helo_name = mail_1.example.com\n",
		"a table":          "relay_domains = inline:{ .example.net=x, [192.0.2.7]=x, host_1.example.com=x }\n",
		"transports":       "transport_maps = inline:{ [192.0.2.7]=slow:, .a_b.example.net=slow:, localhost=local: }\n",
	} {
		dir := instance(t, "compatibility_level = 3.6\nmyhostname = mail.example.com\n"+main, plainMaster+"slow unix - - n - - smtp\n")
		r := millrace(t, "", "--config", configured(t, ""), "setup", "--dry-run", "--postfix-config", dir)
		if r.code != 0 || !strings.Contains(r.stdout, "+smtpd_milters = ") {
			t.Errorf("%s: exit code %d\n%s\n%s", name, r.code, r.stderr, r.stdout)
		}
	}
}

// TestOneMillraceServesOneInstance: a second instance gets neither the place where mail
// comes back to the first one nor its facts, and a retreat from one is not the end while the other names Millrace.
func TestOneMillraceServesOneInstance(t *testing.T) {
	t.Parallel()
	const us = "smtpd_milters = { unix:/run/millrace/milter.sock, default_action=accept }\n"
	const listen = "[milter]\nlisten = [\"unix:/run/millrace/milter.sock\"]\n"
	base := func(more string) string { return "compatibility_level = 3.6\nmyhostname = mail.example.com\n" + more }
	second := instance(t, base(us+"queue_directory = /var/spool/postfix-bulk\n"), plainMaster+"127.0.0.1:10626 inet n - n - - smtpd\n  -o smtpd_milters=\n")
	for name, x := range map[string]struct{ main, file string }{
		"known to the default instance": {main: "multi_instance_directories = " + second + "\n"},
		"recorded by set-up":            {file: "# Postfix: " + second + "\n"},
	} {
		first := instance(t, base(x.main), plainMaster)
		config := configured(t, listen)
		if x.file != "" {
			if err := os.Mkdir(filepath.Join(filepath.Dir(config), "conf.d"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(filepath.Dir(config), hostFile), []byte(x.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		env := "MAIL_CONFIG=" + first
		r := millrace(t, env, "--config", config, "setup", "--dry-run", "--postfix-config", first)
		if want := fmt.Sprintf("serves the Postfix of %s already", second); r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: exit code %d\n%s\n%s", name, r.code, r.stderr, r.stdout)
		}
		r = millrace(t, env, "--config", config, "retreat", "--check")
		if want := fmt.Sprintf("the Postfix of %s still names Millrace: millrace setup --undo --postfix-config %s", second, second); r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s, retreat: exit code %d\n%s\n%s", name, r.code, r.stderr, r.stdout)
		}
		// A Millrace of its own has a socket of its own, and does not get the other's port,
		// though the other's Postfix is stopped.
		if x.main != "" {
			own := strings.ReplaceAll(listen, "milter.sock", "own.sock")
			r = millrace(t, env, "--config", configured(t, own), "setup", "--dry-run", "--postfix-config", first)
			if r.code != 0 || !strings.Contains(r.stdout, `+relay = "unix:/var/spool/postfix/public/millrace"`) {
				t.Errorf("%s, of its own: exit code %d\n%s\n%s", name, r.code, r.stderr, r.stdout)
			}
			r = millrace(t, env, "--config", configured(t, own+"[handback]\nrelay = \"127.0.0.1:10626\"\n"), "setup", "--dry-run", "--postfix-config", first)
			if want := fmt.Sprintf("[handback] relay 127.0.0.1:10626: the Postfix of %s has it", second); r.code == 0 || !strings.Contains(r.stderr, want) {
				t.Errorf("%s, the other's port: exit code %d\n%s\n%s", name, r.code, r.stderr, r.stdout)
			}
		}
	}
}

// TestSetupSaysWhatElseWrites: what a program writes anew has no Millrace.
func TestSetupSaysWhatElseWrites(t *testing.T) {
	t.Parallel()
	dir := instance(t, "# Ansible managed: do not edit\ncompatibility_level = 3.6\nmyhostname = mail.example.com\n", plainMaster)
	r := millrace(t, "", "--config", configured(t, ""), "setup", "--dry-run", "--postfix-config", dir)
	if want := fmt.Sprintf("note: %s/main.cf:1 says %q", dir, "Ansible managed: do not edit"); !strings.Contains(r.stderr, want) {
		t.Errorf("without %q:\n%s", want, r.stderr)
	}
}

// TestCheckOffersWhatHolds: the socket is where listen says, and commands are for the
// instance that was looked at.
func TestCheckOffersWhatHolds(t *testing.T) {
	t.Parallel()
	dir := instance(t, "compatibility_level = 3.6\nmyhostname = mail.example.com\nin_flow_delay = 1s\n", plainMaster)
	config := configured(t, "[milter]\nmode = \"divert\"\nverdict = \"discard\"\nlisten = [\"inet:8899@127.0.0.1\"]\n")
	r := millrace(t, "", "--config", config, "check", "--no-dns", "--postfix-config", dir)
	for _, want := range []string{
		"postconf -c " + dir + " -e 'smtpd_milters={ inet:127.0.0.1:8899, ",
		"postconf -c " + dir + " -e in_flow_delay=0",
		"millrace setup --postfix-config " + dir,
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("without %q:\n%s", want, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "unix:millrace/milter.sock") {
		t.Errorf("a socket where nobody listens:\n%s", r.stderr)
	}
}

// TestTablesBesideMainCF: "$config_directory" in a table's name is the instance's
// directory, where the copy is looked at too.
func TestTablesBesideMainCF(t *testing.T) {
	t.Parallel()
	dir := instance(t, "compatibility_level = 3.6\nmyhostname = mail.example.com\nmydestination = mail.example.com\nvirtual_alias_maps = texthash:$config_directory/virtual\n", plainMaster)
	if err := os.WriteFile(filepath.Join(dir, "virtual"), []byte("postmaster@mail.example.com root@mail.example.com\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := millrace(t, "", "--config", configured(t, "[milter]\nmode = \"observe\"\n"), "setup", "--divert", "--dry-run", "--postfix-config", dir)
	if r.code != 0 || strings.Contains(r.stderr, "virtual_alias_maps") {
		t.Errorf("exit code %d\n%s\n%s", r.code, r.stderr, r.stdout)
	}
}

// TestSetupLooksFirst: what cannot listen is not written.
func TestSetupLooksFirst(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	relay := l.Addr().String()
	dir := instance(t, "compatibility_level = 3.6\nmyhostname = mail.example.com\n", plainMaster)
	r := millrace(t, "", "--config", configured(t, fmt.Sprintf("[handback]\nrelay = %q\n", relay)), "setup", "--yes", "--no-test", "--postfix-config", dir)
	if want := "[handback] relay " + relay + ": listen tcp " + relay + ": bind: address already in use"; r.code == 0 || !strings.Contains(r.stderr, want) {
		t.Errorf("exit code %d, without %q\n%s\n%s", r.code, want, r.stderr, r.stdout)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "master.cf")); err != nil || string(text) != plainMaster {
		t.Errorf("master.cf: %v\n%s", err, text)
	}
}

// TestSetupSaysWhatARetreatLeft: a drain goes on after a retreat, and so does the mode.
func TestSetupSaysWhatARetreatLeft(t *testing.T) {
	t.Parallel()
	c := &config.Config{Milter: config.Milter{Mode: config.Divert}, Spool: config.Spool{Directory: t.TempDir()}}
	says := func() string {
		var out bytes.Buffer
		if err := afterSetup(&out, c); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := says(); !strings.Contains(got, `mode is "divert"`) {
		t.Errorf("of the mode: %q", got)
	}
	if err := beginDrain(c); err != nil {
		t.Fatal(err)
	}
	if got := says(); !strings.Contains(got, "a drain is on since") || !strings.Contains(got, "millrace drain --end") {
		t.Errorf("of the drain: %q", got)
	}
}

// TestSetupWorksAlone: one that begins while another is at work, an undo or a retreat
// too, would remove the copies that the other keeps.
func TestSetupWorksAlone(t *testing.T) {
	t.Parallel()
	dir := instance(t, "compatibility_level = 3.6\nmyhostname = mail.example.com\n", plainMaster)
	file := configured(t, "[spool]\ndirectory = \""+t.TempDir()+"\"\n[agent]\ncontrol = \"unix:"+t.TempDir()+"/control.sock\"\n")
	lock, err := os.Open(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"setup --yes --no-test", "setup --undo --yes", "retreat --yes"} {
		r := millrace(t, "", append(append([]string{"--config", file}, strings.Fields(command)...), "--postfix-config", dir)...)
		if r.code == 0 || !strings.Contains(r.stderr, "another millrace setup or retreat is at work") {
			t.Errorf("%s: exit code %d\n%s\n%s", command, r.code, r.stderr, r.stdout)
		}
	}
	if r := millrace(t, "", "--config", file, "setup", "--dry-run", "--postfix-config", dir); r.code != 0 {
		t.Errorf("a dry run: exit code %d\n%s", r.code, r.stderr)
	}
}
