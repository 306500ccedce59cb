package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outputOf runs a program to its end; an error has what it wrote to stderr.
func outputOf(cmd *exec.Cmd) ([]byte, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// stopGrace is how long a program may take to end on SIGTERM.
const stopGrace = 2 * time.Minute

// group is a program with all its descendants: one session and process group
// of its own. Descendants that lose their parent become our children, as we are
// process 1 of the namespace, and are waited for, so that a stopped group has
// no process left and its CPU time is complete.
type group struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the whole group is gone

	mu    sync.Mutex
	ended bool          // the leader
	err   error         // of the leader; valid when it has ended
	used  time.Duration // CPU time of the leader, what it waited for, and orphans
}

func startGroup(cmd *exec.Cmd) (*group, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &group{cmd: cmd, done: make(chan struct{})}
	go g.reap()
	return g, nil
}

func (g *group) pid() int { return g.cmd.Process.Pid }

// reap waits for the leader and then for the orphans it leaves. It first waits
// without reaping, so that under the lock each process either shows its CPU
// time in /proc, as a zombie too, or has it counted in used.
func (g *group) reap() {
	defer close(g.done)
	awaitExit(unix.P_PID, g.pid())
	g.mu.Lock()
	g.err = g.cmd.Wait()
	g.ended = true
	if ru, ok := g.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		g.used += cpuOf(ru.Utime.Nano(), ru.Stime.Nano())
	}
	g.mu.Unlock()
	for awaitExit(unix.P_PGID, g.pid()) {
		var ru unix.Rusage
		g.mu.Lock()
		if _, err := unix.Wait4(-g.pid(), nil, unix.WNOHANG, &ru); err == nil {
			g.used += cpuOf(ru.Utime.Nano(), ru.Stime.Nano())
		}
		g.mu.Unlock()
	}
}

// awaitExit waits until a child of that process or group id has ended, and
// leaves it to be reaped; false means there is no such child.
func awaitExit(idType, id int) bool {
	for {
		err := unix.Waitid(idType, id, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

func cpuOf(user, system int64) time.Duration { return time.Duration(user + system) }

// running reports whether a process of the group is left.
func (g *group) running() bool {
	select {
	case <-g.done:
		return false
	default:
		return true
	}
}

// signal reaches every process of the group.
func (g *group) signal(s syscall.Signal) error {
	if !g.running() {
		return os.ErrProcessDone
	}
	return syscall.Kill(-g.pid(), s)
}

// kill is the crash: SIGKILL to all at once, and wait until they are gone.
func (g *group) kill() {
	_ = g.signal(syscall.SIGKILL)
	<-g.done
}

// terminate asks the leader to end and kills what does not within stopGrace.
func (g *group) terminate() error {
	if !g.running() {
		return nil
	}
	_ = syscall.Kill(g.pid(), syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		g.kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM: killed", g.cmd.Path, stopGrace)
	}
}

// cpu is the CPU time, user and system, of every process of the group, alive
// or dead. Live processes are read from /proc with its resolution of 10 ms
// each; dead ones are exact.
func (g *group) cpu() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		var before, after procStat
		if !g.ended {
			before = statOf(g.pid())
		}
		sum := g.used + before.own + before.waited
		for _, st := range membersOf(g.pid()) {
			sum += st.own + st.waited
		}
		// A child that the leader waited for meanwhile may have been counted
		// twice or not at all.
		if !g.ended {
			after = statOf(g.pid())
		}
		if before.waited == after.waited {
			return sum
		}
	}
}

// procStat is what /proc/PID/stat says of CPU time: a process's own and that
// of the children it has waited for.
type procStat struct {
	group       int
	own, waited time.Duration
}

// tick is the unit of /proc/PID/stat; USER_HZ is 100 on every Linux Go runs on.
const tick = 10 * time.Millisecond

// statOf is zero for a process that is gone.
func statOf(pid int) procStat {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}
	}
	// The command name may hold blanks and parentheses; fields are counted
	// from its end: proc(5) numbers state 3, pgrp 5, utime to cstime 14 to 17.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 15 {
		return procStat{}
	}
	n := func(i int) int64 { v, _ := strconv.ParseInt(string(f[i-3]), 10, 64); return v }
	return procStat{
		group:  int(n(5)),
		own:    time.Duration(n(14)+n(15)) * tick,
		waited: time.Duration(n(16)+n(17)) * tick,
	}
}

// membersOf is every process of a process group except its leader, those not
// yet waited for included.
func membersOf(leader int) []procStat {
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []procStat
	for _, e := range dir {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == leader {
			continue
		}
		if st := statOf(pid); st.group == leader {
			all = append(all, st)
		}
	}
	return all
}

// poll is how often a condition outside this process is looked at again.
const poll = 20 * time.Millisecond

// until waits for a condition, but not longer than the group or ctx live.
func (g *group) until(ctx context.Context, holds func() bool) error {
	t := time.NewTicker(poll)
	defer t.Stop()
	for !holds() {
		select {
		case <-t.C:
		case <-g.done:
			g.mu.Lock()
			defer g.mu.Unlock()
			return fmt.Errorf("ended early: %v", g.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
