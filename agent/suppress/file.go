package suppress

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

// file is the log on disk. Two locks: List.mu guards what is pending, io the
// disk; io is taken first where both are.
type file struct {
	path    string
	pending []byte // lines to be written; guarded by List.mu
	lines   int    // in the file and pending; guarded by List.mu
	lost    int    // lines that did not fit into pending; guarded by List.mu

	io    sync.Mutex
	out   *os.File // nil: not open
	rest  []byte   // taken from pending, not written: the disk is full
	size  int64
	dirty bool // written and not synced
}

// maxPending bounds the memory of lines that a disk does not take: 100,000 or more.
const maxPending = 8 << 20

// add and remove have a line written. Callers hold List.mu.
func (f *file) add(m mark, e *Entry) { f.append(func(b []byte) []byte { return appendAdd(b, m, e) }) }

func (f *file) remove(stream, address string) {
	f.append(func(b []byte) []byte { return appendRemove(b, stream, address) })
}

func (f *file) append(line func([]byte) []byte) {
	if len(f.pending) > maxPending {
		f.lost++
		return
	}
	f.pending = line(f.pending)
	f.lines++
}

// load reads the file into a table and returns how many lines could not be read.
func (f *file) load(t *table) (bad int, err error) {
	in, err := os.Open(f.path)
	if durable.Missing(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f.size = int64(len(header))
	defer in.Close()
	err = scan(in, func(line []byte) error {
		f.lines++
		f.size += int64(len(line)) + 1
		switch e, m, add, err := parseLine(line); {
		case err != nil:
			bad++
		case add:
			t.marks[t.key(e.Stream, e.Address)] = m
			t.seq = m.seq
		default:
			t.drop(e.Stream, e.Address)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w; remedy: move it away; the list begins anew then", f.path, err)
	}
	return bad, err
}

var errHeader = errors.New("this is no suppression list of this version")

// scan calls yield for every line behind the header.
func scan(in io.Reader, yield func(line []byte) error) error {
	r := bufio.NewReaderSize(in, 1<<16)
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			return nil
		case errors.Is(err, bufio.ErrBufferFull): // none of ours is that long
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.ReadSlice('\n')
			}
			line = nil
		}
		if err != nil && err != io.EOF {
			return err
		}
		if first && string(line) == header {
			continue
		}
		if first && !bytes.HasPrefix([]byte(header), line) { // cut short: nothing behind it
			return errHeader
		}
		if err := yield(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
			return err
		}
	}
}

// each calls yield for every line of the file that puts an entry on the list. All
// that is pending has been flushed.
func (f *file) each(yield func(*Entry, mark) error) error {
	in, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	return scan(in, func(line []byte) error {
		if e, m, add, err := parseLine(line); err == nil && add {
			return yield(&e, m)
		}
		return nil
	})
}

func (f *file) octets() int64 {
	f.io.Lock()
	defer f.io.Unlock()
	return f.size
}

// Flush writes what is pending, without a sync.
func (l *List) Flush() error {
	l.file.io.Lock()
	defer l.file.io.Unlock()
	return l.flushLocked()
}

func (l *List) flushLocked() error {
	f := &l.file
	for {
		l.mu.Lock()
		if len(f.rest) == 0 {
			f.rest, f.pending = f.pending, nil
		}
		lost := f.lost
		f.lost = 0
		l.mu.Unlock()
		if lost > 0 {
			l.log.Error("the suppression list could not be written for too long; entries will not outlive the agent", "file", f.path, "entries", lost)
		}
		if len(f.rest) == 0 {
			return nil
		}
		if err := f.open(); err != nil {
			return err
		}
		n, err := f.out.Write(f.rest)
		f.size += int64(n)
		f.dirty = f.dirty || n > 0
		f.rest = f.rest[n:] // after a short write the line goes on where it broke off
		if err != nil {
			return err
		}
	}
}

// open opens the file for appending, or makes it. A last line that was cut short
// is ended, so that it spoils no other.
func (f *file) open() error {
	if f.out != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	size, err := mend(out)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		return errors.Join(err, out.Close())
	}
	f.out, f.size, f.dirty = out, size, true
	return nil
}

