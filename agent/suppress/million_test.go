//go:build !race

// Memory of one goroutine: the race detector sees nothing in it, and counts its own.

package suppress

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// TestAMillionEntries shows what they take: in memory, and to read at a start.
func TestAMillionEntries(t *testing.T) {
	const million = 1_000_000
	path := filepath.Join(t.TempDir(), "suppressed")
	l := open(t, path, policy)
	var part []Entry
	for n := range million {
		part = append(part, Entry{Address: fmt.Sprintf("customer.number.%d@provider-%d.example", n, n%5000), Stream: "news.example.com", Last: start, Bounces: 3, Class: outcome.ClassUserUnknown})
		if len(part) == 1000 {
			l.Put(part...)
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			part = part[:0]
		}
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	before := heap()
	began := time.Now()
	again := open(t, path, policy)
	took := time.Since(began)
	used := heap() - before
	t.Logf("a million entries: %d MB of memory, %d MB on disk, read in %s", used>>20, l.file.octets()>>20, took.Round(time.Millisecond))
	if used > 64<<20 {
		t.Errorf("%d MB of memory", used>>20)
	}
	if st := again.Stats(start); st.Suppressed != million {
		t.Errorf("%+v", st)
	}
	if !again.suppresses("news.example.com", "customer.number.999999@provider-4999.example", start) || again.suppresses("news.example.com", "x@y.example", start) {
		t.Error("the wrong ones are suppressed")
	}
	runtime.KeepAlive(l)
}
