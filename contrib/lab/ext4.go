package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// MountExt4 makes an ext4 of so many octets in a sparse file, as mkfs.ext4 makes it
// with these flags, and mounts it on a directory through a loop device, which
// ends with the mount. It fails where there are no loop devices, as in some
// containers.
func MountExt4(image, dir string, size int64, flags ...string) error {
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		return fmt.Errorf("mount ext4: %w", err)
	}
	// Not lazily: the kernel would go on with it while something is measured.
	mkfs := append([]string{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, flags...)
	for _, args := range [][]string{append(mkfs, image), {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("mount ext4: %s: %w: %.80s", args[0], err, out)
		}
	}
	return nil
}
