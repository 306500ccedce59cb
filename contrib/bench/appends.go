package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/agent/spool"
)

const aboutAppends = `How many messages a second become durable. *spool* is an Append and a Release each, over
one Writer. *a file each* is what a queue of files does: write a temporary file, fsync, rename, fsync of the directory.`

// appends measures the spool beside a file for each message.
func appends(ctx context.Context, b *bench) ([]section, error) {
	s := section{
		title:  "Durable appends",
		about:  aboutAppends,
		tables: []table{{title: "Messages a second", columns: []string{"writers, size", "spool", "a file each", "ratio"}}},
	}
	sizes, crowds, last := []int{2 << 10, 8 << 10, 50 << 10}, []int{1, 8, 32, 128}, 3*time.Second
	if b.quick {
		sizes, crowds, last = sizes[1:2], []int{1, 32}, 200*time.Millisecond
	}
	for _, size := range sizes {
		for _, crowd := range crowds {
			rate := func(open opener) func(context.Context) (float64, error) {
				return func(ctx context.Context) (float64, error) { return appendFor(ctx, open, crowd, size, last) }
			}
			title := fmt.Sprintf("%d, %d KB", crowd, size>>10)
			found, err := alternate(ctx, b, "Appends, "+title, []variant[float64]{
				{"spool", rate(openSpool)}, {"a file each", rate(openFiles)},
			}, count)
			if err != nil {
				return nil, err
			}
			ours, files := series(found[0]), series(found[1])
			s.tables[0].rows = append(s.tables[0].rows, []string{title, ours.cell(count), files.cell(count), ours.to(files).cell(ratio)})
			if crowd == 32 && size == 8<<10 {
				s.claims = append(s.claims, appendsToFiles.claim(ours.to(files)).because(whyAppends), appendRate.claim(ours.to(constant(10_000, len(ours)))))
			}
		}
	}
	return []section{s}, nil
}

func constant(v float64, n int) series {
	s := make(series, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// whyAppends is what two file systems of one machine showed.
const whyAppends = `On an ext4 with a journal the syncs of many files share its commits, so a file each is fast there: 5,000 a second
in a loop device, against 11,300 for the spool. On the same machine's own ext4, without a journal, it was 1,150 against 25,500,
22 times as fast (-here).`

// opener opens a way to make messages durable in a new directory.
type opener func(dir string) (store func(ctx context.Context, i int64, content []byte) error, done func() error, err error)

func openSpool(dir string) (func(context.Context, int64, []byte) error, func() error, error) {
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, i int64, content []byte) error {
		r, err := w.Append(ctx, &spool.Envelope{
			Sender: "bounce@news.sender.test", Arrived: time.Now(), Stream: "bench", QueueID: "4fKz1T0Qx9z",
			Recipients: []spool.Recipient{{Address: fmt.Sprintf("user%d@d.example", i)}},
		}, bytes.NewReader(content))
		if err != nil {
			return err
		}
		return r.Release()
	}, w.Close, nil
}

func openFiles(dir string) (func(context.Context, int64, []byte) error, func() error, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	return func(_ context.Context, i int64, content []byte) error {
		name := filepath.Join(dir, fmt.Sprintf("%016x", i))
		f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(name+".tmp", name); err != nil {
			return err
		}
		return d.Sync()
	}, d.Close, nil
}

// appendFor lets writers store messages for a time and gives messages a second.
func appendFor(ctx context.Context, open opener, writers, size int, last time.Duration) (rate float64, err error) {
	dir, err := os.MkdirTemp("", "bench-appends-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, done, err := open(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	content := append([]byte("Subject: x\r\n\r\n"), bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef01234567890123\r\n"), size/64)...)
	var next atomic.Int64
	began := time.Now()
	workers, ctx := errgroup.WithContext(ctx)
	for range writers {
		workers.Go(func() error {
			for time.Since(began) < last {
				if err := store(ctx, next.Add(1), content); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = workers.Wait()
	return float64(next.Load()) / time.Since(began).Seconds(), err
}
