package event

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Place says where events go.
type Place struct {
	Path    string // "" for nowhere
	MaxSize int64  // octets after which the file is rotated; 0: never
	Keep    int    // rotated files that are kept: Path.1 is the newest
}

const (
	// chunkSize is the most of one write, so that a file outgrows MaxSize little.
	chunkSize = 256 << 10
	// retryEvery is the time between tries to open or write a file that failed.
	retryEvery = time.Second
)

// target is an open file of events.
type target interface {
	Write([]byte) (int, error)
	Close() error
}

// File writes events to a file from a goroutine of its own, so that nobody who
// has an event ever waits for the disk. Close it after the last event.
type File struct {
	buffer *Buffer
	open   func(path string) (target, int64, error) // and the size

	mu    sync.Mutex
	place Place // wanted
	renew bool  // the file is to be opened anew

	left    int // lines that the writer could not write, once it has stopped
	stop    context.CancelFunc
	stopped chan struct{}
}

// NewFile starts the writer. A file that cannot be opened is reported, and tried
// again; until then events wait in the buffer.
func NewFile(place Place, log *slog.Logger) *File {
	return newFile(place, log, openAppend)
}

func newFile(place Place, log *slog.Logger, open func(string) (target, int64, error)) *File {
	ctx, stop := context.WithCancel(context.Background())
	f := &File{
		buffer: NewBuffer(log, "the event file", "file", place.Path, appendGap),
		open:   open, place: place, renew: true, stop: stop, stopped: make(chan struct{}),
	}
	go f.run(ctx)
	return f
}

// Reopen closes the file and opens the one at the new place, which may be the
// same: a program that rotates logs has renamed the old one.
func (f *File) Reopen(place Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.place, f.renew = place, true
	f.buffer.Move(place.Path)
}

// Delivery writes an event. It never waits; when the buffer is full the event is
// lost, counted, and told of by a gap line.
func (f *File) Delivery(d *Delivery) {
	f.mu.Lock()
	off := f.place.Path == ""
	f.mu.Unlock()
	if off {
		return
	}
	line := appendLine(nil, d) // outside of the mutex: this is most of the work
	if len(line) > 0 {
		f.buffer.Add(d.Time, func(b []byte) []byte { return append(b, line...) })
	}
}

func appendGap(b []byte, from, until time.Time, lost uint64) []byte {
	return encode(b, gap{Version, stamp(from), "gap", stamp(until), int64(lost)})
}

// Lost is how many events were lost since the start.
func (f *File) Lost() uint64 { return f.buffer.Lost() }

// Trouble says why no events can be written, "" if they can.
func (f *File) Trouble() string { return f.buffer.Trouble() }

// Close writes what waits, and gives up when ctx ends: a disk that stalls cannot
// be interrupted.
func (f *File) Close(ctx context.Context) error {
	f.stop()
	select {
	case <-f.stopped:
		if n := uint64(f.left) + f.buffer.Waiting(); n > 0 {
			return fmt.Errorf("event file: %d events not written: %s", n, f.Trouble())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("event file: the disk stalls; events in memory are not written: %w", context.Cause(ctx))
	}
}

// run is the writer. It owns the open file and what it took from the buffer.
func (f *File) run(ctx context.Context) {
	defer close(f.stopped)
	w := writer{file: f}
	defer w.close()
	for {
		again := f.buffer.Wake()
		var later <-chan time.Time
		if err := w.work(); err != nil {
			again, later = nil, time.After(retryEvery)
		}
		select {
		case <-again:
		case <-later:
		case <-ctx.Done():
			_ = w.work() // what came since; an error is in trouble
			f.left = bytes.Count(w.pending, []byte{'\n'})
			return
		}
	}
}

// writer is the side of the disk.
type writer struct {
	file    *File
	out     target // nil: not open
	place   Place
	size    int64
	pending []byte // whole lines
	cut     int    // octets of the first pending line that are written already
	stays   bool   // could not be rotated
}

// work writes all that waits.
func (w *writer) work() error {
	f := w.file
	w.pending, _ = f.buffer.Take(w.pending)
	f.mu.Lock()
	renew := f.renew
	w.place, f.renew = f.place, false
	f.mu.Unlock()
	if renew {
		w.close()
		w.stays = false
		w.cut = 0 // a line that was cut stands whole in the new file
	}
	if w.place.Path == "" {
		w.pending = nil
	}
	err := w.write()
	f.buffer.Wrote(len(w.pending), err)
	return err
}

func (w *writer) write() error {
	rest := w.pending
	defer func() { w.pending = append(w.pending[:0], rest...) }()
	for {
		if w.out == nil && w.place.Path != "" {
			out, size, err := w.file.open(w.place.Path)
			if err != nil {
				return err
			}
			w.out, w.size = out, size
		}
		if len(rest) == 0 {
			return nil
		}
		n := len(rest)
		if n > chunkSize {
			n = max(bytes.LastIndexByte(rest[:chunkSize], '\n'), bytes.IndexByte(rest, '\n')) + 1
		}
		if w.place.MaxSize > 0 && w.cut == 0 && w.size > 0 && w.size+int64(n) > w.place.MaxSize && !w.stays {
			w.rotate()
			continue
		}
		done, err := w.out.Write(rest[w.cut:n])
		w.size += int64(done)
		w.cut += done
		whole := bytes.LastIndexByte(rest[:w.cut], '\n') + 1
		rest, w.cut = rest[whole:], w.cut-whole
		if err != nil {
			return fmt.Errorf("%w; remedy: make room on the disk of %s", err, w.place.Path)
		}
		w.file.buffer.Wrote(len(rest), nil)
	}
}

// rotate renames the file, and those before it; the next write opens a new one.
// The old one is complete: only whole lines are in it. A file that cannot be
// renamed is better than none: it grows then, until it is opened anew.
func (w *writer) rotate() {
	name := func(i int) string { return fmt.Sprintf("%s.%d", w.place.Path, i) }
	var err error
	for i := w.place.Keep; i > 1; i-- {
		if e := os.Rename(name(i-1), name(i)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}
	if err == nil {
		err = os.Rename(w.place.Path, name(1))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.stays = true
		w.file.buffer.log.Error("cannot rotate the event file; it grows", "err", err)
		return
	}
	w.close()
}

func (w *writer) close() {
	if w.out != nil {
		if err := w.out.Close(); err != nil {
			w.file.buffer.log.Error("closing the event file", "err", err)
		}
		w.out = nil
	}
}

// openAppend opens a file of events. A last line that was cut short, by kill -9 or
// a full disk, is ended, so that it spoils no other.
func openAppend(path string) (target, int64, error) {
	// Addresses are nobody's business but the admin's.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return nil, 0, fmt.Errorf("%w; remedy: make its directory, and let the agent's user write there", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	size := info.Size()
	if last := make([]byte, 1); size > 0 {
		if _, err := f.ReadAt(last, size-1); err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		if last[0] != '\n' {
			if _, err := f.Write([]byte{'\n'}); err != nil {
				return nil, 0, errors.Join(err, f.Close())
			}
			size++
		}
	}
	return f, size, nil
}
