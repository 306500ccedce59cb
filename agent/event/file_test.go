package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// number is a delivery that can be told from others.
func number(n int) *Delivery {
	return &Delivery{Time: time.Unix(int64(n), 0), ID: spool.MakeID(1, uint32(n)), Relay: "none", Status: Sent, Reason: strings.Repeat("x", 1000)}
}

// numbers reads the events of files back: their ids in order, and "gap N".
func numbers(t *testing.T, b []byte) (list []string) {
	t.Helper()
	for l := range bytes.Lines(b) {
		var x struct {
			Event, ID string
			Lost      int
		}
		if err := json.Unmarshal(l, &x); err != nil {
			t.Fatalf("%v in %.60q", err, l)
		}
		if x.Event == "gap" {
			list = append(list, fmt.Sprintf("gap %d", x.Lost))
		} else {
			list = append(list, x.ID)
		}
	}
	return list
}

func ids(from, to int) (list []string) {
	for n := from; n <= to; n++ {
		list = append(list, spool.MakeID(1, uint32(n)).String())
	}
	return list
}

func closed(t *testing.T, f *File) {
	t.Helper()
	if err := f.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %d events %.200v, want %d %.200v", what, len(got), got, len(want), want)
	}
}

func TestFilesRotateAndTheOldestGoes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	for n := 1; n <= 40; n++ { // a file anew each time: sizes are those on disk
		f := NewFile(Place{Path: path, MaxSize: 10_000, Keep: 3}, quiet)
		f.Delivery(number(n))
		closed(t, f)
	}
	var all []byte
	for _, name := range []string{path + ".3", path + ".2", path + ".1", path} {
		b := read(t, name)
		if len(b) > 10_000 {
			t.Errorf("%s has %d octets", name, len(b))
		}
		all = append(all, b...)
	}
	got := numbers(t, all)
	same(t, "what is left", got, ids(41-len(got), 40))
	if len(got) < 21 {
		t.Errorf("only %d events are left in four files", len(got))
	}
	if _, err := os.Stat(path + ".4"); err == nil {
		t.Error("more files are kept than asked for")
	}
}

func TestAFileThatCannotBeRotatedGrows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := NewFile(Place{Path: path, MaxSize: 1, Keep: 1}, quiet)
	for n := 1; n <= 5; n++ {
		f.Delivery(number(n))
		until(t, func() bool { b, _ := os.ReadFile(path); return bytes.Count(b, []byte("\n")) == n })
	}
	closed(t, f)
	same(t, "events", numbers(t, read(t, path)), ids(1, 5))
}

func TestReopenFollowsLogrotate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	place := Place{Path: path}
	f := NewFile(place, quiet)
	f.Delivery(number(1))
	until(t, func() bool { b, _ := os.ReadFile(path); return len(b) > 0 })
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	f.Reopen(place)
	f.Delivery(number(2))
	closed(t, f)
	same(t, "renamed", numbers(t, read(t, path+".old")), ids(1, 1))
	same(t, "new", numbers(t, read(t, path)), ids(2, 2))
}

func TestALineCutByACrashSpoilsNoOther(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	if err := os.WriteFile(path, []byte(`{"v":1,"ti`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := NewFile(Place{Path: path}, quiet)
	f.Delivery(number(1))
	closed(t, f)
	first, rest, _ := bytes.Cut(read(t, path), []byte("\n"))
	if string(first) != `{"v":1,"ti` {
		t.Errorf("first line %q", first)
	}
	same(t, "after it", numbers(t, rest), ids(1, 1))
}

// disk is a file whose writes can be stopped, or fail after some octets.
type disk struct {
	mu      sync.Mutex
	content bytes.Buffer
	stall   chan struct{} // writes wait for it; nil: they do not
	room    int           // octets until it is full; -1: plenty
}

var errNoSpace = errors.New("no space left on device")

func (d *disk) open(string) (target, int64, error) { return d, int64(d.content.Len()), nil }
func (d *disk) Close() error                       { return nil }
func (d *disk) Write(b []byte) (int, error) {
	if d.stall != nil {
		<-d.stall
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.room < 0 || len(b) <= d.room {
		if d.room >= 0 {
			d.room -= len(b)
		}
		return d.content.Write(b)
	}
	n := d.room
	d.room = 0
	d.content.Write(b[:n])
	return n, errNoSpace
}

// TestAStalledDiskHoldsNobodyUp fills the buffer and then some while no write
// returns: who delivers is not held up, and the gap is told where it is.
func TestAStalledDiskHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{stall: make(chan struct{}), room: -1}
		f := newFile(Place{Path: "x"}, quiet, d.open)
		one := len(appendLine(nil, number(1)))
		fit := BufferSize / one
		const beyond = 100
		for n := 1; n <= fit+beyond; n++ {
			f.Delivery(number(n))
		}
		lost := int(f.Lost())
		if lost == 0 || lost > 2*beyond { // ids have more digits later on
			t.Fatalf("%d events lost", lost)
		}
		close(d.stall)
		synctest.Wait()
		f.Delivery(number(999_999))
		closed(t, f)
		kept := fit + beyond - lost
		want := append(ids(1, kept), fmt.Sprintf("gap %d", lost), spool.MakeID(1, 999_999).String())
		same(t, "events", numbers(t, d.content.Bytes()), want)
	})
}

func TestAFullDiskIsTriedAgainAndLinesStayWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: 2500} // in the third line
		f := newFile(Place{Path: "x"}, quiet, d.open)
		for n := 1; n <= 5; n++ {
			f.Delivery(number(n))
		}
		synctest.Wait()
		if !strings.Contains(f.Trouble(), "no space") {
			t.Errorf("trouble is %q", f.Trouble())
		}
		d.mu.Lock()
		d.room = -1
		d.mu.Unlock()
		time.Sleep(2 * retryEvery)
		synctest.Wait()
		if f.Trouble() != "" {
			t.Errorf("trouble is %q", f.Trouble())
		}
		closed(t, f)
		same(t, "events", numbers(t, d.content.Bytes()), ids(1, 5))
	})
}

func TestCloseTellsWhatIsNotWritten(t *testing.T) {
	t.Parallel()
	f := NewFile(Place{Path: filepath.Join(t.TempDir(), "missing", "events.jsonl")}, quiet)
	f.Delivery(number(1))
	f.Delivery(number(2))
	err := f.Close(context.Background())
	if err == nil || !strings.Contains(err.Error(), "2 events") || !strings.Contains(err.Error(), "remedy") {
		t.Errorf("error %v", err)
	}
}

func TestNoPathNoEvents(t *testing.T) {
	t.Parallel()
	f := newFile(Place{}, quiet, func(string) (target, int64, error) { t.Error("a file was opened"); return nil, 0, errNoSpace })
	f.Delivery(number(1))
	f.Reopen(Place{})
	closed(t, f)
}

// until polls a condition.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * time.Minute); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}
