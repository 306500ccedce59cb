package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) {
	if otherProcess() || onFullDisk() {
		return
	}
	leaks.Main(m)
}

// smallStore keeps the files of tests small.
func smallStore(t testing.TB, files FS) StoreOptions {
	return StoreOptions{FS: files, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), journalStep: 16 << 10}
}

func smallWriter(t testing.TB, files FS) WriterOptions {
	return WriterOptions{FS: files, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), SegmentSize: 256 << 10}
}

func openWriter(t testing.TB, dir string, o WriterOptions) *Writer {
	t.Helper()
	w, err := OpenWriter(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func openStore(t testing.TB, dir string, o StoreOptions) *Store {
	t.Helper()
	s, err := OpenStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// letter is an envelope with n recipients, and content that tells i.
func letter(i, n int) (*Envelope, string) {
	e := &Envelope{
		Sender: fmt.Sprintf("bounces+%d@news.example.com", i), Args: []string{"RET=HDRS", "ENVID=x"},
		Stream: "weekly", Arrived: time.Unix(1700000000, int64(i)), QueueID: fmt.Sprintf("Q%d", i),
		ClientName: "app.example.com", ClientAddr: "192.0.2.1", Helo: "app", Protocol: "ESMTPA",
		AuthUser: "news", Daemon: "ORIGINATING", ByHost: "mail.example.com",
	}
	for r := range n {
		e.Recipients = append(e.Recipients, Recipient{Address: fmt.Sprintf("user%d@example.net", r), Args: []string{"NOTIFY=NEVER"}})
	}
	return e, fmt.Sprintf("Subject: letter %d\r\nX: y\r\n\r\n.dot\r\nno final newline %d", i, i)
}

// post appends letter i and returns its receipt.
func post(t testing.TB, w *Writer, i, n int) Receipt {
	t.Helper()
	e, content := letter(i, n)
	r, err := w.Append(context.Background(), e, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func release(t testing.TB, rs ...Receipt) {
	t.Helper()
	for _, r := range rs {
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

// seen is what a store yielded.
type seen struct {
	mu      sync.Mutex
	ids     map[ID]int
	orphans map[ID]bool
	env     map[ID]*Envelope
	states  map[ID][]State
	more    chan struct{}
}

func newSeen() *seen {
	return &seen{ids: map[ID]int{}, orphans: map[ID]bool{}, env: map[ID]*Envelope{}, states: map[ID][]State{}, more: make(chan struct{}, 1)}
}

func (s *seen) add(id ID, e *Envelope, states []State, orphan bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[id]++
	s.env[id] = e
	s.states[id] = states
	if orphan {
		s.orphans[id] = true
	}
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *seen) load(t testing.TB, st *Store) {
	t.Helper()
	if err := st.Load(func(id ID, e *Envelope, states []State) error { s.add(id, e, states, false); return nil }); err != nil {
		t.Fatal(err)
	}
}

// follow runs Follow until the test ends or the returned function is called.
func (s *seen) follow(t testing.TB, st *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- st.Follow(ctx, func(id ID, e *Envelope, states []State, orphan bool) error { s.add(id, e, states, orphan); return nil })
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Follow ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// patience is how long a test waits for what must come, for a loaded machine and
// the race detector: it ends a test that hangs, and measures nothing.
const patience = 2 * time.Minute

// until blocks until cond holds, and looks again and again.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) { return cond(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// await blocks until cond holds of what was seen.
func (s *seen) await(t testing.TB, cond func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		ok := cond()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.more:
		case <-late:
			t.Fatalf("it never came; there are %v", s.ids)
		}
	}
}

func (s *seen) has(ids ...ID) func() bool {
	return func() bool {
		for _, id := range ids {
			if s.ids[id] == 0 {
				return false
			}
		}
		return true
	}
}

func content(t testing.TB, s *Store, id ID) string {
	t.Helper()
	c, err := s.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != c.Size() {
		t.Errorf("%s: read %d octets, Size says %d", id, len(b), c.Size())
	}
	return string(b)
}

func TestReleasedMessageReachesAgentAsItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	s := openStore(t, dir, smallStore(t, nil))
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)

	big := "Subject: big\r\n\r\n" + strings.Repeat("0123456789abcdef\xff\r\n", 3<<20/19)
	for i, text := range []string{"", "\r\nbody", "A: b\r\n\r\n", "no empty line", big[:blobSize-1], big[:blobSize], big} {
		e, _ := letter(i, 3)
		r, err := w.Append(t.Context(), e, iotestHalf{strings.NewReader(text)})
		if err != nil {
			t.Fatal(err)
		}
		want := int64(len(text))
		if i := strings.Index("\r\n"+text, "\r\n\r\n"); i >= 0 {
			want = int64(i + 2)
		}
		if e.Size != int64(len(text)) || e.HeaderSize != want || e.EightBit != strings.Contains(text, "\xff") {
			t.Errorf("content %d: Size %d, HeaderSize %d, EightBit %v, want header of %d", i, e.Size, e.HeaderSize, e.EightBit, want)
		}
		release(t, r)
		got.await(t, got.has(r.ID()))
		if text != content(t, s, r.ID()) {
			t.Errorf("content %d differs", i)
		}
		again, err := s.Envelope(r.ID())
		if err != nil {
			t.Fatal(err)
		}
		for _, have := range []*Envelope{got.env[r.ID()], again} {
			if fmt.Sprintf("%+v", have) != fmt.Sprintf("%+v", e) {
				t.Errorf("envelope\n%+v, want\n%+v", have, e)
			}
		}
		if got.orphans[r.ID()] {
			t.Errorf("content %d: told to be an orphan", i)
		}
	}
}

// iotestHalf reads in odd pieces.
type iotestHalf struct{ r io.Reader }

func (h iotestHalf) Read(p []byte) (int, error) { return h.r.Read(p[:(len(p)+2)/3]) }

// readers is text, then what r gives.
func readers(text string, r io.Reader) io.Reader {
	return io.MultiReader(strings.NewReader(text), r)
}
