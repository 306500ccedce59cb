package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// unpacked is where contrib/lab/deps/unpack lays the files of packages that cannot
// be installed beside Postfix.
const unpacked = "/var/cache/millrace-lab"

// nobody owns the mailboxes: most MTAs refuse to deliver as root.
const nobody = 65534

// tree is a root directory in which a program of an unpacked package finds
// every file at the path that is built into it: the package's files over those
// of the machine, and over both what the lab writes, which lies in memory. What
// the machine has mounted is not in it, but for /proc and the harmless devices.
type tree struct {
	dir    string // holds the mount points
	syslog net.PacketConn
}

// newTree makes a tree of the package that was unpacked under that name. Names
// are looked up with that name server.
func newTree(name, dns string) (*tree, error) {
	if !Isolated() {
		return nil, errors.New("the program is not isolated: call lab.Isolate or lab.Main first")
	}
	files := filepath.Join(unpacked, name, "root")
	if _, err := os.Stat(files); err != nil {
		return nil, fmt.Errorf("%s is not unpacked (make deps): %w", name, err)
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return nil, err
	}
	t := &tree{dir: dir}
	if err := t.grow(files, dns); err != nil {
		return nil, errors.Join(fmt.Errorf("tree of %s: %w", name, err), t.remove())
	}
	return t, nil
}

// grow mounts the layers and writes what every program in the tree reads.
func (t *tree) grow(files, dns string) error {
	// The top is passable for the users that the program takes on.
	if err := os.Chmod(t.dir, 0o755); err != nil {
		return err
	}
	memory, root := filepath.Join(t.dir, "memory"), t.path("/")
	upper, work := filepath.Join(memory, "upper"), filepath.Join(memory, "work")
	if err := errors.Join(os.Mkdir(memory, 0o755), os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("lab", memory, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	// A layer must not lie inside another, and the unpacked files lie inside /:
	// so they are copied.
	if _, err := outputOf(exec.Command("cp", "-a", files+"/.", upper)); err != nil {
		return err
	}
	layers := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", upper, work)
	if err := unix.Mount("lab", root, "overlay", 0, layers); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if err := unix.Mount("/proc", t.path("/proc"), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := t.devices(); err != nil {
		return err
	}
	machine, err := os.Hostname()
	if err != nil {
		return err
	}
	if dns == "" {
		dns = Resolver
	}
	return errors.Join(
		t.write("/etc/resolv.conf", "nameserver "+dns+"\n"),
		t.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n"),
		// An MTA that finds no address of its own machine waits for one, and
		// Sendmail looks for local domains too.
		t.write("/etc/hosts", "127.0.0.1 localhost\n127.0.0.1 "+Hostname+" "+machine+"\n127.0.0.1 "+LocalDomain+"\n"),
	)
}

func (t *tree) devices() error {
	dev := t.path("/dev")
	if err := unix.Mount("lab", dev, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "random", "urandom"} {
		path := filepath.Join(dev, name)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// path is where the file with that path in the tree is found from outside.
func (t *tree) path(inside string) string { return filepath.Join(t.dir, "root", inside) }

// write makes a file that everybody may read.
func (t *tree) write(inside, content string) error {
	path := t.path(inside)
	// A link would lead out of the tree.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // whatever the umask is
}

// directory makes a directory, or gives one that is there owner and mode.
func (t *tree) directory(inside string, uid, gid int, mode os.FileMode) error {
	path := t.path(inside)
	return errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, uid, gid), os.Chmod(path, mode))
}

// user adds a user with a group of the same name and number, as the package's
// installation would have.
func (t *tree) user(name string, id int) error {
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", name, id, id),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", name, id),
	} {
		b, err := os.ReadFile(t.path(file))
		if err != nil {
			return err
		}
		if err := t.write(file, string(b)+line); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program of the tree in it.
func (t *tree) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: t.path("/")}
	return cmd
}

// output runs a program of the tree to its end.
func (t *tree) output(program string, args ...string) ([]byte, error) {
	return outputOf(t.command(program, args...))
}

// logTo writes what the tree's programs tell syslog(3) to a file.
func (t *tree) logTo(path string) error {
	l, err := net.ListenPacket("unixgram", t.path("/dev/log"))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		err = os.Chmod(t.path("/dev/log"), 0o666)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	t.syslog = l
	go func() { // ends with the socket
		defer f.Close()
		b := make([]byte, 64<<10)
		for {
			n, _, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			line := b[:n]
			for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == 0) {
				line = line[:len(line)-1]
			}
			f.Write(append(line, '\n'))
		}
	}()
	return nil
}

// kill ends every process that lives in the tree, at once, also those that
// have left the process group they were started in.
func (t *tree) kill() {
	for {
		alive := t.processes()
		if len(alive) == 0 {
			return
		}
		for _, pid := range alive {
			_ = unix.Kill(pid, unix.SIGKILL)
			// Its parent may be dead, so that it is left to us. One that is
			// not is no child, and no harm done.
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// processes are those whose root is the tree; the dead have none.
func (t *tree) processes() []int {
	root := t.path("")
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, e := range dir {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if link, err := os.Readlink("/proc/" + e.Name() + "/root"); err == nil && link == root {
				found = append(found, pid)
			}
		}
	}
	return found
}

// remove ends what runs in the tree and removes it.
func (t *tree) remove() error {
	t.kill()
	if t.syslog != nil {
		t.syslog.Close()
	}
	// What is not mounted, because making the tree failed, is no error.
	_ = unix.Unmount(t.path("/"), unix.MNT_DETACH)
	_ = unix.Unmount(filepath.Join(t.dir, "memory"), unix.MNT_DETACH)
	// Not os.RemoveAll: a mount that is still there must not be emptied.
	for _, name := range []string{"root", "memory", ""} {
		if err := os.Remove(filepath.Join(t.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
