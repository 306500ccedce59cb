package spool

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Neither a directory that was made too open nor the umask of who starts a
// daemon opens the spool to others.
func TestSpoolIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	store, err := OpenStore(dir, StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w, err := OpenWriter(dir, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	e := &Envelope{Sender: "a@b.test", Recipients: []Recipient{{Address: "c@d.test"}}}
	if _, err := w.Append(t.Context(), e, strings.NewReader("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		if i.Mode().IsRegular() {
			files++
		}
		if i.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", path, i.Mode())
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}
