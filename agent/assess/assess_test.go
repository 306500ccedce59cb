package assess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/tidy"
)

func TestMain(m *testing.M) { tidy.Main(m) }

var loopKey = []byte("the loop key of this test's spool")

const (
	ann    = "ann@remote.example"
	bob    = "bob@remote.example"
	cleo   = "cleo@other.example"
	stream = "news.lists.example"
)

// world is an Assessor with all that it works with.
type world struct {
	t       *testing.T
	a       *Assessor
	options Options
	log     *logbuf.Buffer
	spool   string
	bounced *suppress.List
	keys    map[string][]string // of DKIM

	mu      sync.Mutex
	events  []event.Delivery
	lookups []string
}

func (w *world) Delivery(d *event.Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, *d)
}

// told are the events since the last call.
func (w *world) told() []event.Delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.events
	w.events = nil
	return list
}

func newWorld(t *testing.T, text string) *world {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "millrace.toml")
	text = fmt.Sprintf("hostname = \"mail.lists.example\"\n[spool]\ndirectory = %q\n[agent]\nresolvers = [\"127.0.0.1:1\"]\nstate_directory = %q\n", dir, dir) + text
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, log: &logbuf.Buffer{}, spool: dir, keys: make(map[string][]string)}
	set, err := settings.New(c, w.log.Logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.bounced, err = suppress.Open(filepath.Join(dir, "suppressed"), w.log.Logger()); err != nil {
		t.Fatal(err)
	}
	w.bounced.Use(settings.SuppressPolicy(c))
	w.options = Options{
		Log: w.log.Logger(), Mail: event.NewLog(w.log.Logger(), c.Log, time.Now()), Settings: settings.NewSource(set), Key: loopKey,
		Box: feedback.NewBox(dir), Bounced: w.bounced, Listeners: []event.Listener{w}, State: filepath.Join(dir, "state"),
		LookupKey: func(_ context.Context, name string) ([]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lookups = append(w.lookups, name)
			if k, ok := w.keys[name]; ok {
				return k, nil
			}
			return nil, errors.New("no such key")
		},
	}
	w.restart()
	t.Cleanup(func() { w.a.seen.close() })
	return w
}

// restart opens what is remembered anew.
func (w *world) restart() {
	w.t.Helper()
	if w.a != nil {
		w.a.save(time.Time{})
		w.a.seen.close()
	}
	w.a = New(w.options)
}

// take has a report judged.
func (w *world) take(b []byte) []Finding {
	w.t.Helper()
	f, err := w.a.Take(w.t.Context(), b, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// only is the one finding on a report.
func (w *world) only(b []byte) Finding {
	w.t.Helper()
	f := w.take(b)
	if len(f) != 1 {
		w.t.Fatalf("%d findings: %+v", len(f), f)
	}
	return f[0]
}

// listed are the addresses on the suppression list, suppressed or counted.
func (w *world) listed() []string {
	w.t.Helper()
	var list []string
	err := w.bounced.Each(context.Background(), time.Now(), func(e *suppress.Entry) error {
		list = append(list, e.Stream+" "+e.Address)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// sent is a message of ours.
type sent struct {
	id       spool.ID
	to       []string // recipients of the message
	only     []uint32 // of the transaction; nil: all
	arrived  time.Time
	keys     trace.Keys
	received string // in place of our field
}

func message(id uint32, to ...string) sent {
	return sent{id: spool.MakeID(1, id), to: to, arrived: time.Now(), keys: trace.NewKeys(loopKey)}
}

// field is our Received field of it.
func (m sent) field() string {
	if m.received != "" {
		return m.received
	}
	e := &spool.Envelope{QueueID: "4Q1", Protocol: "ESMTP", ByHost: "mail.lists.example", Arrived: m.arrived, Stream: stream}
	to := m.only
	for i, a := range m.to {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: a})
		if m.only == nil {
			to = append(to, uint32(i))
		}
	}
	return string(trace.Received(e, m.id, "h", &m.keys, to))
}

// dialect is one of the reports of package feedback, on a message and its recipient.
func dialect(t testing.TB, name string, m sent, rcpt string) (text []byte, want string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "feedback", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(b), "\n\n")
	for line := range strings.SplitSeq(head, "\n") {
		if v, ok := strings.CutPrefix(line, "# want: "); ok {
			want = v
		}
	}
	s := strings.ReplaceAll(body, "\n", "\r\n")
	s = strings.NewReplacer("@RCPT@", rcpt, "@FROM@", "news-bounces@lists.example", "@RECEIVED@\r\n", m.field()).Replace(s)
	if before, rest, ok := strings.Cut(s, "@BASE64:"); ok {
		plain, after, _ := strings.Cut(rest, "\r\n@")
		s = before + encode(plain+"\r\n") + after
	}
	return []byte(s), want
}
