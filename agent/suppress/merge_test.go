package suppress

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// TestMergeKeepsWhatSaysMore merges entries of another node's list, and tells only of what is
// suppressed here first.
func TestMergeKeepsWhatSaysMore(t *testing.T) {
	t.Parallel()
	l, err := Open(filepath.Join(t.TempDir(), "list"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.Use(Policy{Mode: Drop, After: 2, Within: time.Hour, Expire: time.Hour})
	var told []Entry
	l.Learned(func(e Entry) { told = append(told, e) })
	now := time.Now()
	learned := Entry{Address: "X@far.test", Stream: "s", Last: now, Bounces: 2, Class: outcome.ClassUserUnknown}
	l.Put(Entry{Address: "admin@far.test", Last: now})
	l.Merge(learned, Entry{Address: "admin@far.test", Last: now.Add(time.Minute), Bounces: 3, Class: outcome.ClassUserUnknown})
	if e, ok := l.Check("s", "x@far.test", now); !ok || e.Bounces != 2 {
		t.Errorf("what another learned: %+v, %v", e, ok)
	}
	if e, ok := l.Check("", "admin@far.test", now.Add(2*time.Hour)); !ok || !e.Admin() {
		t.Errorf("what an admin added: %+v, %v", e, ok)
	}
	older := learned
	older.Last, older.Bounces = now.Add(-time.Minute), 1
	l.Merge(older)
	if e, ok := l.Check("s", "x@far.test", now); !ok || e.Bounces != 2 {
		t.Errorf("an older one counts: %+v, %v", e, ok)
	}
	l.Merge(Entry{Address: "x@far.test", Stream: "s", Last: now})
	if e, ok := l.Check("s", "x@far.test", now.Add(2*time.Hour)); !ok || !e.Admin() {
		t.Errorf("an admin's replaces it: %+v, %v", e, ok)
	}
	for range 3 {
		l.Bounced("s", "y@far.test", outcome.ClassUserUnknown, now)
	}
	l.Complained("s", "z@far.test", now)
	l.Complained("s", "z@far.test", now)
	if len(told) != 2 || told[0].Address != "y@far.test" || told[0].Bounces != 2 || told[1].Class != outcome.ClassComplaint {
		t.Errorf("told of %+v", told)
	}
}
