package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-milter"

	"github.com/millrace/millrace/cmd/internal/program"
	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// asProgram makes the test binary be the program.
const asProgram = "MILLRACE_MILTER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	leaks.Main(m)
}

// running is a running millrace-milter.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string
	config string
	lines  chan string // of its log
}

func configure(t *testing.T, dir, mode string) string {
	t.Helper()
	path := filepath.Join(dir, "millrace.toml")
	text := fmt.Sprintf("hostname = \"mail.example.com\"\n[spool]\ndirectory = %q\nmin_free = \"1MiB\"\n[milter]\nlisten = [\"unix:%s\"]\nmode = %q\n",
		filepath.Join(dir, "spool"), filepath.Join(dir, "s"), mode)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// begin starts the program, by a shell that can set LISTEN_PID to its own id.
func begin(t *testing.T, dir, config, env string, files ...*os.File) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	p := &running{t: t, dir: dir, config: config, lines: make(chan string, 1000)}
	p.cmd = exec.CommandContext(ctx, "sh", "-c", env+` exec "$0" --config "$1"`, exe, config)
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.ExtraFiles = files
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

// says waits for a log line.
func (p *running) says(words string) {
	p.t.Helper()
	var all []string
	for l := range p.lines {
		if all = append(all, l); strings.Contains(l, words) {
			return
		}
	}
	p.t.Fatalf("the program ended without saying %q:\n%s", words, strings.Join(all, "\n"))
}

// ends waits for the end and returns the exit status.
func (p *running) ends() int {
	p.t.Helper()
	for range p.lines {
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func (p *running) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// negotiates checks that a milter answers on a socket.
func negotiates(t *testing.T, network, addr string) {
	t.Helper()
	c, err := milter.NewClientWithOptions(network, addr, milter.ClientOptions{ActionMask: milter.OptRemoveRcpt}).Session()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestProgramServesReloadsAndStops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := begin(t, dir, configure(t, dir, "observe"), "")
	p.says("ready")
	negotiates(t, "unix", filepath.Join(dir, "s"))
	configure(t, dir, "divert")
	p.signal(syscall.SIGHUP)
	p.says("configuration reloaded")
	configure(t, dir, "nonsense")
	p.signal(syscall.SIGHUP)
	p.says("the old configuration stays in force")
	negotiates(t, "unix", filepath.Join(dir, "s"))
	p.signal(syscall.SIGTERM)
	if code := p.ends(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "s")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestBadConfigurationExits78(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := begin(t, dir, configure(t, dir, "nonsense"), "")
	p.says("millrace.toml:")
	if code := p.ends(); code != program.ExitConfig {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "spool")); !os.IsNotExist(err) {
		t.Errorf("a spool was made: %v", err)
	}
}

func TestSystemdsSocketWins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := begin(t, dir, configure(t, dir, "observe"), "LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS;", f)
	p.says("ready")
	negotiates(t, "tcp", ln.Addr().String())
	if _, err := os.Stat(filepath.Join(dir, "s")); !os.IsNotExist(err) {
		t.Errorf("the configured socket was opened as well: %v", err)
	}
	p.signal(syscall.SIGTERM)
	if code := p.ends(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// A configuration of an earlier version, open to other hosts, is served to this one.
func TestOpenSocketStartsInItsSafeForm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, addr, err := sockets.Reserve("0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	config := configure(t, dir, "observe")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	open := strings.Replace(string(text), "unix:"+filepath.Join(dir, "s"), "inet:"+port+"@0.0.0.0", 1)
	if err := os.WriteFile(config, []byte(open), 0o600); err != nil {
		t.Fatal(err)
	}
	p := begin(t, dir, config, "")
	p.says(`level=ERROR msg="configuration: ` + config + `:6: listen: \"inet:` + port + `@0.0.0.0\" is open to other hosts`)
	p.says("ready")
	negotiates(t, "tcp", "127.0.0.1:"+port)
	p.signal(syscall.SIGTERM)
	if code := p.ends(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}
