package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/cmd/internal/program"
)

// judging is a backend that judges reports.
type judging struct {
	backend
	got []byte
}

func (b *judging) Feedback(_ context.Context, m []byte) ([]control.Finding, error) {
	b.got = m
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
	if len(b.got) != 256<<10 {
		t.Errorf("%d octets", len(b.got))
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
