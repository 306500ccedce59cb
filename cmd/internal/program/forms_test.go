package program

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminalLogIsForPeople logs to a pseudo-terminal.
func TestTerminalLogIsForPeople(t *testing.T) {
	t.Parallel()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	Flags{}.Logger(terminal).Warn("careful", "key", "value")
	line, err := bufio.NewReader(master).ReadString('\n')
	plain := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(line, "")
	if err != nil || line == plain || !regexp.MustCompile(`^\d\d:\d\d:\d\d WRN careful key=value\r\n$`).MatchString(plain) {
		t.Errorf("logged %q, %v", line, err)
	}
}

// TestPackagersSetTheVersion builds a program as packagers do.
func TestPackagersSetTheVersion(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "millrace-milter")
	const name = "github.com/millrace/millrace/cmd/internal/program.version"
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X "+name+"=1.2.3-4", "-o", bin,
		"github.com/millrace/millrace/cmd/millrace-milter")
	build.WaitDelay = 5 * time.Second
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), bin, "--version").Output()
	if err != nil || string(out) != "millrace-milter 1.2.3-4\n" {
		t.Errorf("it says %q, %v", out, err)
	}
}
