package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/contrib/lab"
)

// groundSize is that of the file system that is measured on, in octets. The
// image is sparse: it takes as much of the disk as is written to it.
const groundSize = 16 << 30

// ground is the file system that queues and spool lie on: an ext4 as mkfs makes
// it, new for the run, in a loop device. Making a file costs more or less on a
// file system by what happened on it before; and some machines have one that
// nobody would put mail on, such as an ext4 without a journal, where it costs
// more for each file deleted in the last seconds.
type ground struct {
	dir  string // "" if there is none
	kind string // for the report
}

// newGround makes it below the temporary directory and makes it the temporary
// directory, until remove. Where there is no loop device, as in some containers,
// the temporary directory is used as it is, and the report says so; so it is
// with here.
func newGround(here bool) (g *ground, err error) {
	g = &ground{}
	if here {
		g.kind = fileSystem(os.TempDir()) + ", as it is"
		return g, nil
	}
	if g.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.remove())
		}
	}()
	image := filepath.Join(g.dir, "image")
	mounted := filepath.Join(g.dir, "mounted")
	// Postfix passes both with users of its own.
	if err := errors.Join(os.Chmod(g.dir, 0o755), os.Mkdir(mounted, 0o755)); err != nil {
		return nil, err
	}
	if err := lab.MountExt4(image, mounted, groundSize); err != nil {
		g.kind = fmt.Sprintf("%s, as it is (%v)", fileSystem(os.TempDir()), err)
		return g, os.Remove(image)
	}
	if err := os.Chmod(mounted, 0o1777); err != nil {
		return nil, err
	}
	// The loop device keeps it until the mount ends, and that ends with the room.
	if err := os.Remove(image); err != nil {
		return nil, err
	}
	g.kind = "ext4, new, in a loop device on " + fileSystem(g.dir)
	return g, os.Setenv("TMPDIR", mounted)
}

// remove takes it away; the mount ends with the last file that is open on it.
func (g *ground) remove() error {
	if g.dir == "" {
		return nil
	}
	mounted := filepath.Join(g.dir, "mounted")
	if os.TempDir() == mounted {
		if err := errors.Join(os.Setenv("TMPDIR", filepath.Dir(g.dir)), unix.Unmount(mounted, unix.MNT_DETACH)); err != nil {
			return fmt.Errorf("unmount: %w", err)
		}
	}
	return os.RemoveAll(g.dir)
}
