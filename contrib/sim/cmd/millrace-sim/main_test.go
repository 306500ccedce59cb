package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func output(t *testing.T, args ...string) string {
	t.Helper()
	var o options
	p, err := kong.New(&o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(args); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := o.run(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPrintsAndDrawsTheKindsNamed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plots")
	got := output(t, "--seeds=1", "--plots", dir, "client 20", "our own ceiling")
	if strings.Count(got, "\n") != 3 || !strings.Contains(got, "client 20, server 5") {
		t.Errorf("printed\n%s", got)
	}
	f, err := os.Open(filepath.Join(dir, "client-20-server-5.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok && (string(text) == "sessions" || string(text) == "messages/s" || string(text) == "refusals/s") {
			lines++
		}
	}
	if lines != 3 {
		t.Errorf("%d of 3 lines in the picture", lines)
	}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	got := output(t, "--seeds=1", "--markdown", "client 20")
	for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
		if strings.Count(line, "|") != 10 {
			t.Errorf("line %q", line)
		}
	}
}

func TestListsAllKinds(t *testing.T) {
	t.Parallel()
	if n := strings.Count(output(t, "--list"), "\n"); n < 40 {
		t.Errorf("%d kinds", n)
	}
}

func TestUnknownKindIsToldWithARemedy(t *testing.T) {
	t.Parallel()
	o := options{Kinds: []string{"nonsense"}}
	if err := o.run(io.Discard); err == nil || !strings.Contains(err.Error(), "--list") {
		t.Errorf("error %v", err)
	}
}
