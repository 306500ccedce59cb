package eventlog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// suffix ends the names of segments.
const suffix = ".log"

const (
	magic      = "mrevent1"
	headerSize = 8 + 8 + 8 + 4
)

// segment is one file.
type segment struct {
	number uint64
	first  uint64 // sequence number of its first event
	size   int64  // octets that may be read
	last   time.Time
}

func (l *Log) path(number uint64) string {
	return filepath.Join(l.o.Dir, fmt.Sprintf("%016x%s", number, suffix))
}

func header(number, first uint64) []byte {
	b := append(make([]byte, 0, headerSize), magic...)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = binary.LittleEndian.AppendUint64(b, first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHeader returns the sequence number of a segment's first event.
func readHeader(b []byte, number uint64) (first uint64, ok bool) {
	if len(b) < headerSize || string(b[:8]) != magic || binary.LittleEndian.Uint64(b[8:]) != number ||
		binary.LittleEndian.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b[16:]), true
}

// numbers lists the segments of a directory.
func numbers(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if n, err := strconv.ParseUint(name, 16, 64); ok && err == nil && len(name) == 16 {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

// writer is the side of the disk. Its fields belong to the goroutine that runs it.
type writer struct {
	log     *Log
	begun   bool     // what earlier runs left is known
	out     *os.File // nil: the next write opens a segment
	at      int64    // octets of out that are whole records
	next    uint64   // sequence number of the next event
	number  uint64   // of the last segment
	pending []byte   // whole records
	count   uint64   // of these
	torn    bool     // out may have octets beyond at
}

// begin makes the directory, looks at what is there, and cuts the torn tail of the last segment.
func (w *writer) begin() error {
	l := w.log
	if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return fmt.Errorf("%w; remedy: let the agent's user write there", err)
	}
	list, err := numbers(l.o.Dir)
	if err != nil {
		return err
	}
	w.number = max(w.number, l.o.After)
	var found []segment
	for i, n := range list {
		w.number = max(w.number, n)
		s, count, err := l.examine(n, i == len(list)-1)
		if err != nil {
			l.o.Log.Warn("a segment of the log of events cannot be read and is left out", "file", l.path(n), "err", err)
			continue
		}
		w.next = max(w.next, s.first+count)
		found = append(found, s)
	}
	l.filesMu.Lock()
	l.segments, l.nextSeq = found, w.next
	l.filesMu.Unlock()
	w.begun = true
	return nil
}

// examine reads a segment's header; of the last one it counts the events, and cuts what
// stands behind the last whole one.
func (l *Log) examine(number uint64, last bool) (s segment, count uint64, err error) {
	f, err := os.Open(l.path(number))
	if err != nil {
		return s, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return s, 0, err
	}
	s = segment{number: number, size: info.Size(), last: info.ModTime()}
	var b []byte
	if last {
		b, err = io.ReadAll(f)
	} else {
		b = make([]byte, headerSize)
		_, err = io.ReadFull(f, b)
	}
	if err != nil {
		return s, 0, err
	}
	first, ok := readHeader(b, number)
	if !ok {
		return s, 0, errors.New("it has no header")
	}
	s.first = first
	if !last {
		return s, 0, nil
	}
	at := headerSize
	for at < len(b) {
		_, n, err := next(b[at:])
		if err != nil || n == 0 {
			break
		}
		at += n
		count++
	}
	if at < len(b) {
		l.o.Log.Info("the torn end of the log of events is cut", "file", f.Name(), "octets", len(b)-at)
		if err := os.Truncate(f.Name(), int64(at)); err != nil { // readers stop there all the same
			l.o.Log.Warn("the torn end of the log of events stays", "err", err)
		}
	}
	s.size = int64(at)
	return s, count, nil
}

// run writes until its log is closed.
func (w *writer) run(ctx context.Context) {
	l := w.log
	defer close(l.stopped)
	for {
		again := l.buffer.Wake()
		var later <-chan time.Time
		if len(w.pending) > 0 {
			again, later = nil, time.After(retryEvery)
		}
		select {
		case <-again:
			// More will come in a moment.
			select {
			case <-time.After(writeEvery):
			case order := <-l.orders:
				order(w)
			case <-ctx.Done():
			}
		case <-later:
		case order := <-l.orders:
			order(w)
		case <-ctx.Done():
			_ = w.work() // an error is in trouble
			w.close()
			return
		}
		_ = w.work() // an error is in trouble, and is tried again
	}
}

// work writes all that waits, and removes segments that are too many or too old.
func (w *writer) work() error {
	l := w.log
	var count uint64
	w.pending, count = l.buffer.Take(w.pending)
	w.count += count
	err := w.write()
	l.buffer.Wrote(len(w.pending), err)
	w.tidy()
	return err
}

// write writes the pending records whole, or none of them: what a write that failed left
// behind the last whole one is cut before the next.
func (w *writer) write() error {
	if len(w.pending) == 0 {
		return nil
	}
	l := w.log
	if !w.begun {
		if err := w.begin(); err != nil {
			return err
		}
	}
	if w.out != nil && (w.at+int64(len(w.pending)) > l.o.SegmentSize && w.at > headerSize || l.spoiled.Load() == w.number) {
		w.close()
	}
	if w.out == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	if w.torn {
		if err := w.out.Truncate(w.at); err != nil {
			return err
		}
		w.torn = false
	}
	if _, err := w.out.WriteAt(w.pending, w.at); err != nil {
		w.torn = true
		return fmt.Errorf("%w; remedy: make room on the disk of %s", err, l.o.Dir)
	}
	w.at += int64(len(w.pending))
	w.next += w.count
	w.pending, w.count = w.pending[:0], 0
	l.filesMu.Lock()
	s := &l.segments[len(l.segments)-1]
	s.size, s.last = w.at, time.Now()
	l.nextSeq = w.next
	l.filesMu.Unlock()
	return nil
}

// open begins a segment: its header is synced, then its name.
func (w *writer) open() (err error) {
	l := w.log
	if l.o.Room != nil {
		if err := l.o.Room(); err != nil {
			return err
		}
	}
	number := w.number + 1
	f, err := os.OpenFile(l.path(number), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) { // of a try that failed
		f, err = os.OpenFile(l.path(number), os.O_TRUNC|os.O_RDWR, 0o600)
	}
	if errors.Is(err, fs.ErrNotExist) {
		w.begun = false // somebody has removed the directory: the next try makes it
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(header(number, w.next), 0)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = syncDir(l.o.Dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.number, w.out, w.at = number, f, headerSize
	l.filesMu.Lock()
	l.segments = append(l.segments, segment{number: number, first: w.next, size: headerSize, last: time.Now()})
	l.filesMu.Unlock()
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (w *writer) close() {
	if w.out == nil {
		return
	}
	if w.torn {
		_ = w.out.Truncate(w.at) // else its reader stops there
		w.torn = false
	}
	if err := w.out.Close(); err != nil {
		w.log.o.Log.Warn("closing the log of events", "err", err)
	}
	w.out = nil
}

// tidy removes the oldest segments, never the one that is written to.
func (w *writer) tidy() {
	l := w.log
	l.filesMu.Lock()
	total := int64(0)
	for i := range l.segments {
		total += l.segments[i].size
	}
	var old []uint64
	now := time.Now()
	tight := w.out == nil && len(w.pending) > 0 && l.o.Room != nil && l.o.Room() != nil
	for len(l.segments) > 0 {
		s := l.segments[0]
		if w.out != nil && s.number == w.number || total <= l.o.MaxSize && now.Sub(s.last) < l.o.MaxAge && !tight {
			break
		}
		old = append(old, s.number)
		total -= s.size
		l.segments = slices.Delete(l.segments, 0, 1)
	}
	l.filesMu.Unlock()
	for _, n := range old {
		if err := os.Remove(l.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.o.Log.Warn("an old segment of the log of events stays", "err", err)
		}
	}
}

// after is the first segment from a number on.
func (l *Log) after(number uint64) (segment, bool) {
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	i, _ := slices.BinarySearchFunc(l.segments, number, func(s segment, n uint64) int { return cmp.Compare(s.number, n) })
	if i == len(l.segments) {
		return segment{}, false
	}
	return l.segments[i], true
}

// newest reports whether a segment is the last one.
func (l *Log) newest(number uint64) bool {
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	n := len(l.segments)
	return n == 0 || l.segments[n-1].number <= number
}
