//go:build !race

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// TestSetupOnARunningPostfix has the command make a running Postfix ask Millrace, and
// take it back; and shows that what "postfix check" refuses is put back as it was.
func TestSetupOnARunningPostfix(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{postfix: lab.PostfixOptions{Extra: map[string]string{"smtpd_milters": ""}}})
	programs, err := lab.Programs()
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) (string, error) {
		all := append([]string{"--config", r.Millrace.Config(), "setup", "--postfix-config", r.Postfix.Config(), "--yes", "--no-test"}, args...)
		out, err := exec.CommandContext(r.ctx, filepath.Join(programs, "millrace"), all...).CombinedOutput()
		return string(out), err
	}
	files := func() string {
		text := ""
		entries, err := os.ReadDir(r.Postfix.Config())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				text += "== " + e.Name() + "\n" + read(t, filepath.Join(r.Postfix.Config(), e.Name()))
			}
		}
		return text
	}
	// A reload takes effect with the next smtpd, a moment later.
	n := 0
	goes := func(ours bool) {
		t.Helper()
		r.until(fmt.Sprintf("mail by Millrace: %t", ours), func() bool {
			n++
			id := fmt.Sprintf("setup-%d", n)
			r.send("news@lab.test", []string{"ann@far.test"}, news(id))
			var got []arrival
			r.until(id+" arrives", func() bool { got = r.copies(id); return len(got) > 0 })
			return got[0].ours() == ours
		})
	}
	before := files()
	goes(false)

	if out, err := command(); err != nil || !strings.Contains(out, "+smtpd_milters = { unix:millrace/milter.sock") {
		t.Fatalf("%v\n%s", err, out)
	}
	goes(true)
	if out, err := command(); err != nil || !strings.Contains(out, "nothing is to be changed") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
	if out, err := command("--undo"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if after := files(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	goes(false)

	// A mistake of the admin's that postconf does not mind and Postfix does.
	main := filepath.Join(r.Postfix.Config(), "main.cf")
	if err := os.WriteFile(main, []byte(read(t, main)+"inet_protocols = ipv9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wrong := read(t, main)
	out, err := command()
	if err == nil || !strings.Contains(out, "everything is as it was") {
		t.Errorf("postfix check was not asked: %v\n%s", err, out)
	}
	if now := read(t, main); now != wrong {
		t.Errorf("main.cf after a set-up that failed:\n%s", now)
	}
}

// A host where mail comes back at the port, as set-ups before the socket have it, goes
// on so after an upgrade, with a warning; setup, run again, shows the change and makes
// it, and the agent takes it over while it runs.
func TestSetupMovesTheHandbackPortToASocket(t *testing.T) {
	t.Parallel()
	const port = 10626
	r := enter(t, setup{
		postfix:   lab.PostfixOptions{HandbackPort: port},
		providers: strictAndFar(),
		furnish: func(m *lab.Millrace) { // a configuration of old: the default
			text := ""
			for line := range strings.Lines(read(t, m.Config())) {
				if !strings.HasPrefix(line, "relay = ") {
					text += line
				}
			}
			if err := os.WriteFile(m.Config(), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		},
	})
	home := func(id, place string) {
		t.Helper()
		r.send("news+"+id+"@lab.test", []string{id + "@strict.test"}, news(id))
		r.mailbox("news+"+id+"@lab.test", 1)
		r.logLine(r.Millrace.Agent, "to=<news+"+id+"@lab.test>", "relay=", place, "status=\"handed back\"")
	}
	socket := filepath.Join(r.Postfix.Queue(), "public", "millrace")
	exposed := func() bool {
		lines, _ := check(r.ctx, t, r.Millrace, r.Postfix)
		return len(logbuf.Lines(strings.Join(lines, "\n"), "any local user can listen", "remedy: run millrace setup")) == 1
	}
	master := filepath.Join(r.Postfix.Config(), "master.cf")
	before := read(t, master)
	home("port", "127.0.0.1]:"+strconv.Itoa(port))
	if !exposed() {
		t.Error("millrace check does not warn of the port")
	}
	out, err := r.setupCommand()
	if err != nil || !strings.Contains(out, `+relay = "unix:`+socket+`"`) || !strings.Contains(out, "+millrace unix n ") {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := r.Millrace.Agent.Reload(); err != nil {
		t.Fatal(err)
	}
	r.until("reloaded", func() bool { return len(logbuf.Lines(read(t, r.Millrace.Agent.Log()), "configuration reloaded")) > 0 })
	home("socket", "localhost["+socket+"]")
	if exposed() {
		t.Error("millrace check warns of a port that is no more")
	}
	if out, err := r.setupCommand("--undo"); err != nil || !strings.Contains(out, "afterwards Postfix has no place where mail comes back: while the host's MTA is down") {
		t.Fatalf("%v\n%s", err, out)
	}
	if after := read(t, master); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
