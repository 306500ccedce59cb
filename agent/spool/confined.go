package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// confined is the file system of one spool for those who are not its user: root
// lists it, drains it and checks it. Its user may have put links there that lead
// elsewhere, or a pipe that nobody writes to; neither is followed or waited for. It does
// what readers and Drain need, relative to an open directory each time.
type confined struct {
	disk
	dir string
}

// within does something with a name in the directory. Errors have the whole name.
func (c confined) within(name string, do func(root *os.Root, name string) error) error {
	inside, err := filepath.Rel(c.dir, name)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = do(root, inside)
	var p *fs.PathError
	if errors.As(err, &p) {
		p.Path = name
	}
	return err
}

func (c confined) Open(name string, flag int, perm os.FileMode) (File, error) {
	var f *os.File
	err := c.within(name, func(root *os.Root, name string) (err error) {
		f, err = root.OpenFile(name, flag|syscall.O_NONBLOCK, perm)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &diskFile{f: f}, nil
}

func (c confined) Remove(name string) error {
	return c.within(name, (*os.Root).Remove)
}

func (c confined) List(dir string) (names []string, err error) {
	err = c.within(dir, func(root *os.Root, dir string) error {
		d, err := root.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		names, err = d.Readdirnames(-1)
		slices.Sort(names)
		return err
	})
	return names, err
}

func (c confined) SyncDir(dir string) error {
	return c.within(dir, func(root *os.Root, dir string) error {
		d, err := root.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	})
}
