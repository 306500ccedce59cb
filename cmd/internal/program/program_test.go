package program

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

// asProgram makes the test binary be a daemon; its value says how that behaves.
const asProgram = "MILLRACE_PROGRAM_TEST"

func TestMain(m *testing.M) {
	if how := os.Getenv(asProgram); how != "" {
		Serve("milld", "A daemon for tests.", func(c *config.Config, log *slog.Logger, _ func() error) (Daemon, error) {
			if how == "cannot start" {
				return nil, errors.New("no socket")
			}
			d := &daemon{log, how == "fails"}
			if how == "stands still" {
				return &stuck{daemon: d}, nil
			}
			return d, nil
		})
	}
	leaks.Main(m)
}

// daemon logs what is asked of it.
type daemon struct {
	log   *slog.Logger
	fails bool
}

func (d *daemon) Run(ctx context.Context, ready func()) error {
	if d.fails {
		return errors.Join(errors.New("the socket is gone"), errors.New("closing it failed too"))
	}
	ready()
	<-ctx.Done()
	return nil
}

func (d *daemon) Reload(c *config.Config) error {
	d.log.Info("reloading", "hostname", c.Hostname)
	return nil
}

// stuck is a daemon whose work stands still after it was looked at twice, until it is
// told to reload.
type stuck struct {
	*daemon
	looks, reloads atomic.Int32
}

func (d *stuck) Probe(ctx context.Context) error {
	if d.reloads.Load() > 0 || d.looks.Add(1) <= 2 {
		return nil
	}
	<-ctx.Done() // as one does that waits for a mutex
	return errors.New("the queue stands still")
}

func (d *stuck) Reload(c *config.Config) error {
	d.reloads.Add(1)
	return d.daemon.Reload(c)
}

// running is the program in a process of its own.
type running struct {
	t   *testing.T
	cmd *exec.Cmd
	log *bufio.Scanner
}

func begin(t *testing.T, how string, env []string, args ...string) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	p := &running{t: t, cmd: exec.CommandContext(ctx, exe, args...)}
	p.cmd.Env = append(append(os.Environ(), asProgram+"="+how), env...)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	p.cmd.Stdout, p.cmd.Stderr = in, in
	err = p.cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	p.log = bufio.NewScanner(out)
	return p
}

// expect reads the output up to a line with text in it.
func (p *running) expect(text string) string {
	p.t.Helper()
	for p.log.Scan() {
		if strings.Contains(p.log.Text(), text) {
			return p.log.Text()
		}
	}
	p.t.Fatalf("the program said nothing of %q", text)
	return ""
}

// rest reads the output to its end.
func (p *running) rest() string {
	var lines []string
	for p.log.Scan() {
		lines = append(lines, p.log.Text())
	}
	return strings.Join(lines, "\n")
}

func (p *running) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the program and returns its exit code.
func (p *running) end() int {
	_ = p.cmd.Wait() // the code says it all
	return p.cmd.ProcessState.ExitCode()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.toml"), filepath.Join(dir, "bad.toml")
	write(t, good, "hostname = \"mail.example.com\"\n")
	write(t, bad, "hostnam = 1\n[general]\nexpire = \"long\"\n")
	for _, c := range []struct {
		name, how string
		args      []string
		code      int
		says      []string
	}{
		{"version", "runs", []string{"--version"}, 0, []string{"milld " + Version()}},
		{"help", "runs", []string{"--help"}, 0, []string{"A daemon for tests.", "Default: /etc/millrace/millrace.toml."}},
		{"unknown flag", "runs", []string{"--colour"}, ExitUsage, []string{"milld: unknown flag --colour"}},
		{"unknown level", "runs", []string{"--log-level", "loud"}, ExitUsage, []string{"milld: "}},
		{"bad configuration", "runs", []string{"--config", bad}, ExitConfig,
			[]string{"milld: " + bad + `:1: unknown key "hostnam"`, "milld: " + bad + `:3: expire: "long" is not a length of time`}},
		{"no configuration", "runs", []string{"--config", filepath.Join(dir, "none")}, ExitConfig, []string{"milld: " + dir + "/none: cannot be read"}},
		{"cannot start", "cannot start", []string{"--config", good}, ExitFailure, []string{"milld: no socket"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := begin(t, c.how, nil, c.args...)
			said := p.rest()
			if code := p.end(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(said, want) {
					t.Errorf("%q is not in:\n%s", want, said)
				}
			}
			if strings.Contains(said, "msg=starting") {
				t.Errorf("it started:\n%s", said)
			}
		})
	}
}

