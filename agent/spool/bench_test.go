package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkAppend measures durable appends, each released, beside what programs
// do that have no spool: a file for each message, synced and renamed. The
// metric is appends/s.
func BenchmarkAppend(b *testing.B) {
	for _, kib := range []int{2, 8, 50} {
		body := append([]byte("Subject: x\r\n\r\n"), bytes.Repeat([]byte("x"), kib<<10)...)
		for _, writers := range []int{1, 8, 32, 128} {
			scale := fmt.Sprintf("octets=%dK/writers=%d", kib, writers)
			b.Run("spool/"+scale, func(b *testing.B) {
				w, err := OpenWriter(b.TempDir(), WriterOptions{})
				if err != nil {
					b.Fatal(err)
				}
				defer w.Close()
				together(b, writers, int64(len(body)), func(int64) error {
					e, _ := letter(1, 1)
					r, err := w.Append(b.Context(), e, bytes.NewReader(body))
					if err != nil {
						return err
					}
					return r.Release()
				})
			})
			b.Run("files/"+scale, func(b *testing.B) {
				dir := b.TempDir()
				together(b, writers, int64(len(body)), func(n int64) error {
					return writeFile(filepath.Join(dir, fmt.Sprint(n)), body)
				})
			})
		}
	}
}

// together calls do b.N times from some goroutines.
func together(b *testing.B, goroutines int, octets int64, do func(n int64) error) {
	b.SetBytes(octets)
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := do(n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}

// writeFile makes a file durable under its name, as a queue of files does.
func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// BenchmarkHandOver measures messages from append to Follow, and an outcome of
// each, with 32 writers and 8 KB.
func BenchmarkHandOver(b *testing.B) {
	dir := b.TempDir()
	s, err := OpenStore(dir, StoreOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Load(func(ID, *Envelope, []State) error { return nil }); err != nil {
		b.Fatal(err)
	}
	w, err := OpenWriter(dir, WriterOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	body := append([]byte("Subject: x\r\n\r\n"), bytes.Repeat([]byte("x"), 8<<10)...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		together(b, 32, int64(len(body)), func(int64) error {
			e, _ := letter(1, 1)
			r, err := w.Append(b.Context(), e, bytes.NewReader(body))
			if err != nil {
				return err
			}
			return r.Release()
		})
	}()
	seen := 0
	enough := errors.New("enough")
	err = s.Follow(b.Context(), func(id ID, _ *Envelope, _ []State, _ bool) error {
		if err := s.Record(Event{ID: id, State: State{Status: Delivered, Reply: "250 2.0.0 Ok: queued as 4XyZ"}}); err != nil {
			return err
		}
		if seen++; seen == b.N {
			return enough
		}
		return nil
	})
	<-done
	if !errors.Is(err, enough) {
		b.Fatal(err)
	}
}