func mend(out *os.File) (int64, error) {
	info, err := out.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	switch {
	case size < int64(len(header)): // new, or cut short before there was an entry
		if err := out.Truncate(0); err != nil {
			return 0, err
		}
		_, err := out.WriteString(header)
		return int64(len(header)), err
	default:
		last := make([]byte, 1)
		if _, err := out.ReadAt(last, size-1); err != nil {
			return 0, err
		}
		if last[0] == '\n' {
			return size, nil
		}
		_, err := out.Write([]byte{'\n'})
		return size + 1, err
	}
}

// Sync writes what is pending, durable when it returns nil.
func (l *List) Sync() error {
	l.file.io.Lock()
	defer l.file.io.Unlock()
	f := &l.file
	if err := l.flushLocked(); err != nil {
		return fmt.Errorf("suppression list: this is in force, but will not outlive the agent: %w", err)
	}
	if !f.dirty {
		return nil
	}
	if err := f.out.Sync(); err != nil {
		return fmt.Errorf("suppression list: this is in force, but may not outlive the host: %w", err)
	}
	f.dirty = false
	return nil
}

const (
	syncEvery  = time.Second
	sweepEvery = time.Hour
	// spare is how many lines of no use are no reason to write the file anew.
	spare = 10_000
)

// Run writes and syncs the file, forgets what has expired, and writes the file
// anew when it is worth it, until ctx ends.
func (l *List) Run(ctx context.Context) {
	tick, sweep := time.NewTicker(syncEvery), time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer sweep.Stop()
	l.sweep(time.Now())
	failing := false
	said := func(err error) {
		if err != nil && !failing {
			l.log.Error("cannot write the suppression list; it is in force and tried again", "err", err)
		}
		failing = err != nil
	}
	for {
		wake := l.wake
		if failing {
			wake = nil // the tick tries again
		}
		select {
		case <-ctx.Done():
			said(l.Sync())
			l.close()
			return
		case <-wake:
			if err := l.Flush(); err != nil {
				said(err)
			}
		case <-tick.C:
			err := l.Sync()
			if err == nil && l.wasteful() {
				err = l.compact()
			}
			said(err)
		case now := <-sweep.C:
			l.sweep(now)
		}
	}
}

func (l *List) close() {
	l.file.io.Lock()
	defer l.file.io.Unlock()
	if l.file.out != nil {
		l.file.out.Close() // synced; nothing is left to fail
		l.file.out = nil
	}
}

// sweep forgets what has expired, a part at a time so that nobody waits for long.
// The file needs no word of it.
func (l *List) sweep(now time.Time) {
	p := l.policy.Load()
	var gone []uint64
	l.mu.RLock()
	for k, m := range l.table.marks {
		if e := m.entry(); !e.alive(p, now) {
			gone = append(gone, k)
		}
	}
	l.mu.RUnlock()
	for len(gone) > 0 {
		part := gone[:min(1000, len(gone))]
		gone = gone[len(part):]
		l.mu.Lock()
		for _, k := range part {
			if e := l.table.marks[k].entry(); !e.alive(p, now) { // it may have bounced meanwhile
				delete(l.table.marks, k)
			}
		}
		l.size.Store(int64(len(l.table.marks)))
		l.mu.Unlock()
	}
}

func (l *List) wasteful() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.file.lines > 2*len(l.table.marks)+spare
}

// compact writes the file anew with the current lines only. The new file is
// whole and synced before it takes the old one's name: a crash leaves either.
// Lines that come meanwhile wait in pending and go to the new file.
func (l *List) compact() error {
	l.file.io.Lock()
	defer l.file.io.Unlock()
	if err := l.flushLocked(); err != nil {
		return err
	}
	f := &l.file
	tmp, err := os.OpenFile(f.path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(tmp, 1<<16)
	w.WriteString(header)
	size, lines := int64(len(header)), 0
	var b []byte
	err = f.each(func(e *Entry, m mark) error {
		l.mu.RLock()
		current := l.table.current(e.Stream, e.Address, m)
		l.mu.RUnlock()
		if !current {
			return nil
		}
		b = appendAdd(b[:0], m, e)
		size += int64(len(b))
		lines++
		_, err := w.Write(b)
		return err
	})
	if err = errors.Join(err, w.Flush()); err == nil {
		err = tmp.Sync()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}
	old := f.out
	f.out, f.size, f.dirty = tmp, size, false
	if old != nil {
		old.Close() // all of it is in the new one
	}
	l.mu.Lock()
	f.lines = lines + bytes.Count(f.pending, []byte{'\n'})
	l.mu.Unlock()
	return syncDir(filepath.Dir(f.path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
