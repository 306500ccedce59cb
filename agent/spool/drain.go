package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// A spool that drains takes no mail from the milter, whatever its configuration
// says, until an admin ends that. The file is all there is to it: it needs no
// program that runs, it outlives every restart, and the milter looks for it as it
// looks for signs of life.

// Drain begins it, durably. It is no error if it began earlier: since is then as it
// was. The spool must be there.
func Drain(dir string, now time.Time) error {
	t := tree{confined{dir: dir}, dir}
	f, err := t.fs.Open(t.path(drainFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	_, err = f.WriteAt([]byte(now.UTC().Format(time.RFC3339)+"\n"), 0)
	if err = errors.Join(err, f.Sync(), f.Close(), t.fs.SyncDir(dir)); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// EndDrain ends it, durably; it is no error if there is none.
func EndDrain(dir string) error {
	t := tree{confined{dir: dir}, dir}
	if err := t.fs.Remove(t.path(drainFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	return t.fs.SyncDir(dir)
}

// Draining reports whether the spool in dir drains, and since when, if the file says
// it. The error is that of reading it.
func Draining(dir string) (since time.Time, on bool, err error) {
	b, err := tree{confined{dir: dir}, dir}.readSmall(drainFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return since, false, nil
	case err != nil:
		return since, false, fmt.Errorf("spool: %w", err)
	}
	since, _ = time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	return since, true, nil
}

// Draining reports whether mail from the host is to stay there, since an admin
// drains the spool. Trouble with the file counts as that. It is up to silenceGap late.
func (w *Writer) Draining(now time.Time) bool {
	w.drainMu.Lock()
	defer w.drainMu.Unlock()
	if age := now.Sub(w.drainAt); age < 0 || age >= silenceGap {
		w.drainAt = now
		_, err := w.readSmall(drainFile)
		w.drains = !errors.Is(err, fs.ErrNotExist)
	}
	return w.drains
}
