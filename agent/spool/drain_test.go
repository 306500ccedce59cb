package spool

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDrainIsSeenByWritersAndOutlivesThem(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	if err := Drain(dir, time.Now()); err == nil {
		t.Error("a spool that is not there drains")
	}
	w, err := OpenWriter(dir, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if w.Draining(now) {
		t.Error("drains before anybody asked for it")
	}
	if _, on, err := Draining(dir); on || err != nil {
		t.Errorf("draining %v, %v", on, err)
	}
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for i := range 2 { // a second time changes nothing
		if err := Drain(dir, began.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if since, on, err := Draining(dir); err != nil || !on || !since.Equal(began) {
		t.Errorf("draining %v since %v", on, since)
	}
	if !w.Draining(now.Add(silenceGap)) {
		t.Error("an open writer does not see it")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = OpenWriter(dir, WriterOptions{}); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !w.Draining(now) {
		t.Error("a new writer does not see it")
	}
	// What cannot be read is taken for a drain.
	if err := os.WriteFile(filepath.Join(dir, drainFile), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if since, on, err := Draining(dir); err != nil || !on || !since.IsZero() {
		t.Errorf("draining %v since %v", on, since)
	}
	for range 2 {
		if err := EndDrain(dir); err != nil {
			t.Fatal(err)
		}
	}
	if w.Draining(now.Add(silenceGap)) {
		t.Error("the end is not seen")
	}
}
