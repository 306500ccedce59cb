package main

import (
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
