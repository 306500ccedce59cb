package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// isolatedEnv carries the state of isolation through re-execution. Outside it
// is unset; "enter NET MNT" tells the program started inside to furnish its
// namespaces, which must be others than NET and MNT; afterwards it is the name
// of the network namespace, so that children know they are inside already and
// a value that leaked elsewhere proves nothing.
const isolatedEnv = "MILLRACE_LAB"

// programsEnv is the directory of the programs built before isolation. Who sets it beforehand
// has them built by himself.
const programsEnv = "MILLRACE_LAB_PROGRAMS"

// Resolver is the name server in resolv.conf of an isolated program.
const Resolver = "127.0.0.1"

// Runner is a *testing.M.
type Runner interface{ Run() int }

// Option changes what Main does before it isolates.
type Option func(*preparation)

type preparation struct {
	programs bool
	clocks   []time.Duration
}

// WithPrograms builds the three programs once before isolation, while modules
// can still be downloaded; Programs tells where they are. With LAB_RACE=1 in
// the environment they carry the race detector.
func WithPrograms(p *preparation) { p.programs = true }

// Main is the body of a TestMain whose package runs isolated. It never returns.
func Main(m Runner, options ...Option) {
	var p preparation
	for _, o := range options {
		o(&p)
	}
	if err := isolate(p); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Isolate runs the current program again in new network, mount and process
// namespaces with the same arguments, waits for it and exits with its code: it
// returns nil only inside, where the program simply goes on. Call it first
// thing in main, before a goroutine or file is there to be lost. An error means
// that no isolation was possible, and nothing must be started.
//
// Inside, the program is process 1: whatever it started ends with it, even if
// it is killed.
func Isolate() error { return isolate(preparation{}) }

// Isolated reports whether this program runs inside the namespaces of Isolate.
func Isolated() bool {
	ns, err := os.Readlink("/proc/self/ns/net")
	return err == nil && os.Getenv(isolatedEnv) == ns
}

func isolate(p preparation) error {
	if Isolated() {
		return nil
	}
	if state := os.Getenv(isolatedEnv); strings.HasPrefix(state, "enter ") {
		return furnish(state)
	}
	code, err := runInside(p)
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}

// runInside starts this program in new namespaces and returns its exit code.
func runInside(p preparation) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("isolate: %w", err)
	}
	net, mnt, err := namespaces()
	if err != nil {
		return 0, fmt.Errorf("isolate: %w", err)
	}
	// Temporary files of the program inside lie in one directory, and go even
	// if it dies before it can remove them. It has the mode of /tmp, for
	// Postfix has users of its own.
	tmp, err := os.MkdirTemp("", "lab-")
	if err != nil {
		return 0, fmt.Errorf("isolate: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil {
		return 0, fmt.Errorf("isolate: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolatedEnv+"=enter "+net+" "+mnt, "TMPDIR="+tmp)
	if p.programs && os.Getenv(programsEnv) == "" {
		dir := filepath.Join(tmp, "programs")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 0, fmt.Errorf("isolate: %w", err)
		}
		if err := p.build(dir, tmp); err != nil {
			return 0, err
		}
		cmd.Env = append(cmd.Env, programsEnv+"="+dir)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		// The program inside must not outlive this one; the signal comes
		// when the thread that started it ends, hence the lock.
		Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) {
			return 0, fmt.Errorf("isolate: new namespaces are not permitted here (%w): "+
				"run as root, in a container with CAP_SYS_ADMIN", err)
		}
		return 0, fmt.Errorf("isolate: %w", err)
	}
	done := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				// An interrupt from the terminal reaches both of us.
				if s != syscall.SIGINT {
					_ = cmd.Process.Signal(s)
				}
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	<-passed
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("isolate: %w", err)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// build builds the programs into dir. A signal meanwhile ends this program, and nothing of tmp is
// left.
func (p *preparation) build(dir, tmp string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer close(signals)
	defer signal.Stop(signals)
	go func() {
		if s, ok := <-signals; ok {
			os.RemoveAll(tmp)
			os.Exit(128 + int(s.(syscall.Signal)))
		}
	}()
	if err := BuildPrograms(dir); err != nil {
		return err
	}
	for _, ahead := range p.clocks {
		if err := buildClock(dir, ahead); err != nil {
			return err
		}
	}
	return nil
}

func namespaces() (net, mnt string, err error) {
	if net, err = os.Readlink("/proc/self/ns/net"); err != nil {
		return "", "", err
	}
	mnt, err = os.Readlink("/proc/self/ns/mnt")
	return net, mnt, err
}

// furnish makes the new namespaces a place where mail can be sent: loopback
// up, names resolved by 127.0.0.1 alone.
func furnish(state string) error {
	net, mnt, err := namespaces()
	if err != nil {
		return fmt.Errorf("isolate: %w", err)
	}
	var outerNet, outerMnt string
	if _, err := fmt.Sscanf(state, "enter %s %s", &outerNet, &outerMnt); err != nil {
		return fmt.Errorf("isolate: %s=%q: %w", isolatedEnv, state, err)
	}
	if net == outerNet || mnt == outerMnt {
		return fmt.Errorf("isolate: still in the namespaces of the host (%s %s)", net, mnt)
	}
	// Without this our mounts would show up in the host's namespace too.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("isolate: make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("isolate: mount /proc of the new process namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("isolate: %w", err)
	}
	if err := overlay("/etc/resolv.conf", []byte("nameserver "+Resolver+"\noptions timeout:2 attempts:2\n")); err != nil {
		return fmt.Errorf("isolate: %w", err)
	}
	// A resolver reached by a Unix socket (systemd-resolved) is not cut off
	// by a network namespace: only files and DNS may answer.
	if old, err := os.ReadFile("/etc/nsswitch.conf"); err == nil {
		hosts := regexp.MustCompile(`(?m)^hosts:.*$`)
		if err := overlay("/etc/nsswitch.conf", hosts.ReplaceAll(old, []byte("hosts: files dns"))); err != nil {
			return fmt.Errorf("isolate: %w", err)
		}
	}
	return os.Setenv(isolatedEnv, net)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// overlay makes path show content, in this mount namespace only. The content
// lies in a file system in memory of which nothing but path is left in the
// end, so that nobody has to remove it; a plain file could not be removed
// early, because nothing more can be mounted over a file without a link.
func overlay(path string, content []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("overlay %s: %w", path, err)
		}
	}()
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lab-etc-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("lab", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, 0)
	file := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(file, 0o644); err != nil { // whatever the umask is
		return err
	}
	return unix.Mount(file, target, "", unix.MS_BIND, "")
}
