package postconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

func hostConfig() *config.Config {
	return &config.Config{
		Milter:   config.Milter{Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}, Scope: []string{"loopback"}},
		Handback: config.Handback{Relay: "127.0.0.1:10626"},
	}
}

const onePort = "smtp inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\n"

// TestCopiesOfAnEarlierTimeGiveWay: what a set-up that failed left beside the files is
// not what an undo goes back to.
func TestCopiesOfAnEarlierTimeGiveWay(t *testing.T) {
	t.Parallel()
	const now = "compatibility_level = 3.6\nmyhostname = now.example.com\nin_flow_delay = 0\n"
	dir := instance(t, now, onePort)
	main := filepath.Join(dir, "main.cf")
	if err := os.WriteFile(backup(main), []byte("compatibility_level = 3.6\nmyhostname = then.example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, o := hostConfig(), SetupOptions{Dir: dir}
	undo, err := Undo(t.Context(), c, o)
	if err != nil || len(undo.Changes) > 0 {
		t.Errorf("undone before it was set up: %+v, %v", undo, err)
	}
	plan, err := Setup(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	write(t, plan)
	if kept := string(read(t, backup(main))); kept != now {
		t.Errorf("kept:\n%s", kept)
	}
	if undo, err = Undo(t.Context(), c, o); err != nil {
		t.Fatal(err)
	}
	write(t, undo)
	if text := string(read(t, main)); text != now {
		t.Errorf("undone:\n%s", text)
	}
}

// TestLabelsAreNamed: SELinux refuses ports and sockets that its policy does not have.
func TestLabelsAreNamed(t *testing.T) {
	t.Parallel()
	got := labels(hostConfig())
	for _, want := range []string{"semanage port -a -t smtp_port_t -p tcp 10626", "restorecon -v /var/spool/postfix/millrace/milter.sock"} {
		if !strings.Contains(got, want) {
			t.Errorf("without %q: %s", want, got)
		}
	}
	c := hostConfig()
	c.Handback.Relay = "unix:/var/spool/postfix/public/millrace"
	if got := labels(c); strings.Contains(got, "semanage port") {
		t.Errorf("a port of a socket: %s", got)
	}
}

// TestUndoNamesWhatItDoesNotKnow: an admin has taken a comment of set-up's out, so
// where its services end is not known.
func TestUndoNamesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, mark := range []string{"# Millrace's hand-back port", "# End of what is Millrace's"} {
		dir := instance(t, "compatibility_level = 3.6\n", "smtp inet n - n - - smtpd\n")
		c := hostConfig()
		c.Handback.Relay = "unix:/var/spool/postfix/public/millrace"
		plan, err := Setup(t.Context(), c, SetupOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		write(t, plan)
		var text string
		for line := range strings.Lines(string(read(t, filepath.Join(dir, "master.cf")))) {
			if !strings.HasPrefix(line, mark) {
				text += line
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "master.cf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		settled(t, dir)
		undo, err := Undo(t.Context(), c, SetupOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for _, service := range []string{"millrace/unix", "handback/unix"} {
			if !strings.Contains(lines(undo.ByHand), "master.cf: "+service) {
				t.Errorf("without %q nothing is said of %s: %q", mark, service, undo.ByHand)
			}
		}
	}
}
