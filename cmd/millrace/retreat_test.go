package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
)

// stopped is a backend with mail that an admin has stopped, or that is still loading.
type stopped struct {
	backend
	status   control.Status
	standing control.StandingOrders
	open     []control.Transfer
}

func (b stopped) Status() control.Status           { return b.status }
func (b stopped) Transfers() []control.Transfer    { return b.open }
func (b stopped) Standing() control.StandingOrders { return b.standing }

// TestRetreatMindsWhatIsStopped: mail that is held is queued mail, and what an admin
// has stopped must not be delivered by Postfix instead.
func TestRetreatMindsWhatIsStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // no Postfix there
	for name, x := range map[string]struct {
		b      stopped
		args   string
		code   int
		stderr string
	}{
		"held":         {b: stopped{status: control.Status{Held: 3}}, args: "--yes", code: 1, stderr: "3 recipients on hold"},
		"held, check":  {b: stopped{status: control.Status{Held: 3}}, args: "--check", code: 1, stderr: "3 recipients queued"},
		"moved, check": {b: stopped{open: []control.Transfer{{ID: "T", Node: "b"}}}, args: "--check", code: 1, stderr: "1 transfer of mail to or from other nodes open; remedy: millrace move --list"},
		"paused": {b: stopped{status: control.Status{Waiting: 1}, standing: control.StandingOrders{Pauses: []control.Pause{{Reason: "price"}}}},
			args: "--yes", code: 1, stderr: "1 brake on"},
		"loading":        {b: stopped{status: control.Status{Loading: true}}, args: "--yes", code: 1, stderr: "still reading the spool"},
		"loading, check": {b: stopped{status: control.Status{Loading: true}}, args: "--check", code: 1, stderr: "still reading the spool"},
	} {
		r := millrace(t, "MAIL_CONFIG="+dir, "--config", serve(t, x.b), "retreat", x.args)
		if r.code != x.code || !strings.Contains(r.stderr, x.stderr) {
			t.Errorf("%s: exit code %d\n%s\n%s", name, r.code, r.stdout, r.stderr)
		}
	}
	if s := (control.Status{Waiting: 1, Deferred: 2, Active: 4, Held: 8}); s.Queued() != 15 {
		t.Errorf("%d of 15 are queued", s.Queued())
	}
}

// TestRetreatOfANode: what a node has of shared limits would get to nobody else, which is said; it
// keeps nobody from removing Millrace, since without the store no node can leave.
func TestRetreatOfANode(t *testing.T) {
	t.Parallel()
	for state, told := range map[string]bool{
		"": false,
		`{"Fleet": "mail", "Node": "mx1", "Active": true, "Table": {"Version": "7", "Members": ["mx1", "mx2"], "Divisor": 2, "Low": 2}}`: true,
		`{"Fleet": "mail", "Node": "mx1", "Table": {"Version": "8"}}`:                                                                    false, // it has left
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "fleet.json"), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "millrace.toml")
		text := "hostname = \"mail.example.com\"\n[spool]\ndirectory = \"" + dir + "/spool\"\n[agent]\ncontrol = \"unix:" + dir + "/s\"\nstate_directory = \"" + dir + "\"\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := millrace(t, "MAIL_CONFIG="+dir, "--config", path, "retreat", "--check")
		if r.code != 0 || strings.Contains(r.stderr, "millrace fleet leave") != told {
			t.Errorf("%s: exit code %d\n%s\n%s", state, r.code, r.stdout, r.stderr)
		}
	}
}
