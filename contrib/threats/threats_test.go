// Package threats keeps the threat model of README.md honest. Each threat in it names the
// tests that show it stopped; the test here fails if one of them does not exist in the
// package that is named.
package threats

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named finds `package TestName`.
var named = regexp.MustCompile("`([a-z0-9/-]+) ((?:Test|Fuzz)[A-Za-z0-9]+)`")

func TestEveryNamedTestExists(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	list := named.FindAllStringSubmatch(string(page), -1)
	if words := regexp.MustCompile(`(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(page), -1); len(list) == 0 || len(words) != len(list) {
		t.Errorf("%d tests are named, %d of them with their package in front", len(words), len(list))
	}
	for _, m := range list {
		if ok, err := hasTest(filepath.Join("../..", m[1]), m[2]); err != nil {
			t.Error(err)
		} else if !ok {
			t.Errorf("%s has no func %s", m[1], m[2])
		}
	}
	if ok, err := hasTest(".", "TestThatIsNotThere"); ok || err != nil {
		t.Errorf("found what is not there: %v", err)
	}
}

func hasTest(dir, name string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		return false, fmt.Errorf("no tests in %s: %w", dir, err)
	}
	for _, path := range files {
		code, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if strings.Contains(string(code), "\nfunc "+name+"(") {
			return true, nil
		}
	}
	return false, nil
}

// Every row of a table has its test.
func TestEveryThreatNamesATest(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| tries |") {
			continue
		}
		rows++
		if !named.MatchString(line) {
			t.Errorf("no test: %s", line)
		}
	}
	if rows == 0 {
		t.Error("no threats")
	}
}
