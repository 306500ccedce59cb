package spool

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkAppend measures durable appends of 8 KB messages.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			w, err := OpenWriter(b.TempDir(), WriterOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			body := append([]byte("Subject: x\r\n\r\n"), bytes.Repeat([]byte("x"), 8<<10)...)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			b.SetParallelism(writers)
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				if n.Add(1) > int64(writers) { // one for each processor is more than asked
					return
				}
				e, _ := letter(1, 1)
				for pb.Next() {
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
		})
	}
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
	b.SetBytes(int64(len(body)))
	var next atomic.Int64
	for range 32 {
		go func() {
			e, _ := letter(1, 1)
			for next.Add(1) <= int64(b.N) {
				r, err := w.Append(b.Context(), e, bytes.NewReader(body))
				if err == nil {
					err = r.Release()
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	seen := 0
	enough := errors.New("enough")
	err = s.Follow(b.Context(), func(id ID, _ *Envelope, _ bool) error {
		if err := s.Record(Event{id, 0, State{Status: Delivered, Reply: "250 2.0.0 Ok: queued as 4XyZ"}}); err != nil {
			return err
		}
		if seen++; seen == b.N {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		b.Fatal(err)
	}
}
