package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// daemonStart is how long one of our daemons may take to answer.
const daemonStart = 2 * time.Minute

// BuildPrograms builds the three programs into dir, with the race detector if
// LAB_RACE=1 is in the environment.
func BuildPrograms(dir string) error {
	// Without what only a debugger reads, as go test links too; traces have files and lines.
	args := []string{"build", "-ldflags", "-s -w", "-o", dir}
	if os.Getenv("LAB_RACE") == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/millrace/millrace/cmd/...")...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the programs: %w", err)
	}
	return nil
}

// Programs is the directory of the daemons: those that WithPrograms built, or else
// those beside the running program, or else those in PATH, as of the package.
func Programs() (string, error) {
	if dir := os.Getenv(programsEnv); dir != "" {
		return dir, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the programs: %w", err)
	}
	dir := filepath.Dir(self)
	if _, err := os.Stat(filepath.Join(dir, "millrace-agent")); err == nil {
		return dir, nil
	}
	path, err := exec.LookPath("millrace-agent")
	if err != nil {
		return "", fmt.Errorf("find the programs beside this one or in PATH: %w", err)
	}
	return filepath.Dir(path), nil
}

// Daemon is one of our daemons. It is run as an admin would run it, and may be
// stopped, crashed and started again. Its methods are for one goroutine.
type Daemon struct {
	name    string
	path    string
	args    []string
	env     []string            // beside the program's own
	user    *syscall.Credential // nil: ours
	dir     string
	ready   func(ctx context.Context) bool
	machine *Machine // nil: ours
	group   *group
	earlier time.Duration // CPU time of earlier runs
}

// Start starts the daemon and waits until it answers.
func (d *Daemon) Start(ctx context.Context) error {
	log, err := os.OpenFile(d.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	defer log.Close()
	cmd := exec.Command(d.path, d.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), d.env...)
	if d.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.user}
	}
	earlier := d.CPU()
	start := func() error {
		d.group, err = startGroup(cmd)
		return err
	}
	if d.machine != nil {
		err = d.machine.Within(start)
	} else {
		err = start()
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	d.earlier = earlier
	ctx, cancel := context.WithTimeout(ctx, daemonStart)
	defer cancel()
	if err := d.group.until(ctx, func() bool { return d.ready(ctx) }); err != nil {
		d.group.kill()
		said, _ := os.ReadFile(d.Log())
		return fmt.Errorf("start %s: %w\n%s", d.name, err, said)
	}
	return nil
}

// Kill is the crash: SIGKILL, and wait until it is gone.
func (d *Daemon) Kill() {
	if d.group != nil {
		d.group.kill()
	}
}

// Stop sends SIGTERM and waits; it is an error if the daemon does not end
// within 20 s or ends with another code than 0. Nothing happens to a daemon
// that does not run.
func (d *Daemon) Stop() error {
	if d.group == nil || !d.group.running() {
		return nil
	}
	err := d.group.terminate()
	if err == nil {
		err = d.group.err
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", d.name, err)
	}
	return nil
}

// Reload sends SIGHUP.
func (d *Daemon) Reload() error { return d.Signal(syscall.SIGHUP) }

// Freeze sends SIGSTOP and waits until every thread stands still: until then the
// daemon may go on with what comes in. Signal with SIGCONT ends it.
func (d *Daemon) Freeze(ctx context.Context) error {
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return d.group.until(ctx, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.PID()))
		for _, path := range threads {
			b, _ := os.ReadFile(path) // "" of a thread that has ended meanwhile
			// proc(5): the state is the first field after the name in parentheses.
			// What waits in the kernel stands as well: it stops before it comes back. A
			// thread that forks waits there until the child has begun its program,
			// which the signal has stopped too.
			if _, state, ok := bytes.Cut(b, []byte(") ")); ok && state[0] != 'T' && state[0] != 'D' {
				return false
			}
		}
		return err == nil && len(threads) > 0
	})
}

// Signal sends a signal.
func (d *Daemon) Signal(s syscall.Signal) error {
	if d.group == nil {
		return os.ErrProcessDone
	}
	return d.group.signal(s)
}

// Running reports whether the daemon runs.
func (d *Daemon) Running() bool { return d.group != nil && d.group.running() }

// PID is the daemon's process id, also after its end; 0 before its first start.
func (d *Daemon) PID() int {
	if d.group == nil {
		return 0
	}
	return d.group.pid()
}

// Log is the path of what the daemon writes to its standard error and output,
// over all its runs.
func (d *Daemon) Log() string { return filepath.Join(d.dir, d.name+".log") }

// CPU is the CPU time of all runs of the daemon.
func (d *Daemon) CPU() time.Duration {
	if d.group == nil {
		return 0
	}
	return d.earlier + d.group.cpu()
}
