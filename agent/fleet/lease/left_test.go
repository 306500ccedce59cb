package lease

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"
	"time"
)

// Who left and starts again joins anew; that is no trouble to be told of.
func TestWhoLeftStartsInSilence(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "fleet.json")
	o := Options{Fleet: "mail", Node: "a", Boot: func() time.Duration { return 0 }, Log: slog.New(slog.NewTextHandler(&log, nil))}
	m, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Leave(); err != nil {
		t.Fatal(err)
	}
	if m, err = Open(path, o); err != nil {
		t.Fatal(err)
	}
	if st := m.Status(); st.Active || st.Left {
		t.Errorf("%+v of one that joins anew", st)
	}
	if log.Len() > 0 {
		t.Error(log.String())
	}
}
