package assess

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/event"
)

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// Each dialect, about a message of its own: the right event, and what follows for the
// address.
func TestDialectsGiveTheirEvents(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../feedback/testdata/*/*.eml")
	if err != nil || len(files) != 30 {
		t.Fatal(err, len(files))
	}
	for i, file := range files {
		name := filepath.Join(filepath.Base(filepath.Dir(file)), filepath.Base(file))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "[suppression]\nmode = \"drop\"\nafter = 1\n")
			b, want := dialect(t, name, message(uint32(i+1), bob), bob)
			f := w.only(b)
			kind, rest, _ := strings.Cut(want, " ")
			events := w.told()
			if kind == "none" {
				if f.Kind != NoFailure || len(events) != 0 || len(w.listed()) != 0 {
					t.Errorf("%+v, %+v", f, events)
				}
				return
			}
			if len(events) != 1 || string(f.Kind) != kind {
				t.Fatalf("%+v, %+v", f, events)
			}
			d := events[0]
			if d.Recipient() != bob || d.Envelope.Stream != stream || d.Envelope.QueueID != "4Q1" || d.ID != f.ID || d.Domain != "remote.example" {
				t.Errorf("event %+v", d)
			}
			if want := strings.ReplaceAll(string(d.Status), " ", "_"); want != kind {
				t.Errorf("event %s, want %s", want, kind)
			}
			suppressed := false
			for _, x := range strings.Fields(rest) {
				key, value, _ := strings.Cut(x, "=")
				got := ""
				switch key {
				case "class":
					got = d.Class.String()
				case "dsn":
					got = d.Enhanced
				case "type":
					got = d.FeedbackType
				case "hard":
					suppressed = true
					continue
				}
				if got != value {
					t.Errorf("%s %q, want %q: %+v", key, got, value, d)
				}
			}
			if d.Status == event.LateBounce && d.Hard != suppressed {
				t.Errorf("hard %v: class %s, %q", d.Hard, d.Class, d.Reason)
			}
			suppressed = suppressed || kind == "complaint"
			if _, is := w.bounced.Check(stream, bob, d.Time); is != suppressed {
				t.Errorf("suppressed: %v", is)
			}
			if _, is := w.bounced.Check("another", bob, d.Time); is {
				t.Error("suppressed in another stream")
			}
			if counted := kind != "feedback"; (d.Uncounted == "") != counted {
				t.Errorf("uncounted: %q", d.Uncounted)
			}
		})
	}
}
