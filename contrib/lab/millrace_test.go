package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// standIn makes the test binary behave like one of our daemons as the lab sees
// it: it listens on its socket until SIGTERM. The lab's own tests are about
// starting and stopping, not about what the daemons do.
func standIn(path string) int {
	cfg, _, err := config.Load(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 78
	}
	socket := cfg.Agent.Control
	if filepath.Base(os.Args[0]) == "millrace-milter" {
		socket = cfg.Milter.Listen[0]
	}
	socket = strings.TrimPrefix(socket, "unix:")
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer l.Close()
	if err := os.Chmod(socket, 0o660); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "listening")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return 0
}

// standIns is a programs directory with stand-ins.
func standIns(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"millrace-milter", "millrace-agent"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stoodIn is a Millrace of stand-ins, which do not run yet.
func stoodIn(t *testing.T, set map[string]string) *Millrace {
	t.Helper()
	o := MillraceOptions{Programs: standIns(t), Set: map[string]string{"handback.relay": `"127.0.0.1:10626"`}}
	maps.Copy(o.Set, set)
	m, err := NewMillrace(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMillraceConfigurationIsValid(t *testing.T) {
	t.Parallel()
	_, p := start(t, PostfixOptions{Milter: RelativeSocket, LocalDomains: []string{"other.test"}})
	m, err := NewMillrace(MillraceOptions{
		Host:     p,
		Programs: standIns(t),
		Set:      map[string]string{"milter.mode": `"observe"`, "general.max_sessions": "7", "agent.port": "2525"},
		Extra:    "[[queue]]\nname = \"big\"\ndomains = [\"big.example\"]\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	c, _, err := config.Load(m.Config())
	if err != nil {
		b, _ := os.ReadFile(m.Config())
		t.Fatalf("%v\n%s", err, b)
	}
	if c.Hostname != Hostname || c.Milter.Mode != config.Observe || c.Agent.Port != 2525 || c.General.MaxSessions != 7 ||
		c.Handback.Relay != p.HandbackAddr() || c.Queues[0].MaxSessions != 7 || c.Spool.Directory != m.Spool() ||
		!slices.Contains(c.Milter.HostDomains, "other.test") || c.Milter.Listen[0] != m.Socket() {
		t.Errorf("read back: %+v", c)
	}
}

func TestDaemonsStartCrashAndStop(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	m := stoodIn(t, nil)
	for _, d := range []*Daemon{m.Agent, m.Milter} {
		if err := d.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []*Daemon{m.Milter, m.Agent} {
		first := d.PID()
		d.Kill()
		if d.Running() || syscall.Kill(first, 0) != syscall.ESRCH {
			t.Errorf("%s is still there after Kill", d.name)
		}
		used := d.CPU()
		if used <= 0 {
			t.Errorf("%s used no CPU time", d.name)
		}
		if err := d.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if d.PID() == first || d.CPU() < used {
			t.Errorf("%s: pid %d again, or CPU time back to %v", d.name, first, d.CPU())
		}
		if b, err := os.ReadFile(d.Log()); strings.Count(string(b), "listening") != 2 {
			t.Errorf("%s: log of two runs %q %v", d.name, b, err)
		}
	}
	if err := errors.Join(m.Milter.Stop(), m.Agent.Stop(), m.Close()); err != nil {
		t.Fatal(err)
	}
	if m.Milter.Running() || m.Agent.Running() {
		t.Error("still running after Stop")
	}
	if _, err := os.Stat(m.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", m.dir, err)
	}
}

func TestDaemonThatEndsEarlySaysWhy(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	err := stoodIn(t, map[string]string{"milter.colour": `"blue"`}).Agent.Start(ctx)
	if err == nil || !strings.Contains(err.Error(), "exit status 78") || !strings.Contains(err.Error(), "colour") {
		t.Errorf("start with a bad configuration: %v", err)
	}
}
