package lab

import (
	"os"
	"path/filepath"
	"time"
)

// WritePostfixConfig writes a configuration directory for programs that only read
// one: no Postfix runs with it.
//
// The files look older than they are: Postfix's programs wait until one is two
// seconds old, lest they read half of it.
func WritePostfixConfig(dir, main, master string) error {
	old := time.Now().Add(-time.Minute)
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Chtimes(path, old, old); err != nil {
			return err
		}
	}
	return nil
}
