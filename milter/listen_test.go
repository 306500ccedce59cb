package milter

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/sockets"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func TestSocketIsForTheGroupOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	ls, err := Listen([]string{"unix:" + path, "inet:0@127.0.0.1"})
	if err == nil {
		t.Fatalf("port 0 was taken: %v", ls)
	}
	ls, err = Listen([]string{"unix:" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer ls[0].Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen([]string{"unix:" + path}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("live socket: %v", err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false) // as a crash leaves it
	if err := sockets.End(old.(*net.UnixListener)); err != nil {
		t.Fatal(err)
	}
	old.Close()
	ls, err := Listen([]string{"unix:" + path})
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	ls[0].Close()

	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen([]string{"unix:" + file}); err == nil {
		t.Error("a plain file was replaced")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is gone: %q %v", b, err)
	}
}

func TestActivationIsForThisProcess(t *testing.T) {
	t.Parallel()
	for _, env := range [][2]string{{"", ""}, {"99999999", "1"}, {"x", "1"}} {
		if ls, err := activated(env[0], env[1]); ls != nil || err != nil {
			t.Errorf("%q: %v %v", env, ls, err)
		}
	}
}
