package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// store is a redis-server, or where that is not a valkey-server, on a machine of its own. It keeps
// nothing on disk of its own accord, so one that is killed comes back empty, unless it is given a copy.
type store struct {
	program string
	machine *lab.Machine
	dir     string
	cmd     *exec.Cmd
}

const storePort = 6379

func newStore(m *lab.Machine) (*store, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		program, err = exec.LookPath("valkey-server")
	}
	if err != nil {
		return nil, fmt.Errorf("the store: neither redis-server nor valkey-server is installed; remedy: apt-get install redis-server: %w", err)
	}
	dir, err := os.MkdirTemp("", "store-")
	return &store{program: program, machine: m, dir: dir}, err
}

func (s *store) addr() string {
	return netip.AddrPortFrom(s.machine.Addr, storePort).String()
}

func (s *store) log() string  { return filepath.Join(s.dir, "redis-server.log") }
func (s *store) data() string { return filepath.Join(s.dir, "dump.rdb") }

// start starts the store with what its data file has, or empty, and waits until it answers.
func (s *store) start(ctx context.Context) error {
	cmd := exec.Command(s.program, "--port", strconv.Itoa(storePort), "--bind", s.machine.Addr.String(), "--protected-mode", "no",
		"--dir", s.dir, "--save", "", "--appendonly", "no", "--logfile", s.log(), "--daemonize", "no")
	if err := s.machine.Within(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	s.cmd = cmd
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return lab.Until(ctx, func() (bool, error) {
		answer, err := s.ask("PING\r\n")
		return err == nil && answer == "+PONG\r\n", nil
	})
}

// ask sends one command on a connection of its own and gives the first line of the answer.
func (s *store) ask(command string) (string, error) {
	c, err := net.DialTimeout("tcp", s.addr(), time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, command); err != nil {
		return "", err
	}
	var line []byte
	for b := make([]byte, 1); len(line) < 2 || line[len(line)-1] != '\n'; line = append(line, b[0]) {
		if _, err := io.ReadFull(c, b); err != nil {
			return "", err
		}
	}
	return string(line), nil
}

// copy keeps what the store has now, for restore.
func (s *store) copy() error {
	if answer, err := s.ask("SAVE\r\n"); err != nil || answer != "+OK\r\n" {
		return errors.Join(fmt.Errorf("copy of the store: %q", answer), err)
	}
	return os.Rename(s.data(), s.data()+".old")
}

// restore gives the store, which must not run, the copy that was kept.
func (s *store) restore() error { return os.Rename(s.data()+".old", s.data()) }

// empty takes away what the next start would read.
func (s *store) empty() error {
	if err := os.Remove(s.data()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (s *store) signal(x syscall.Signal) error { return s.cmd.Process.Signal(x) }

// kill ends the store like a crash.
func (s *store) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // also of one that is stopped
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *store) close() error {
	s.kill()
	return os.RemoveAll(s.dir)
}
