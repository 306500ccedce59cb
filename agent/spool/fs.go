package spool

import (
	"context"
	"io"
	"os"
)

// FS is the part of a file system that a spool uses. Names are paths. Tests put
// their own in its place, to fail an operation or to record the order of them.
type FS interface {
	// MkdirAll makes dir and what is missing above it. Rights on dir itself beyond
	// perm are taken away, also if it was there.
	MkdirAll(dir string, perm os.FileMode) error
	// Open is open(2) with the flags of package os, always close-on-exec.
	Open(name string, flag int, perm os.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// SyncDir makes the entries of dir durable: a file created, renamed or
	// removed before it stays so after a power loss.
	SyncDir(dir string) error
	// Free returns the octets that an unprivileged user can still write.
	Free(dir string) (int64, error)
	// Watch reports changes of the files of dir from now on.
	Watch(dir string) (Watch, error)
}

// File is an open file. All writes say where.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Allocate reserves the blocks from off to off+n, which then read as zeros,
	// and grows the file to hold them. ENOSPC shows here, not at a later write.
	// A file system that cannot do this returns nil.
	Allocate(off, n int64) error
	// Punch gives the blocks from off to off+n back; they then read as zeros
	// and the file keeps its size. errors.ErrUnsupported says that the file
	// system has no holes. It is durable after Sync, or never: nobody relies
	// on it.
	Punch(off, n int64) error
	// Sync is fdatasync(2): data, and the metadata needed to read it.
	Sync() error
	Size() (int64, error)
	// Lock waits for the exclusive flock(2) of the file. The lock belongs to
	// this File, not to the process, and goes with Close or with the process.
	Lock() error
	// TryLock takes the lock if it is free now.
	TryLock() (bool, error)
}

// Watch reports changed files of one directory.
type Watch interface {
	// Wait blocks until something changed and returns the names, or all true
	// if some could not be reported. A deadline or an end of ctx is returned
	// as the error of ctx.
	Wait(ctx context.Context) (names []string, all bool, err error)
	Close() error
}
