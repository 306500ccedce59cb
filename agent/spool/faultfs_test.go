package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// faultFS is the real file system with a hook before each operation that
// changes something. The hook may fail it, and sees the order of all.
type faultFS struct {
	disk
	root string

	mu    sync.Mutex
	hook  func(op operation) error
	trace []operation
	// quick leaves syncs out, for tests that open many spools and ask nothing
	// of the disk.
	quick bool
}

// operation is one change: its kind, the name below root, the octets.
type operation struct {
	kind string // create, write, truncate, allocate, punch, sync, syncdir, rename, remove, lock; or "answer" by a test
	name string
	off  int64
	data []byte
}

func (o operation) String() string {
	if o.kind == "write" {
		return strings.TrimSpace(fmt.Sprintf("write %s %s", o.name, o.part()))
	}
	return strings.TrimSpace(o.kind + " " + o.name)
}

// part names the place that is written.
func (o operation) part() string {
	switch {
	case !strings.HasPrefix(o.name, segmentsDir):
		return ""
	case o.off == 0:
		return "header"
	case o.off == watermarkAt:
		return "watermark"
	case o.off == sealAt:
		return "seal"
	case o.off < recordsAt:
		return "verdict"
	}
	return "record"
}

func (f *faultFS) do(kind, name string, off int64, data []byte) error {
	if rel, err := filepath.Rel(f.root, name); err == nil {
		name = rel
	}
	op := operation{kind, name, off, data}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace = append(f.trace, op)
	if f.hook != nil {
		return f.hook(op)
	}
	return nil
}

func (f *faultFS) setHook(hook func(operation) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// since returns the trace from the n-th operation on.
func (f *faultFS) since(n int) []operation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]operation(nil), f.trace[n:]...)
}

func (f *faultFS) Open(name string, flag int, perm os.FileMode) (File, error) {
	if flag&(os.O_EXCL|os.O_TRUNC) != 0 {
		if err := f.do("create", name, 0, nil); err != nil {
			return nil, err
		}
	}
	file, err := f.disk.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

func (f *faultFS) Rename(from, to string) error {
	if err := f.do("rename", to, 0, nil); err != nil {
		return err
	}
	return f.disk.Rename(from, to)
}

func (f *faultFS) Remove(name string) error {
	if err := f.do("remove", name, 0, nil); err != nil {
		return err
	}
	return f.disk.Remove(name)
}

func (f *faultFS) SyncDir(dir string) error {
	if err := f.do("syncdir", dir, 0, nil); err != nil || f.quick {
		return err
	}
	return f.disk.SyncDir(dir)
}

type faultFile struct {
	File
	fs   *faultFS
	name string
}

// shortWrite makes a write store only half.
type shortWrite struct{ error }

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.fs.do("write", f.name, off, p)
	if short, ok := err.(shortWrite); ok {
		n, werr := f.File.WriteAt(p[:len(p)/2], off)
		if werr != nil {
			return n, werr
		}
		return n, short.error
	}
	if err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.do("truncate", f.name, size, nil); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Allocate(off, n int64) error {
	if err := f.fs.do("allocate", f.name, off, nil); err != nil {
		return err
	}
	return f.File.Allocate(off, n)
}

func (f *faultFile) Punch(off, n int64) error {
	if err := f.fs.do("punch", f.name, off, nil); err != nil {
		return err
	}
	return f.File.Punch(off, n)
}

func (f *faultFile) Sync() error {
	if err := f.fs.do("sync", f.name, 0, nil); err != nil || f.fs.quick {
		return err
	}
	return f.File.Sync()
}
