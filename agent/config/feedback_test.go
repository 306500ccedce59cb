package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// secretFile writes a key_file and returns the configuration that names it.
func secretFile(t *testing.T, text string, mode os.FileMode) (dir, config string) {
	t.Helper()
	dir = t.TempDir()
	file := filepath.Join(dir, "keys")
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return dir, fmt.Sprintf("hostname = \"mail.example.com\"\n[feedback]\nkey_file = %q\n", file)
}

func TestSharedSecretsAreRead(t *testing.T) {
	t.Parallel()
	fresh, old := strings.Repeat("a", 32), strings.Repeat("b", 64)
	dir, text := secretFile(t, "# of all our hosts\n"+fresh+"\n\n"+old+"\n", 0o600)
	path := filepath.Join(dir, "millrace.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Feedback.Secrets; len(s) != 2 || string(s[0]) != fresh || string(s[1]) != old {
		t.Errorf("%q", s)
	}
	// What others can read is no secret; the daemons start all the same.
	if err := os.Chmod(filepath.Join(dir, "keys"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, _, err = Load(path)
	if err != nil || len(c.Feedback.Secrets) != 0 || len(c.Refused) != 1 || c.Refused[0].Line != 3 || !strings.Contains(c.Refused[0].Text, "everybody can read") {
		t.Errorf("%v, %v", err, c)
	}
}

func TestUnusableSecretsAreErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"short\n":       "has a line of 5 characters",
		"# nothing\n\n": "has no secret in it",
	} {
		dir, config := secretFile(t, text, 0o600)
		path := filepath.Join(dir, "millrace.toml")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "openssl rand") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
