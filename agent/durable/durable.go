// Package durable replaces small files so that a crash leaves the old content or
// the new one, and never less. The spool does not use it: it has files of its own
// kind, and its order of writes and syncs is part of its design.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Suffix ends the names of files that are not yet complete. Those that a crash left
// behind may be removed by whoever owns the directory.
const Suffix = ".tmp"

// Missing reports whether an error says that there is no such file, nor can be, as what is
// named as its directory is none.
func Missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Replace puts a file in the place of another, or where none was, and makes its
// directory if there is none. The new file is synced before it takes the name, and
// the name before Replace returns. Only its owner may read it.
func Replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*"+Suffix)
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
