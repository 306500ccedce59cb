package postconf

import (
	"io/fs"
	"os"
	"syscall"
)

// chownAs gives a file the owner of another.
func chownAs(f *os.File, like fs.FileInfo) error {
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}
