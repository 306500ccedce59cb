package milter_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/milter"
)

// With the real spool: what the agent's side finds is what the client sent,
// small or large, and what was left or refused is not there.
func TestAgentFindsWhatWasDiverted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serveSpool(t, divertAll(), milter.FromWriter(w), ln)

	large := strings.Repeat("a line of a large body\r\n", 200_000)
	m := connect(t, s, postfixVersion, actions, steps)
	for _, x := range []struct{ from, body, verdict string }{
		{"small@b.example", "text\r\n", "-<c@d.example> a"},
		{"large@b.example", large, "-<c@d.example> a"},
		{"bad@b.example", large + "bare\n", "a"},
	} {
		m.wants(m.headers(x.from, []string{"c@d.example", "x@y.example local"}, "Subject: x"), cont)
		if v := m.body(x.body); v != x.verdict {
			t.Errorf("%s: verdict %q", x.from, v)
		}
	}
	s.stop()
	if err := w.Close(); err != nil {
		t.Error(err)
	}

	store, err := spool.OpenStore(dir, spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	found := map[string]string{}
	note := func(id spool.ID, e *spool.Envelope) error {
		c, err := store.Open(id)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if len(e.Recipients) != 1 || e.Recipients[0].Address != "c@d.example" || e.QueueID != "Q1" {
			t.Errorf("envelope %+v", e)
		}
		found[e.Sender] = string(b)
		return err
	}
	if err := store.Load(func(id spool.ID, e *spool.Envelope, _ []spool.State) error { return note(id, e) }); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	if len(found) < 2 {
		err = store.Follow(t.Context(), func(id spool.ID, e *spool.Envelope, _ []spool.State, orphan bool) error {
			if orphan {
				t.Errorf("%s is an orphan", e.Sender)
			}
			if err := note(id, e); err != nil || len(found) < 2 {
				return err
			}
			return enough
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	want := map[string]string{"small@b.example": "Subject: x\r\n\r\ntext\r\n", "large@b.example": "Subject: x\r\n\r\n" + large}
	for from, content := range want {
		if found[from] != content {
			t.Errorf("%s: %d octets, want %d, or they differ", from, len(found[from]), len(content))
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d messages in the spool", len(found))
	}
}
