package spool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReadersStayInsideTheSpool plants links that lead out of the spool, as the
// spool's user could: root, who reads it and drains it, does not follow them.
func TestReadersStayInsideTheSpool(t *testing.T) {
	t.Parallel()
	filled := func(t *testing.T) (dir string, id ID) {
		t.Helper()
		dir = filepath.Join(t.TempDir(), "spool")
		w, err := OpenWriter(dir, WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := w.Append(context.Background(), &Envelope{Sender: "a@b.example", Recipients: []Recipient{{Address: "c@d.example"}}},
			strings.NewReader(strings.Repeat("Subject: large\r\n", 100_000))) // a file of its own
		if err == nil {
			err = r.Release()
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return dir, r.ID()
	}
	outside := func(t *testing.T) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte("root:secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	instead := func(t *testing.T, path, target string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(path), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("content", func(t *testing.T) {
		t.Parallel()
		dir, id := filled(t)
		instead(t, filepath.Join(dir, blobsDir, blobName(id)), outside(t))
		r, err := OpenReader(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if c, err := r.Open(id); err == nil {
			c.Close()
			t.Error("another file was opened as a message's content")
		}
		if _, err := r.Stats(); err == nil {
			t.Error("another file was looked at as a message's content")
		}
	})
	for _, sub := range []string{segmentsDir, journalDir} {
		t.Run(sub, func(t *testing.T) {
			t.Parallel()
			dir, _ := filled(t)
			other, _ := filled(t)
			instead(t, filepath.Join(dir, sub), filepath.Join(other, sub))
			if r, err := OpenReader(dir); err == nil {
				r.Close()
				t.Error("another directory was read")
			}
			if _, err := Verify(dir, func(Fault) {}); err == nil {
				t.Error("another directory was verified")
			}
		})
	}
	t.Run("drain", func(t *testing.T) {
		t.Parallel()
		dir, _ := filled(t)
		path := filepath.Join(dir, drainFile)
		instead(t, path, outside(t))
		if _, on, err := Draining(dir); err == nil || on {
			t.Errorf("draining: %v, %v", on, err)
		}
		missing := filepath.Join(t.TempDir(), "missing")
		instead(t, path, missing)
		_ = Drain(dir, time.Now()) // whatever it says of it
		if _, err := os.Lstat(missing); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file was made outside: %v", err)
		}
		if err := EndDrain(dir); err != nil {
			t.Error(err)
		}
		// A pipe without a writer holds nobody up.
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, on, err := Draining(dir); err == nil || on {
			t.Errorf("draining by a pipe: %v, %v", on, err)
		}
	})
}
