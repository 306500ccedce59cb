package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the messages that Load gives into testdata")

// unpack writes the files of a txtar archive under a new directory.
func unpack(t *testing.T, a *txtar.Archive) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range a.Files {
		if f.Name == "want" {
			continue
		}
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// keysAre is the list of keys in the remedy for an unknown one.
var keysAre = regexp.MustCompile(`(?m)(the keys .* are) .*$`)

// TestBadConfigurationsSayWhatIsWrong loads each configuration of testdata/bad
// and compares all messages, with file, line and remedy.
func TestBadConfigurationsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := unpack(t, archive)
			c, _, err := Load(filepath.Join(dir, "millrace.toml"))
			var list Errors
			if !errors.As(err, &list) || c != nil {
				t.Fatalf("Load gave %v, %v; want no configuration and Errors", c, err)
			}
			got := strings.ReplaceAll(err.Error(), dir+"/", "") + "\n"
			got = keysAre.ReplaceAllString(got, "$1 ...") // each new key would change them all
			want := &archive.Files[len(archive.Files)-1]
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if string(want.Data) != got {
				t.Errorf("got:\n%s\nwant:\n%s", got, want.Data)
			}
			for _, n := range list {
				if !strings.Contains(n.Text, "; remedy: ") {
					t.Errorf("no remedy: %s", n)
				}
			}
		})
	}
}
