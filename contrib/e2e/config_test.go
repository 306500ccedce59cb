package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// A configuration that cannot be used starts nothing, and the admin is told
// every fault by file and line at once.
func TestBadConfigurationNeverStarts(t *testing.T) {
	t.Parallel()
	programs, err := lab.Programs()
	if err != nil {
		t.Fatal(err)
	}
	const bad = `hostname = "mail.lab.test"
[spool]
directory = "SPOOL"
colour = "blue"
[milter]
listen = ["unix:SPOOL/milter.sock"]
agent_grace = "ten minutes"
[agent]
control = "unix:SPOOL/control.sock"
[[queue]]
name = "one"
domains = ["a.example"]
[[queue]]
name = "two"
domains = ["b.example", "a.example"]
`
	for _, command := range [][]string{{"millrace-milter"}, {"millrace-agent"}, {"millrace", "check"}} {
		dir := t.TempDir()
		file, spool := filepath.Join(dir, "millrace.toml"), filepath.Join(dir, "spool")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(bad, "SPOOL", spool)), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), waiting)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(programs, command[0]), append(command[1:], "--config", file)...)
		said, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 78 {
			t.Errorf("%s: %v, want exit status 78\n%s", command, err, said)
		}
		for _, want := range []string{":4: ", ":7: ", ":15: ", "colour", "ten minutes", "a.example"} {
			if want[0] == ':' {
				want = file + want
			}
			if !strings.Contains(string(said), want) {
				t.Errorf("%s does not say %q:\n%s", command, want, said)
			}
		}
		if _, err := os.Stat(spool); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s touched the spool: %v", command, err)
		}
	}
}

// SIGHUP gives effect to a new file; a bad one changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{millrace: lab.MillraceOptions{
		Set: map[string]string{"milter.mode": `"observe"`},
	}})
	observe := read(t, r.Millrace.Config())
	// reload waits until both daemons have said so for the n-th time.
	reload := func(content, says string, n int) {
		t.Helper()
		if err := os.WriteFile(r.Millrace.Config(), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, d := range []*lab.Daemon{r.Millrace.Milter, r.Millrace.Agent} {
			if err := d.Reload(); err != nil {
				t.Fatal(err)
			}
			r.until(says, func() bool { return len(logbuf.Lines(read(t, d.Log()), says, r.Millrace.Config())) == n })
		}
	}
	n := 0
	ours := func(domain string, want bool) {
		t.Helper()
		n++
		id := fmt.Sprintf("reload-%d", n)
		r.send("news@lab.test", []string{"reader@" + domain}, news(id))
		r.until("arrival of "+id, func() bool { return len(r.copies(id)) > 0 })
		if got := r.copies(id)[0].ours(); got != want {
			t.Errorf("%s to %s: by Millrace %v, want %v", id, domain, got, want)
		}
	}
	ours("far.test", false)
	divert := strings.Replace(observe, `"observe"`, `"divert"`, 1)
	reload(divert, "configuration reloaded", 1)
	ours("far.test", true)
	ours("far.example", true)
	reload(observe+"\n[agent.colours]\nred = 1\n", "reload failed", 1)
	admin := control.NewClient(r.Millrace.Control())
	defer admin.Close()
	// What is wrong is told to who asks by the control socket.
	if err := admin.Reload(r.ctx); err == nil || !strings.Contains(err.Error(), r.Millrace.Config()+":") || !strings.Contains(err.Error(), "colours") {
		t.Errorf("millrace reload: %v", err)
	}
	ours("far.test", true)
	// And what the agent does: a queue that gives its mail back to the host.
	reload(divert+"\n[[queue]]\nname = \"home\"\ndomains = [\"far.example\"]\nroute = \"handback\"\n", "configuration reloaded", 2)
	ours("far.example", false)
	if err := admin.Reload(r.ctx); err != nil {
		t.Errorf("millrace reload: %v", err)
	}
	ours("far.test", true)
	r.rest()
	if got := len(r.all()); got != n {
		t.Errorf("%d copies of %d messages", got, n)
	}
}
