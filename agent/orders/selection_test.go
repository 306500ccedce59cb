package orders

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
)

// TestSelectionReadsAPageOnce selects a page, takes the spool's content away, and asks for the
// envelopes again, as settling does.
func TestSelectionReadsAPageOnce(t *testing.T) {
	t.Parallel()
	for _, recipients := range []int{1, 99} {
		const messages = 200
		ids, store, zero := spoolOf(t, messages, recipients)
		s := NewSelection(store, control.Filter{User: "joe"})
		there := func() (n int) {
			for _, id := range ids {
				if e := s.Envelope(id); e != nil && e.AuthUser == "joe" {
					n++
				}
			}
			return n
		}
		s.Page()
		if n := there(); n != messages {
			t.Errorf("%d of %d envelopes were read", n, messages)
		}
		zero()
		if n, want := there(), min(messages, keptRecipients/recipients); n != want {
			t.Errorf("%d recipients each: %d envelopes are kept, want %d", recipients, n, want)
		}
		s.Page()
		s.Envelope(0) // not the last one
		if n := there(); n != 0 {
			t.Errorf("%d envelopes are kept for the next page", n)
		}
	}
}

// spoolOf is a spool with so many messages of so many recipients each; zero overwrites them.
func spoolOf(t *testing.T, messages, recipients int) (ids []spool.ID, store *spool.Store, zero func()) {
	t.Helper()
	dir := t.TempDir()
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := spool.Envelope{Sender: "n@news.test", AuthUser: "joe", Arrived: time.Now()}
	for n := range recipients {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: fmt.Sprintf("u%d@far.test", n)})
	}
	for range messages {
		r, err := w.Append(t.Context(), &e, strings.NewReader("Subject: x\r\n\r\ny\r\n"))
		if err == nil {
			err = r.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID())
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if store, err = spool.OpenStore(dir, spool.StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Load(func(spool.ID, *spool.Envelope, []spool.State) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return ids, store, func() {
		names, err := filepath.Glob(filepath.Join(dir, "segments", "*"))
		if err != nil || len(names) == 0 {
			t.Fatalf("segments: %q, %v", names, err)
		}
		for _, name := range names {
			i, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if f, err := os.OpenFile(name, os.O_WRONLY, 0); err != nil {
				t.Fatal(err)
			} else if _, err = f.WriteAt(make([]byte, min(i.Size(), 16<<20)), 0); err != nil || f.Close() != nil {
				t.Fatal(err)
			}
		}
	}
}
