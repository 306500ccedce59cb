package spool

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

var queuedMessages = flag.Int("queued", 100_000, "how many messages BenchmarkStart has in its spool")

// unsynced is the real file system without syncs, to fill a spool quickly.
type unsynced struct{ disk }

func (unsynced) Open(name string, flag int, perm os.FileMode) (File, error) {
	f, err := disk{}.Open(name, flag, perm)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ File }

func (unsyncedFile) Sync() error { return nil }

// BenchmarkStart measures OpenStore and Load of single-recipient messages of
// 500 octets, half of them deferred, and what the store keeps in memory.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	w, err := OpenWriter(dir, WriterOptions{FS: unsynced{}})
	if err != nil {
		b.Fatal(err)
	}
	body := append([]byte("Subject: x\r\n\r\n"), bytes.Repeat([]byte("x"), 486)...)
	var wg sync.WaitGroup
	const writers = 64
	for k := range writers {
		wg.Go(func() {
			for i := k; i < *queuedMessages; i += writers {
				e, _ := letter(i, 1)
				r, err := w.Append(b.Context(), e, bytes.NewReader(body))
				if err == nil {
					err = r.Release()
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	o := StoreOptions{FS: unsynced{}}
	s, err := OpenStore(dir, o)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	var events []Event
	err = s.Load(func(id ID, _ *Envelope, _ []State) error {
		if n++; n%2 == 0 {
			events = append(events, Event{ID: id, Recipient: 0, State: State{Tries: 1, Class: 2, Due: time.Unix(1800000000, int64(n)), Reply: "451 4.7.1 Greylisted, try again later"}})
		}
		if len(events) == 1000 {
			err := s.Record(events...)
			events = events[:0]
			return err
		}
		return nil
	})
	if err := errors.Join(err, s.Record(events...), s.Close()); err != nil || n != *queuedMessages {
		b.Fatal(n, err)
	}
	events = nil
	b.ResetTimer()
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s, err := OpenStore(dir, o)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		if err := s.Load(func(ID, *Envelope, []State) error { n++; return nil }); err != nil || n != *queuedMessages {
			b.Fatal(n, err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/message")
		b.ReportMetric(float64(after.Sys)/1e6, "MB-from-system")
		s.Close()
	}
}
