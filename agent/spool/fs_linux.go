package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is the real file system.
type disk struct{}

var _ FS = disk{}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(name string) error     { return os.Remove(name) }

func (disk) MkdirAll(dir string, perm os.FileMode) error {
	if err := os.MkdirAll(dir, perm); err != nil {
		return err
	}
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&^perm == 0 {
		return err
	}
	return os.Chmod(dir, st.Mode().Perm()&perm)
}

func (disk) Open(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &diskFile{f: f}, nil
}

func (disk) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (disk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (disk) Free(dir string) (int64, error) { return Free(dir) }

// Free is how many octets of the file system of a directory can be written by users.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// diskFile keeps the os.File in a field: its own Sync is fsync(2), and nobody
// should reach that by accident.
type diskFile struct {
	f      *os.File
	locked bool
}

func (d *diskFile) ReadAt(p []byte, off int64) (int, error)  { return d.f.ReadAt(p, off) }
func (d *diskFile) WriteAt(p []byte, off int64) (int, error) { return d.f.WriteAt(p, off) }
func (d *diskFile) Truncate(size int64) error                { return d.f.Truncate(size) }

// Close gives the lock back by itself: to close alone would leave it with a
// child that this process is forking just now, until that child's exec.
func (d *diskFile) Close() error {
	var err error
	if d.locked {
		err = d.control("flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
	}
	return errors.Join(err, d.f.Close())
}

func (d *diskFile) Size() (int64, error) {
	st, err := d.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// control runs one system call on the descriptor, again if a signal cut it off.
func (d *diskFile) control(op string, call func(fd int) error) error {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); callErr != unix.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = callErr
	}
	if err != nil {
		return &os.PathError{Op: op, Path: d.f.Name(), Err: err}
	}
	return nil
}

func (d *diskFile) Sync() error { return d.control("fdatasync", unix.Fdatasync) }

func (d *diskFile) Allocate(off, n int64) error {
	err := d.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil // blocks are then found as we write
	}
	return err
}

func (d *diskFile) Punch(off, n int64) error {
	const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := d.control("punch hole", func(fd int) error { return unix.Fallocate(fd, hole, off, n) })
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err // EOPNOTSUPP is errors.ErrUnsupported
}

func (d *diskFile) Lock() error {
	err := d.control("flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) })
	d.locked = err == nil
	return err
}

func (d *diskFile) TryLock() (bool, error) {
	err := d.control("flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	d.locked = err == nil
	return d.locked, err
}

// inotify is a Watch by inotify(7). The kernel folds equal events in a row into
// one, so thousands of writes to a segment between two reads cost one event.
type inotify struct{ f *os.File }

func (disk) Watch(dir string) (Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	// IN_CLOSE_WRITE tells of a writer that ended or died, IN_MOVED_TO of a
	// new segment.
	const mask = unix.IN_MODIFY | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, filepath.Clean(dir), mask); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("inotify: watch %s: %w", dir, err)
	}
	return &inotify{os.NewFile(uintptr(fd), "inotify")}, nil
}

func (w *inotify) Close() error { return w.f.Close() }

func (w *inotify) Wait(ctx context.Context) (names []string, all bool, err error) {
	if err := w.f.SetReadDeadline(time.Time{}); err != nil {
		return nil, false, err
	}
	// A function that has begun must end before this call does, or it would
	// put its deadline on the next one.
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		w.f.SetReadDeadline(time.Unix(1, 0))
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	var buf [16 << 10]byte
	n, err := w.f.Read(buf[:])
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		return nil, false, err
	}
	seen := make(map[string]bool)
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		ev := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		end := unix.SizeofInotifyEvent + int(ev.Len)
		if end > len(b) {
			break
		}
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
		b = b[end:]
		if ev.Mask&(unix.IN_Q_OVERFLOW|unix.IN_IGNORED) != 0 {
			all = true
		} else if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, all, nil
}
