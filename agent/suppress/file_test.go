package suppress

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// entries reads the whole list.
func (l *List) entries(t *testing.T) map[string]Entry {
	t.Helper()
	m := map[string]Entry{}
	err := l.Each(t.Context(), time.Time{}, func(e *Entry) error {
		if _, ok := m[e.Stream+" "+e.Address]; ok {
			t.Errorf("%s of %q comes twice", e.Address, e.Stream)
		}
		m[e.Stream+" "+e.Address] = *e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// something does to a list what may come, n times.
func something(l *List, r *rand.Rand, n int, each func()) {
	for i := range n {
		stream := []string{"", "s", "Tab\there", `"quoted"`, "newline\nin it"}[r.IntN(5)]
		address := fmt.Sprintf(`%d"\%d@b.test`, r.IntN(40), r.IntN(2))
		now := start.Add(time.Duration(i) * time.Minute)
		switch r.IntN(6) {
		case 0:
			l.Delivered(stream, address, start)
		case 1:
			l.Put(Entry{Address: address, Stream: stream, Last: now})
		case 2:
			l.mu.Lock()
			l.drop(stream, address)
			l.mu.Unlock()
		default:
			l.Bounced(stream, address, outcome.ClassHostUnknown, now)
		}
		each()
	}
}

// TestACrashLeavesAMomentOfThePast cuts the file everywhere: what is read then is
// what the list was at some moment, and it can be written on.
func TestACrashLeavesAMomentOfThePast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, filepath.Join(dir, "whole"), policy)
	past := map[int64]map[string]Entry{} // by the size of the file
	note := func() { m := l.entries(t); past[l.file.octets()] = m }
	note()
	something(l, rand.New(rand.NewPCG(1, 2)), 60, note)
	content, err := os.ReadFile(l.file.path)
	if err != nil {
		t.Fatal(err)
	}
	was := past[0]
	for size := range len(content) + 1 {
		if m, ok := past[int64(size)]; ok {
			was = m
		}
		path := filepath.Join(dir, "cut")
		if err := os.WriteFile(path, content[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		cut := open(t, path, policy)
		got := cut.entries(t)
		if next, ok := past[int64(size)+1]; !reflect.DeepEqual(got, was) && !(ok && reflect.DeepEqual(got, next)) { // only its line end is missing
			t.Fatalf("cut at %d: %d entries, want %d", size, len(got), len(was))
		}
		if size%31 == 0 {
			cut.Put(Entry{Address: "new@b.test", Last: start})
			if err := cut.Flush(); err != nil {
				t.Fatal(err)
			}
			cut.close()
			got["  new@b.test"[1:]] = Entry{Address: "new@b.test", Last: start}
			again := open(t, path, policy)
			if now := again.entries(t); !reflect.DeepEqual(now, got) {
				t.Fatalf("cut at %d and written on: %v, want %v", size, now, got)
			}
		}
		cut.close()
	}
}

func TestCompactionKeepsTheList(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	l := open(t, path, policy)
	r := rand.New(rand.NewPCG(3, 4))
	something(l, r, 5000, func() {})
	want := l.entries(t)
	before := l.file.octets()
	if err := l.compact(); err != nil {
		t.Fatal(err)
	}
	if after := l.file.octets(); after*5 > before {
		t.Errorf("%d octets, before %d", after, before)
	}
	if got := l.entries(t); !reflect.DeepEqual(got, want) {
		t.Error("the list has changed")
	}
	something(l, r, 50, func() {})
	want = l.entries(t)
	if got := open(t, path, policy).entries(t); !reflect.DeepEqual(got, want) {
		t.Error("the list has changed after a start")
	}
	if _, err := os.Stat(path + ".tmp"); err == nil {
		t.Error("a file is left over")
	}
}

func TestRunCompactsWhileTheListIsInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	l := open(t, path, policy)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	for w := range 4 {
		wg.Go(func() {
			for n := range 3000 {
				a := fmt.Sprintf("%d-%d@b.test", w, n%50)
				if l.Bounced("s", a, outcome.ClassUserUnknown, start); n%3 == 0 {
					l.Delivered("s", a, start)
				}
				l.Check("s", a, start)
			}
		})
	}
	for n := range 20 {
		if err := l.compact(); err != nil {
			t.Fatal(err)
		}
		if err := l.Add(Entry{Address: fmt.Sprint(n, "@admin.test"), Last: start}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	want := l.entries(t)
	if got := open(t, path, policy).entries(t); !reflect.DeepEqual(got, want) || len(got) < 20 {
		t.Errorf("%d entries after a start, want %d", len(got), len(want))
	}
}

func TestRunSyncsWithoutBeingAsked(t *testing.T) {
	t.Parallel()
	l := fresh(t, policy)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	l.Bounced("s", "a@b.test", outcome.ClassUserUnknown, start)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for synced := false; !synced; <-tick.C {
		l.file.io.Lock()
		synced = l.file.size > int64(len(header)) && !l.file.dirty
		l.file.io.Unlock()
	}
	cancel()
	wg.Wait()
}

// TestADiskThatTakesNothing has a list that is in force all the same, says so, and
// writes everything when it can.
func TestADiskThatTakesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, []byte("in the way"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, filepath.Join(t.TempDir(), "list"), policy)
	l.file.path = filepath.Join(dir, "list")
	l.Bounced("s", "x@b.test", outcome.ClassUserUnknown, start)
	if err := l.Add(Entry{Address: "a@b.test", Last: start}); err == nil || !strings.Contains(err.Error(), "will not outlive the agent") {
		t.Errorf("error %v", err)
	}
	if !l.suppresses("s", "a@b.test", start) {
		t.Error("it is not in force")
	}
	l.Bounced("s", "y@b.test", outcome.ClassUserUnknown, start)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := open(t, l.file.path, policy).entries(t); len(got) != 3 {
		t.Errorf("on disk %v", got)
	}
}

func TestAnotherFileIsNotOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte("a letter to my aunt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(path, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remedy") {
		t.Errorf("error %v", err)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("s", "a@b.test", uint32(7), uint8(3))
	f.Add("\"\t\n", "\xff\"@b", uint32(0), uint8(0))
	f.Fuzz(func(t *testing.T, stream, address string, last uint32, bounces uint8) {
		m := mark{last: last, bounces: bounces, class: bounces % 21, seq: uint16(last)}
		e := m.entry()
		e.Stream, e.Address = stream, address
		line := appendAdd(nil, m, &e)
		if n := bytes.IndexByte(line, '\n'); n != len(line)-1 {
			t.Fatalf("line end at %d of %d", n, len(line))
		}
		got, gm, add, err := parseLine(line[:len(line)-1])
		if err != nil || !add || gm != m || got != e {
			t.Errorf("%q is read as %+v, %+v, %v, %v", line, got, gm, add, err)
		}
		got, _, add, err = parseLine(bytes.TrimSuffix(appendRemove(nil, stream, address), []byte("\n")))
		if err != nil || add || got.Stream != stream || got.Address != address {
			t.Errorf("a removal is read as %+v, %v, %v", got, add, err)
		}
		parseLine([]byte(address)) // must not panic
	})
}