func TestDaemonThatFailsSaysWhyOnEachLine(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "millrace.toml")
	write(t, file, "hostname = \"mail.example.com\"\n")
	p := begin(t, "fails", nil, "--config", file)
	said := p.rest()
	if code := p.end(); code != ExitFailure || !strings.HasSuffix(said, "\nmilld: the socket is gone\nmilld: closing it failed too") {
		t.Errorf("exit code %d:\n%s", code, said)
	}
}

// serviceManager is where a daemon tells systemd of its state (sd_notify(3)).
func serviceManager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	if err := socket.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return socket
}

func TestServiceManagerMayListenInTheAbstractNameSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, name := filepath.Join(dir, "millrace.toml"), "@"+dir
	write(t, file, "hostname = \"mail.example.com\"\n")
	socket := serviceManager(t, name)
	p := begin(t, "runs", []string{"NOTIFY_SOCKET=" + name}, "--config", file)
	b := make([]byte, 512)
	if n, err := socket.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("told %q, %v", b[:n], err)
	}
	p.signal(syscall.SIGTERM)
	p.rest()
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestServiceManagerFollowsADaemonsLife(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "millrace.toml")
	write(t, file, "hostname = \"one.example.com\"\n[agent.http]\nlisten = \"192.0.2.1:1\"\n")
	socket := serviceManager(t, filepath.Join(dir, "notify"))
	// told waits for a state; those of the watchdog come in between.
	told := func(want string) {
		t.Helper()
		b := make([]byte, 512)
		for {
			n, err := socket.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if s := string(b[:n]); strings.HasPrefix(s, want) {
				return
			} else if s != "WATCHDOG=1" {
				t.Fatalf("told %q, want %s", s, want)
			}
		}
	}
	p := begin(t, "runs", []string{"NOTIFY_SOCKET=" + filepath.Join(dir, "notify"), "WATCHDOG_USEC=20000", "JOURNAL_STREAM=1:1"}, "--config", file)
	line := p.expect("configuration: " + file + ":3: listen: 192.0.2.1:1 is open to others")
	if strings.Contains(line, "time=") {
		t.Errorf("the journal has the time already: %s", line)
	}
	told("READY=1")
	told("WATCHDOG=1")

	write(t, file, "hostname = \"two.example.com\"\n")
	p.signal(syscall.SIGHUP)
	told("RELOADING=1\nMONOTONIC_USEC=")
	told("READY=1")
	p.expect("msg=reloading hostname=two.example.com")

	write(t, file, "hostname = two\n")
	p.signal(syscall.SIGHUP)
	told("RELOADING=1")
	told("READY=1")
	p.expect("reload failed; the old configuration stays in force")

	p.signal(syscall.SIGTERM)
	told("STOPPING=1")
	p.expect("msg=stopped")
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// The watchdog hears of the work, not of a process that is there: of one that stands
// still nothing until it goes on.
func TestWatchdogStarvesWhileTheWorkStandsStill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "millrace.toml")
	write(t, file, "hostname = \"mail.example.com\"\n")
	socket := serviceManager(t, filepath.Join(dir, "notify"))
	hear := func() string {
		t.Helper()
		b := make([]byte, 512)
		n, err := socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		state, _, _ := strings.Cut(string(b[:n]), "\n")
		return state
	}
	p := begin(t, "stands still", []string{"NOTIFY_SOCKET=" + filepath.Join(dir, "notify"), "WATCHDOG_USEC=80000"}, "--config", file)
	p.expect("the work stands still; systemd will restart this service if that lasts\" err=\"the queue stands still\"")
	fed := 0
	p.signal(syscall.SIGHUP)
	for s := hear(); s != "RELOADING=1"; s = hear() {
		if s == "WATCHDOG=1" {
			fed++
		}
	}
	if fed != 2 {
		t.Errorf("fed %d times by work that stood still at the third look", fed)
	}
	p.expect("the work goes on")
	for hear() != "WATCHDOG=1" {
	}
	p.signal(syscall.SIGTERM)
	p.rest()
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestLoggerHeedsItsLevel(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	go func() {
		level := slog.LevelWarn
		log := Flags{LogLevel: &level}.Logger(w)
		log.Info("not this")
		log.Warn("this", "key", "a b")
		w.Close()
	}()
	b, err := io.ReadAll(r)
	if err != nil || strings.Count(string(b), "\n") != 1 || !strings.HasSuffix(string(b), "level=WARN msg=this key=\"a b\"\n") {
		t.Errorf("logged %q, %v", b, err)
	}
}

func TestWatchdogInterval(t *testing.T) {
	t.Parallel()
	for usec, want := range map[string]time.Duration{"": 0, "x": 0, "-1": 0, "0": 0, "30000000": 15 * time.Second} {
		if got := watchdogInterval(usec); got != want {
			t.Errorf("watchdogInterval(%q) = %v, want %v", usec, got, want)
		}
	}
}
