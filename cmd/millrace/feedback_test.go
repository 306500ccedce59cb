package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/cmd/internal/program"
)

// judging is a backend that judges reports.
type judging struct {
	backend
	octets atomic.Int64 // of the last one
}

func (b *judging) Feedback(_ context.Context, m []byte) ([]control.Finding, error) {
	b.octets.Store(int64(len(m)))
	if strings.HasPrefix(string(m), "Subject:") {
		return nil, nil
	}
	return []control.Finding{
		{Kind: "late_bounce", Result: "counted", ID: "M1-2", Recipient: "bob@remote.example", Stream: "news"},
		{Kind: "complaint", Result: "unverified", Why: "no mark of ours came back with it"},
	}, nil
}

func TestFeedbackSaysWhatCameOfIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	letter, report := filepath.Join(dir, "letter"), filepath.Join(dir, "report")
	for file, text := range map[string]string{letter: "Subject: hello\n\n", report: "From: mailer-daemon\n\n" + strings.Repeat("x", 300<<10)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &judging{}
	config := serve(t, b)
	out := millrace(t, "TZ=UTC", "--config", config, "feedback", report).stdout
	if want := "failed <bob@remote.example> of M1-2 in stream \"news\": counted\ncomplaint: unverified, as no mark of ours came back with it\n"; out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if n := b.octets.Load(); n != 256<<10 {
		t.Errorf("%d octets", n)
	}
	if out := millrace(t, "TZ=UTC", "--config", config, "feedback", letter).stdout; out != "no delivery report and no complaint\n" {
		t.Errorf("of a letter: %s", out)
	}
}

// A pipe's exit code has the MTA try again where the agent is away, and nothing else.
func TestFeedbackExitCodesArePipes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g := &globals{}
	g.Config = filepath.Join(dir, "millrace.toml")
	text := "hostname = \"mail.example.com\"\n[agent]\ncontrol = \"unix:" + filepath.Join(dir, "none") + "\"\n"
	if err := os.WriteFile(g.Config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int{g.Config: 75, filepath.Join(dir, "missing"): 66} {
		err := (&feedbackCmd{File: file}).Run(t.Context(), g)
		if e, ok := errors.AsType[program.Error](err); !ok || e.Code != want {
			t.Errorf("%s: %v, want exit code %d", file, err, want)
		}
	}
}

func TestCheckSaysThatNoReportEverCame(t *testing.T) {
	t.Parallel()
	for last, want := range map[string]bool{"": true, `, "last": "2026-11-02T10:00:00Z"`: false} {
		dir := t.TempDir()
		config := filepath.Join(dir, "millrace.toml")
		for file, text := range map[string]string{
			config:                             "hostname = \"mail.example.com\"\n[spool]\ndirectory = \"" + dir + "\"\n[agent]\nstate_directory = \"" + dir + "\"\n",
			filepath.Join(dir, "reports.json"): `{"sent": 10000, "since": "2026-11-01T10:00:00Z"` + last + "}\n",
		} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := millrace(t, "MAIL_CONFIG="+dir, "--config", config, "check", "--no-dns")
		if said := strings.Contains(r.stderr, "millrace: warning: 10000 recipients were sent to since 2026-11-01, and no delivery report"); said != want {
			t.Errorf("last%s: exit code %d\n%s", last, r.code, r.stderr)
		}
	}
}
