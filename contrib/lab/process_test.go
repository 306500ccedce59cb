package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// burn is a shell command that uses CPU time by counting to n.
func burn(n int) string {
	return fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); done", n)
}

func TestCPUCountsOrphans(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "times")
	// The leader ends at once; its child works on, and says what it used.
	cmd := exec.Command("sh", "-c", `( `+burn(200_000)+`; times > "$0" ) & exit 0`, file)
	g, err := startGroup(cmd)
	if err != nil {
		t.Fatal(err)
	}
	<-g.done
	if left := membersOf(g.pid()); len(left) != 0 {
		t.Errorf("%d processes left when the group is said to be gone", len(left))
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal("the orphan was not waited for: ", err)
	}
	said := timesOf(t, string(b))
	if said == 0 || g.cpu() < said {
		t.Errorf("group used %v, its orphan alone %v", g.cpu(), said)
	}
}

// timesOf reads the first line of the shell's times, the shell's own use:
// "0m0.120000s 0m0.010000s".
func timesOf(t *testing.T, s string) time.Duration {
	t.Helper()
	m := regexp.MustCompile(`^(\d+)m([\d.]+)s (\d+)m([\d.]+)s`).FindStringSubmatch(s)
	if m == nil {
		t.Fatalf("times: %q", s)
	}
	var sum time.Duration
	for _, part := range []string{m[1] + "m" + m[2] + "s", m[3] + "m" + m[4] + "s"} {
		d, err := time.ParseDuration(part)
		if err != nil {
			t.Fatal(err)
		}
		sum += d
	}
	return sum
}

func TestCPUOfLiveProcessesNeverShrinks(t *testing.T) {
	t.Parallel()
	// Children come and go while it is looked at.
	g, err := startGroup(exec.Command("sh", "-c", "for n in $(seq 30); do ( "+burn(10_000)+" ); done"))
	if err != nil {
		t.Fatal(err)
	}
	var last time.Duration
	for g.running() {
		now := g.cpu()
		if now < last-tick { // each process is rounded by itself
			t.Errorf("CPU time went from %v to %v", last, now)
		}
		last = now
	}
	if g.cpu() == 0 {
		t.Error("no CPU time")
	}
}
