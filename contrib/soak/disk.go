package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/contrib/lab"
)

// Octets of the spool's file system, and [spool] min_free. The disk is small, so
// that a receiver that is away for long fills it too.
const (
	diskSize = 512 << 20
	minFree  = 16 << 20
)

// From linux/fs.h: stop a file system and let it go on. A process that writes to it
// meanwhile stands still, as with a disk that does not answer.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// disk is the spool's file system: an ext4 in a loop device on memory. Where there
// is no loop device it is a tmpfs, which cannot stand still.
//
// A process that waits for a frozen file system cannot be killed. Every freeze here
// ends by itself, also when the soak is interrupted, but not when the soak itself
// is killed within one: then fsfreeze -u in its namespace (nsenter -m) helps.
type disk struct {
	dir   string // mounted there
	stops bool   // can stand still
}

// mountDisk makes the file system below dir.
func mountDisk(dir string) (*disk, error) {
	d := &disk{dir: filepath.Join(dir, "disk")}
	memory := filepath.Join(dir, "memory")
	if err := errors.Join(os.Mkdir(d.dir, 0o755), os.Mkdir(memory, 0o700)); err != nil {
		return nil, err
	}
	if err := unix.Mount("soak", memory, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize+64<<20)); err != nil {
		return nil, fmt.Errorf("mount memory: %w", err)
	}
	// No reserve for root, for the daemons of the lab are root.
	err := lab.MountExt4(filepath.Join(memory, "image"), d.dir, diskSize, "-m", "0")
	d.stops = err == nil
	if err != nil {
		if err := unix.Mount("soak", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", diskSize)); err != nil {
			return nil, fmt.Errorf("mount spool: %w", err)
		}
	}
	return d, os.Mkdir(d.spool(), 0o700)
}

func (d *disk) spool() string { return filepath.Join(d.dir, "spool") }

// unmount needs everything that used the disk to have ended.
func (d *disk) unmount() error { return unix.Unmount(d.dir, 0) }

var diskKinds = []kind{
	{name: "under min_free", least: time.Second, most: 8 * time.Second, do: filled(minFree / 2)},
	{name: "no octet left", least: time.Second, most: 8 * time.Second, do: filled(0)},
	{name: "stands still", least: 300 * time.Millisecond, most: 3 * time.Second,
		do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
			return s.disk.still(ctx, lasts)
		}},
	{name: "slow", least: time.Second, most: 8 * time.Second,
		do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
			ctx, cancel := context.WithTimeout(ctx, lasts)
			defer cancel()
			for ctx.Err() == nil {
				if err := s.disk.still(ctx, 100*time.Millisecond); err != nil {
					return err
				}
				wait(ctx, 20*time.Millisecond)
			}
			return nil
		}},
}

// still stops the disk for a while.
func (d *disk) still(ctx context.Context, lasts time.Duration) error {
	if !d.stops {
		return nil
	}
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	wait(ctx, lasts)
	if err := unix.IoctlSetInt(int(f.Fd()), fiThaw, 0); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return nil
}

// filled keeps the disk full but for so many octets, whatever is freed meanwhile.
func filled(leave uint64) func(context.Context, *scene, time.Duration, uint64) error {
	return func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
		path := filepath.Join(s.disk.dir, "ballast")
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		defer f.Close()
		ctx, cancel := context.WithTimeout(ctx, lasts)
		defer cancel()
		size := int64(0)
		for ctx.Err() == nil {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return err
			}
			if free := st.Bavail * uint64(st.Bsize); free > leave {
				n := int64(free - leave)
				// Somebody else may take some of it first.
				for n > 0 && unix.Fallocate(int(f.Fd()), 0, size, n) != nil {
					n /= 2
				}
				size += n
			}
			wait(ctx, 50*time.Millisecond)
		}
		return nil
	}
}
