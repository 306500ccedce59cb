package postconf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/millrace/millrace/agent/config"
)

// TestSocketIsReachedByTheAgentsUser has the spool belong to a user who is let in, and to
// one who is not, before and after the socket is made.
func TestSocketIsReachedByTheAgentsUser(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	top, err := os.MkdirTemp("", "reach-") // passable for others, as t.TempDir is not
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	public, spool := filepath.Join(top, "public"), filepath.Join(top, "spool")
	path := filepath.Join(public, "millrace")
	c := &config.Config{
		Milter: config.Milter{Mode: config.Divert}, Spool: config.Spool{Directory: spool}, Handback: config.Handback{Relay: "unix:" + path},
	}
	said := func() (all []string) {
		t.Helper()
		found, err := Reach(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			all = append(all, fmt.Sprint(f.Severity, " ", f))
		}
		return all
	}
	expect := func(what string, want ...string) {
		t.Helper()
		got := said()
		if len(got) != len(want) {
			t.Errorf("%s: %q", what, got)
			return
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("%s: %q", what, got)
			}
		}
	}
	here := "[handback] relay unix:" + path + ": "
	missing, shut := fmt.Sprint(Warning, " ", here, "there is no such socket"), fmt.Sprint(Contradiction, " ", here, "user nobody may not connect to it")
	if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(public, 0o710)); err != nil {
		t.Fatal(err)
	}
	expect("no agent yet")
	if err := errors.Join(os.Mkdir(spool, 0o700), os.Chown(spool, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	expect("shut out, no socket yet", missing, shut)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Chmod(path, 0o666); err != nil { // as Postfix does
		t.Fatal(err)
	}
	expect("shut out", shut)
	if err := os.Chown(public, 0, nobody); err != nil {
		t.Fatal(err)
	}
	expect("in the group")
	if err := os.Chmod(public, 0o730); err != nil {
		t.Fatal(err)
	}
	expect("a directory that the group may write", fmt.Sprint(Warning, " ", here, "others than its owner may write "+public))
	if err := os.Chown(spool, 0, 0); err != nil {
		t.Fatal(err)
	}
	if c.Handback.Relay = "127.0.0.1:10626"; len(said()) != 0 {
		t.Error("a port has no socket to reach")
	}
}

func TestPortsOfRootAreNotExposed(t *testing.T) {
	t.Parallel()
	host := func(first string) fs.FS {
		return fstest.MapFS{"proc/sys/net/ipv4/ip_unprivileged_port_start": {Data: []byte(first)}}
	}
	for _, c := range []struct {
		relay string
		host  fs.FS
		want  bool
	}{
		{"127.0.0.1:10626", fstest.MapFS{}, true},
		{"127.0.0.1:1024", fstest.MapFS{}, true},
		{"127.0.0.1:1023", fstest.MapFS{}, false},
		{"127.0.0.1:626", host("0\n"), true}, // as in many containers
		{"127.0.0.1:1024", host("1025\n"), false},
		{"[::1]:10626", host("1024\n"), true},
		{"localhost:10626", host("1024\n"), true},
		{"mx.example.net:10626", host("1024\n"), false}, // its own host's matter
		{"unix:/var/spool/postfix/public/millrace", host("1024\n"), false},
	} {
		if got := Exposed(c.relay, c.host) != ""; got != c.want {
			t.Errorf("%s: %t", c.relay, got)
		}
	}
}

// A state directory that the agent's user cannot write is an error of the configuration.
func TestStateDirectoryIsWrittenByTheAgentsUser(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	top, err := os.MkdirTemp("", "state-") // passable for others, as t.TempDir is not
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	state, spool := filepath.Join(top, "state"), filepath.Join(top, "spool")
	c := &config.Config{Spool: config.Spool{Directory: spool}, Agent: config.Agent{StateDirectory: state}}
	expect := func(what, want string) {
		t.Helper()
		found, err := Keeps(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" && len(found) == 0 {
			return
		}
		if len(found) != 1 || !strings.HasPrefix(fmt.Sprint(found[0].Severity, " ", found[0]), fmt.Sprint(Contradiction, " [agent] state_directory ", state, ": ", want)) {
			t.Errorf("%s: %v", what, found)
		}
	}
	expect("no agent yet", "")
	if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(spool, 0o700), os.Chown(spool, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	expect("none", "there is no such directory")
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	expect("none, and the agent may make it", "")
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("a file", "there is no such directory")
	if found, err := Keeps(t.Context(), c); err != nil || len(found) != 1 || !strings.HasPrefix(found[0].Remedy, "mv "+state) {
		t.Errorf("a file: %v, %v", found, err) // install would say that it is there
	}
	if err := errors.Join(os.Remove(state), os.Mkdir(state, 0o755)); err != nil {
		t.Fatal(err)
	}
	expect("root's", "user nobody may not write to it")
	if err := os.Chown(state, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	expect("its own", "")
}
