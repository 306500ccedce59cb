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
	// bufferSize is how many octets of events wait for a disk that stalls: some
	// 30,000 events, a minute at 500 a second.
	bufferSize = 16 << 20
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
	log  *slog.Logger
	open func(path string) (target, int64, error) // and the size

	mu      sync.Mutex
	buf     []byte // whole lines, not yet taken by the writer
	held    int    // octets that the writer has taken and not yet written
	lost    int64  // events since the buffer was full, not yet told by a gap line
	from    time.Time
	until   time.Time
	gone    int64  // lost ever
	place   Place  // wanted
	renew   bool   // the file is to be opened anew
	trouble string // why nothing is written; "" if all is well

	wake    chan struct{} // something above has changed
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
		log: log, open: open, place: place, renew: true,
		wake: make(chan struct{}, 1), stop: stop, stopped: make(chan struct{}),
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
	if place.Path == "" {
		f.buf = f.buf[:0]
		f.lost = 0
	}
	f.nudge()
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
	b := appendLine(nil, d) // outside of the mutex: this is most of the work
	if len(b) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Once one was lost all are until the gap is told, so that it stands in its place.
	if f.lost > 0 || len(f.buf)+f.held+len(b) > bufferSize {
		if f.lost == 0 {
			f.from = d.Time
			f.log.Error("events are lost: the disk of the event file does not keep up", "file", f.place.Path)
		}
		f.lost++
		f.gone++
		f.until = d.Time
		return
	}
	f.buf = append(f.buf, b...)
	f.nudge()
}

// Lost is how many events were lost since the start.
func (f *File) Lost() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

// Trouble says why no events can be written, "" if they can.
func (f *File) Trouble() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble
}

// Close writes what waits, and gives up when ctx ends: a disk that stalls cannot
// be interrupted.
func (f *File) Close(ctx context.Context) error {
	f.stop()
	select {
	case <-f.stopped:
		f.mu.Lock()
		defer f.mu.Unlock()
		if n := int64(bytes.Count(f.buf, []byte{'\n'})) + f.lost; n > 0 {
			return fmt.Errorf("event file: %d events not written: %s", n, f.trouble)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("event file: the disk stalls; events in memory are not written: %w", context.Cause(ctx))
	}
}

// nudge wakes the writer. Callers hold mu.
func (f *File) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run is the writer. It owns the open file and what it took from the buffer.
func (f *File) run(ctx context.Context) {
	defer close(f.stopped)
	w := writer{file: f}
	defer w.close()
	for {
		again := f.wake
		var later <-chan time.Time
		if err := w.work(); err != nil {
			again, later = nil, time.After(retryEvery)
		}
		select {
		case <-again:
		case <-later:
		case <-ctx.Done():
			_ = w.work() // what came since; an error is in trouble
			w.giveBack()
			return
		}
	}
}

// take moves what waits to the writer, and says where to write it. If there is a
// gap its line comes last: once all that the writer had is written, for until
// then the gap may grow.
func (f *File) take(pending []byte) (_ []byte, place Place, renew bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	place, renew, f.renew = f.place, f.renew, false
	over := len(pending) == 0
	pending = append(pending, f.buf...)
	f.buf = f.buf[:0]
	if cap(f.buf) > bufferSize/8 {
		f.buf = nil // a stall is over; do not keep its memory
	}
	if f.lost > 0 && over {
		pending = encode(pending, gap{Version, stamp(f.from), "gap", stamp(f.until), f.lost})
		f.log.Error("events were lost", "file", place.Path, "events", f.lost, "from", f.from, "until", f.until)
		f.lost = 0
	}
	f.held = len(pending)
	return pending, place, renew
}

// wrote tells how much the writer still holds, and how it fares.
func (f *File) wrote(held int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = held
	if held == 0 && f.lost > 0 {
		f.nudge() // nobody else may come to have the gap told
	}
	before := f.trouble
	f.trouble = ""
	if err != nil {
		f.trouble = err.Error()
	}
	switch {
	case err != nil && before == "":
		f.log.Error("cannot write the event file; events wait in memory", "file", f.place.Path, "err", err)
	case err == nil && before != "":
		f.log.Info("the event file is written again", "file", f.place.Path)
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
	var renew bool
	w.pending, w.place, renew = w.file.take(w.pending)
	if renew {
		w.close()
		w.stays = false
		w.cut = 0 // a line that was cut stands whole in the new file
	}
	if w.place.Path == "" {
		w.pending = nil
	}
	err := w.write()
	w.file.wrote(len(w.pending), err)
	if cap(w.pending) > bufferSize/8 && len(w.pending) == 0 {
		w.pending = nil
	}
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
		w.file.wrote(len(rest), nil)
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
		w.file.log.Error("cannot rotate the event file; it grows", "err", err)
		return
	}
	w.close()
}

func (w *writer) close() {
	if w.out != nil {
		if err := w.out.Close(); err != nil {
			w.file.log.Error("closing the event file", "err", err)
		}
		w.out = nil
	}
}

// giveBack lets Close count what could not be written.
func (w *writer) giveBack() {
	f := w.file
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf, f.held = append(w.pending, f.buf...), 0
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
