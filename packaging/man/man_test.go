package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryKeyIsExplained compares the page with the keys of the shipped
// configuration, each of which an admin may look up.
func TestEveryKeyIsExplained(t *testing.T) {
	t.Parallel()
	page, err := configuration("../../agent/config")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../millrace.toml")
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for line := range strings.Lines(string(shipped)) {
		key, _, ok := strings.Cut(strings.TrimPrefix(line, "#"), " = ")
		if !ok || strings.ContainsAny(key, " .") {
			continue
		}
		keys++
		if !strings.Contains(string(page), "\n.B "+key+"\n") {
			t.Errorf("%s is not explained", key)
		}
	}
	if keys < 40 {
		t.Errorf("only %d keys found", keys)
	}
}

// TestEveryColumnIsExplained compares millrace-events(5) with the tables.
func TestEveryColumnIsExplained(t *testing.T) {
	t.Parallel()
	page, err := events("../../agent/event/event.go")
	if err != nil {
		t.Fatal(err)
	}
	columns := 0
	for _, file := range []string{"day.go", "totals.go"} {
		source, err := os.ReadFile("../../agent/outcomes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`[(,]\s*(\w+) (?:INTEGER|TEXT|BLOB)|\s(recipient),`).FindAllSubmatch(source, -1) {
			columns++
			if name := string(m[1]) + string(m[2]); !regexp.MustCompile(`\b` + name + `\b`).Match(page) {
				t.Errorf("%s is not explained", name)
			}
		}
	}
	if columns < 40 {
		t.Errorf("only %d columns found", columns)
	}
}

// TestThePagesAreWellFormed has groff read them.
func TestThePagesAreWellFormed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "./packaging/man", dir)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pages, err := filepath.Glob(dir + "/*.[1578]")
	if err != nil || len(pages) != 7 {
		t.Fatalf("%v, %v", pages, err)
	}
	for _, page := range pages {
		out, err := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z", page).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", page, err, out)
		}
	}
}
