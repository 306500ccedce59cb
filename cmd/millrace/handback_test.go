package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
)

func (b backend) HandBack(_ context.Context, f control.Filter) (control.Selected, error) {
	switch f {
	case control.Filter{Queue: "google"}:
		return control.Selected{Recipients: 5000}, nil
	case control.Filter{Queue: "empty"}:
		return control.Selected{}, nil
	case control.Filter{All: true}:
		return control.Selected{Recipients: 7, Active: 1}, nil
	}
	return control.Selected{}, fmt.Errorf("filter %+v", f)
}

func (b backend) HandbackStatus() control.HandbackStatus {
	return control.HandbackStatus{Relay: "127.0.0.1:10626", Done: 5000, HostQueue: 12}
}

func TestHandbackVerb(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, x := range []struct {
		args   []string
		code   int
		stdout string // all of it
		stderr string // a part
	}{
		{args: []string{"handback"}, code: 64, stderr: "say what to hand back"},
		{args: []string{"handback", "--queue", "google"}, code: 1, stderr: "--yes"},
		{args: []string{"handback", "--queue", "other", "--yes"}, code: 1, stderr: "other"},
		{args: []string{"handback", "--queue", "empty", "--yes"}, code: 1, stderr: "nothing to hand back: queue empty"},
		{args: []string{"handback", "--all", "--yes"}, stdout: "7 recipients on the way back to the host\n" +
			"1 recipient in transactions under way; run it again for what comes back\n"},
		{args: []string{"handback", "--queue", "google", "--yes", "--wait"}, stdout: "5,000 recipients on the way back to the host\n" +
			"5000 handed back, 0 waiting; host's queue 12\n"},
		{args: []string{"handback", "--wait"}, stdout: "5000 handed back, 0 waiting; host's queue 12\n"},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, x.args...)...)
		if r.code != x.code || r.stdout != x.stdout || !strings.Contains(r.stderr, x.stderr) || x.stderr == "" && r.stderr != "" {
			t.Errorf("millrace %q: exit code %d\n%s\n%s", x.args, r.code, r.stdout, r.stderr)
		}
	}
}

func TestProgressIsShownUntilTheEnd(t *testing.T) {
	t.Parallel()
	states := []control.HandbackStatus{
		{Waiting: 9, Later: 1, HostQueue: -1},
		{Waiting: 4, Done: 6, HostQueue: 6000, Held: "enough"},
		{Done: 10, HostQueue: 3},
	}
	var out strings.Builder
	n := 0
	err := follow(t.Context(), &out, "", func() (string, bool, error) {
		r := &states[min(n, 2)]
		n++
		return returning(r), r.Left() == 0, nil
	})
	// Where nobody watches: the first, and the last.
	const want = "0 handed back, 9 waiting, 1 under way or not taken by the host for now\n10 handed back, 0 waiting; host's queue 3\n"
	if err != nil || out.String() != want {
		t.Errorf("%q, %v", out.String(), err)
	}
	if s := returning(&control.HandbackStatus{Later: 2, Stuck: 2, HostQueue: -1}); s != "0 handed back, 0 waiting, 2 under way or not taken by the host for now, of them 2 stuck" {
		t.Errorf("%q", s)
	}
	if s := returning(&states[1]); s != "6 handed back, 4 waiting; host's queue 6000 (held: enough)" {
		t.Errorf("%q", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = follow(ctx, &out, "it goes on", func() (string, bool, error) { return "", false, ctx.Err() })
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "it goes on") {
		t.Errorf("interrupted: %v", err)
	}
}

func TestDrainVerb(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config, box := filepath.Join(dir, "millrace.toml"), filepath.Join(dir, "spool")
	text := fmt.Sprintf("hostname = \"mail.example.com\"\n[spool]\ndirectory = %q\n", box)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(code int, says string, args ...string) {
		t.Helper()
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, args...)...)
		if r.code != code || !strings.Contains(r.stdout+r.stderr, says) {
			t.Errorf("millrace %q: exit code %d\n%s\n%s", args, r.code, r.stdout, r.stderr)
		}
	}
	draining := func(want bool) {
		t.Helper()
		if _, on, err := spool.Draining(box); err != nil || on != want {
			t.Errorf("draining: %v, %v, want %v", on, err, want)
		}
	}
	run(1, "no such file", "drain")
	w, err := spool.OpenWriter(box, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// What check says of the machine's own Postfix is not of interest.
	const warning = "is being drained since"
	if r := millrace(t, "TZ=UTC", "--config", config, "check", "--no-dns"); strings.Contains(r.stderr, warning) {
		t.Errorf("check before: %s", r.stderr)
	}
	run(0, "diverts nothing more", "drain")
	draining(true)
	if r := millrace(t, "TZ=UTC", "--config", config, "check", "--no-dns"); !strings.Contains(r.stderr, warning) {
		t.Errorf("check: %s", r.stderr)
	}
	run(64, "contradict", "drain", "--end", "--wait")
	draining(true)
	run(0, "mode is observe", "drain", "--end")
	draining(false)
	run(0, "mode is observe", "drain", "--end")
}
