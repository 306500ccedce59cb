package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
)

// terminal is a program in a tmux of its own, 80 columns by 24 lines. One client in control mode
// (CONTROL MODE in tmux(1)) types and looks: a start of tmux for each would take more CPU than
// most programs that run in it.
type terminal struct {
	t    *testing.T
	in   io.Writer
	said *bufio.Reader
}

// open runs a program there. The program millrace on its PATH is the test binary.
func open(t *testing.T, env []string, command ...string) *terminal {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(dir, "millrace")); err != nil {
		t.Fatal(err)
	}
	tmux := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "tmux", append([]string{"-S", filepath.Join(dir, "tmux")}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		return cmd
	}
	args := []string{"-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"}
	args = append(args, "--", "env", asProgram+"=1", "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "TZ=UTC")
	if out, err := tmux(t.Context(), slices.Concat(args, env, command)...).CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v\n%s", err, out)
	}
	client := tmux(t.Context(), "-C", "attach", "-f", "no-output")
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tmux(context.Background(), "kill-server").Run() // it is gone when its program is
		_ = client.Wait()                                   // it ended with the test or the server
	})
	return &terminal{t: t, in: in, said: bufio.NewReader(out)}
}

// run has tmux do a command, and gives what it says.
func (x *terminal) run(args ...string) string {
	x.t.Helper()
	for i, arg := range args {
		args[i] = "'" + strings.ReplaceAll(arg, "'", `'"'"'`) + "'"
	}
	if _, err := io.WriteString(x.in, strings.Join(args, " ")+"\n"); err != nil {
		x.t.Fatalf("tmux %q: %v", args, err)
	}
	var answer strings.Builder
	block := "" // what its begin says of itself: time, number, and 1, as the command is ours
	for {
		line, err := x.said.ReadString('\n')
		if err != nil {
			x.t.Fatalf("tmux %q: %v\n%s%s", args, err, answer.String(), line)
		}
		what, of, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case block == "" && what == "%begin" && strings.HasSuffix(of, " 1"):
			block = of
		case block == "": // of attach itself, or news
		case what == "%end" && of == block:
			return answer.String()
		case what == "%error" && of == block:
			x.t.Fatalf("tmux %q: %s", args, answer.String())
		default:
			answer.WriteString(line)
		}
	}
}

// keys types; names like Tab and Enter are keys.
func (x *terminal) keys(list ...string) {
	x.t.Helper()
	x.run(append([]string{"send-keys", "--"}, list...)...)
}

func (x *terminal) screen() string {
	x.t.Helper()
	return x.run("capture-pane", "-p", "-J") // wrapped lines in one
}

// until waits for a text on the screen.
func (x *terminal) until(text string) {
	x.t.Helper()
	x.wait(fmt.Sprintf("%q", text), func(screen string) bool { return strings.Contains(screen, text) })
}

func (x *terminal) wait(what string, holds func(screen string) bool) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 5*time.Minute)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) { return holds(x.screen()), nil }); err != nil {
		x.t.Fatalf("no %s on the screen:\n%s", what, x.screen())
	}
}

// alone waits until nothing but a prompt is on the screen.
func (x *terminal) alone(prompt string) {
	x.t.Helper()
	x.wait("nothing but "+prompt, func(screen string) bool { return strings.TrimSpace(screen) == prompt })
}

// again waits until the prompt is there again, below the line that was entered.
func (x *terminal) again(prompt string) {
	x.t.Helper()
	x.wait("a second "+prompt, func(screen string) bool {
		lines := strings.Split(strings.TrimSpace(screen), "\n")
		return len(lines) > 1 && strings.TrimSpace(lines[len(lines)-1]) == prompt
	})
}

// last is the last line that begins with the prompt, without it.
func (x *terminal) last(prompt string) (line string) {
	x.t.Helper()
	for l := range strings.SplitSeq(x.screen(), "\n") {
		if rest, ok := strings.CutPrefix(l, prompt); ok {
			line = strings.TrimRight(rest, " ")
		}
	}
	return line
}

// watched is a control socket that takes a pause of a site, and remembers it.
type watched struct {
	backend
	mu     sync.Mutex
	pauses []control.Pause
}

func (w *watched) Pause(_ context.Context, b control.Pause) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pauses = append(w.pauses, b)
	return nil
}

func (w *watched) Standing() control.StandingOrders {
	w.mu.Lock()
	defer w.mu.Unlock()
	return control.StandingOrders{Pauses: w.pauses}
}

func TestTopInATerminal(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{"as it is": nil, "NO_COLOR": {"NO_COLOR=1"}, "vt100": {"TERM=vt100"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &watched{}
			x := open(t, env, "sh", "-c", "millrace --config "+serve(t, w)+" top --every 50ms; echo left with $?; read wait")
			x.until(">   1100     0    7/8  45.2 123ms     3 google                refused: takes 8 +")
			x.until("google: refused: takes 8 sessions, 20 are allowed; 421 too many")
			x.keys("Down")
			x.until(">    100     0    1/2     0     -     0 mx.far.example        start")
			x.keys("k")
			x.until(">   1100")
			x.keys("p")
			x.until("google is paused; p lets it go on")
			x.until("PAUSED")
			x.keys("Enter")
			x.until("google: how many sessions, how fast, and why")
			x.until("refused: takes 8 sessions, 20 are allowed; 421 too many")
			x.keys("q")
			x.until("left with 0")
			if s := x.screen(); strings.Contains(s, "esc back") {
				t.Errorf("top left its screen behind:\n%s", s)
			}
			if got := w.Standing().Pauses; len(got) != 1 || got[0].Filter != (control.Filter{Site: "google"}) {
				t.Errorf("brakes %+v", got)
			}
		})
	}
}
