package lab

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

// exitEnv makes the test binary end with a code right after isolation, or if it
// is negative start a child and wait to be killed.
const exitEnv = "LAB_TEST_EXIT"

type testRunner struct{ m *testing.M }

func (r testRunner) Run() int {
	if len(os.Args) == 3 && os.Args[1] == "--config" {
		return standIn(os.Args[2])
	}
	code, err := strconv.Atoi(os.Getenv(exitEnv))
	switch {
	case err != nil:
		code = r.m.Run()
		if leak := leaks.Find(); leak != nil && code == 0 {
			os.Stderr.WriteString(leak.Error() + "\n")
			code = 1
		}
	case code < 0:
		child := exec.Command("sh", "-c", "echo started; sleep 1000")
		child.Stdout = os.Stdout
		_ = child.Run()
	}
	return code
}

func TestMain(m *testing.M) { Main(testRunner{m}) }

func TestNothingIsReachableOutside(t *testing.T) {
	t.Parallel()
	if !Isolated() {
		t.Fatal("the tests run outside")
	}
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			t.Errorf("interface %s is up", i.Name)
		}
	}
	if _, err := net.Dial("tcp", "192.0.2.1:25"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dial to the outside: %v, want %v", err, syscall.ENETUNREACH)
	}
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || !strings.HasPrefix(string(b), "nameserver 127.0.0.1\n") {
		t.Errorf("resolv.conf: %q %v", b, err)
	}
}

func TestEveryLoopbackAddressHasItsOwnPort25(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.200.0.1", "127.200.0.2"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "25"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestIsolateKeepsTheExitCode(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{0, 7} {
		cmd := exec.Command(self, "-test.run=^$")
		// Without the mark of isolation it isolates itself once more.
		cmd.Env = append(os.Environ(), isolatedEnv+"=", exitEnv+"="+strconv.Itoa(want))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("exit code %d, want %d: %s", got, want, out)
		}
	}
}

func TestNothingOutlivesAKill(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The pipe's end is with the program outside, the one inside and the
	// child: it is read to its end only when all of them are gone.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(os.Environ(), isolatedEnv+"=", exitEnv+"=-1")
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(r)
	if line, err := out.ReadString('\n'); line != "started\n" {
		t.Fatalf("%q %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
}

func TestALeakedMarkOfIsolationProvesNothing(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	net, mnt, err := namespaces()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(os.Environ(), isolatedEnv+"=enter "+net+" "+mnt)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "still in the namespaces of the host") {
		t.Errorf("furnished the namespaces it was started in: %v %s", err, out)
	}
}

func TestIsolateSaysWhenItIsNotPermitted(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Root without CAP_SYS_ADMIN, as in an ordinary container.
	cmd := exec.Command("setpriv", "--bounding-set", "-sys_admin", self, "-test.run=^$")
	cmd.Env = append(os.Environ(), isolatedEnv+"=")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "CAP_SYS_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}
