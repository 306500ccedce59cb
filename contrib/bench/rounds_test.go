//go:build !race

// The daemons carry the race detector in contrib/e2e and contrib/soak; a benchmark of
// them that does measures nothing.

package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Small rounds of everything, on a real Postfix and real daemons. No figure is
// asserted; a scenario itself fails when mail is lost or goes another way than
// its variant says.
func TestEveryScenarioMeasuresAllVariants(t *testing.T) {
	var out bytes.Buffer
	s, err := parse([]string{"-quick", "-rounds", "1", "-messages", "60", "-backlog", "200", "-bulk", "50", "-window", "44s", "-tail", "40s", "-idle", "1s",
		"-limits", "3s", "-outage", "1s", "-recovery", "10s", "-sessions", "5", "-size", "8",
		"-receivers", "2", "-without", "postfix", "-learn", "1s", "-measure", "1s", "-out", t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{settings: s, out: &out, progress: io.Discard}
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(filepath.Join(s.directory, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{asShipped, asTuned, beside, bulkApart, "agent, draining", "smtp-source", "with Millrace, beside the blast",
		"no milter", "null milter, accepted", "Millrace, accepted", "null milter, diverted", "Millrace, diverted", "agent/smtp, BDAT, TLS", "go-smtp, TLS", "Go", "kernel"} {
		if !strings.Contains(out.String(), "  "+want+" ") {
			t.Errorf("terminal: no row %q", want)
		}
		if !strings.Contains(string(written), "\n| "+want+" | ") {
			t.Errorf("report: no row %q", want)
		}
	}
	// A small run has no backlog of a million, no Postfix at the receivers, and none kills programs.
	if bytes.Count(written, []byte("not measured")) != 5 || bytes.Contains(written, []byte("NaN")) {
		t.Errorf("a claim was not measured:\n%s", written)
	}
}
