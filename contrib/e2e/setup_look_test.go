//go:build !race

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/postfix"
)

// setupRoom is a Postfix without Millrace's service or milter, and a Millrace that does
// not know where mail comes back.
type setupRoom struct {
	*room
}

func enterSetup(t *testing.T, extra map[string]string, set map[string]string, master ...string) *setupRoom {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	main := map[string]string{"smtpd_milters": ""}
	for k, v := range extra {
		main[k] = v
	}
	r := &setupRoom{room: newRoom(t, ctx)}
	if err := r.StartPostfix(ctx, lab.PostfixOptions{Extra: main, Master: master}); err != nil {
		t.Fatal(err)
	}
	p := r.Postfix
	// The lab's own hand-back service is none of set-up's.
	path := filepath.Join(p.Config(), "master.cf")
	service, err := postfix.Handback(p.HandbackAddr())
	if err != nil {
		t.Fatal(err)
	}
	text, rest, ok := strings.Cut(read(t, path), service)
	if !ok {
		t.Fatal("the lab's master.cf has no hand-back service")
	}
	if err := os.WriteFile(path, []byte(text+rest), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	r.until("the running Postfix has it no longer", func() bool {
		c, err := net.Dial("unix", strings.TrimPrefix(p.HandbackAddr(), "unix:"))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	keys := map[string]string{"handback.relay": ""}
	for k, v := range set {
		keys[k] = v
	}
	if err := r.NewMillrace(lab.MillraceOptions{Set: keys}); err != nil {
		t.Fatal(err)
	}
	return r
}

// command runs millrace; it may fail.
func (r *setupRoom) command(args ...string) (string, error) {
	r.t.Helper()
	programs, err := lab.Programs()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := exec.CommandContext(r.ctx, filepath.Join(programs, "millrace"), append([]string{"--config", r.Millrace.Config()}, args...)...).CombinedOutput()
	return string(out), err
}

func (r *setupRoom) setup(args ...string) (string, error) {
	r.t.Helper()
	return r.command(append([]string{"setup", "--postfix-config", r.Postfix.Config(), "--yes", "--no-test"}, args...)...)
}

// all is everything in Postfix's configuration directory.
func (r *setupRoom) all() (text string) {
	r.t.Helper()
	entries, err := os.ReadDir(r.Postfix.Config())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		text += "== " + e.Name() + "\n" + read(r.t, filepath.Join(r.Postfix.Config(), e.Name()))
	}
	return text
}

// alive sends a message.
func (r *setupRoom) alive() {
	r.t.Helper()
	r.until("Postfix takes mail", func() bool {
		c, err := lab.Dial(r.ctx, r.Postfix.SMTPAddr())
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.Send(r.ctx, "a@lab.test", []string{"b@lab.test"}, []byte("Subject: x\r\n\r\nx\r\n"))
		return err == nil
	})
}

// TestSetupTakesItselfBack: the port that was free is taken while set-up writes, so that
// the reload ends master(8). Set-up notices, gives the files back and starts Postfix.
func TestSetupTakesItselfBack(t *testing.T) {
	t.Parallel()
	relay := freePort(t)
	r := enterSetup(t, nil, map[string]string{"handback.relay": fmt.Sprintf("%q", relay)})
	before := r.all()
	// once sets up, and says whether the port was taken in time: Postfix may be faster.
	once := func() (out string, taken net.Listener, err error) {
		took := make(chan net.Listener, 1)
		ctx, stop := context.WithCancel(r.ctx)
		go func() {
			path := filepath.Join(r.Postfix.Config(), "master.cf")
			for ctx.Err() == nil {
				if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), relay) {
					if l, err := net.Listen("tcp", relay); err == nil {
						took <- l
						return
					}
					break
				}
				runtime.Gosched()
			}
			took <- nil
		}()
		out, err = r.setup()
		stop()
		return out, <-took, err
	}
	out, taken, err := once()
	for taken == nil {
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := r.setup("--undo"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		out, taken, err = once()
	}
	defer taken.Close()
	if err == nil || !strings.Contains(out, "postfix stopped") && !strings.Contains(out, "no answer from Postfix") || !strings.Contains(out, "everything is as it was") || strings.Contains(out, "done\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if after := r.all(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	r.alive()
}

// TestSetupThatCannotBeTakenBackSaysHow: Postfix cannot be started again, because of
// what an admin wrote there before. The copies stay, and the commands are named.
func TestSetupThatCannotBeTakenBackSaysHow(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := enterSetup(t, nil, nil)
	path := filepath.Join(r.Postfix.Config(), "master.cf")
	// Not yet read by the running Postfix.
	if err := os.WriteFile(path, []byte(read(t, path)+l.Addr().String()+" inet n - n - - smtpd\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wrong := read(t, path)
	out, err := r.setup()
	for _, want := range []string{"could not be taken back", "cp " + path + ".before-millrace " + path, "postfix -c " + r.Postfix.Config() + " start"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v: without %q:\n%s", err, want, out)
		}
	}
	if now := read(t, path); now != wrong || read(t, path+".before-millrace") != wrong {
		t.Errorf("master.cf:\n%s", now)
	}
}

// TestSetupLeavesAStoppedPostfixStopped: there is nothing to look at, and nothing is started.
func TestSetupLeavesAStoppedPostfixStopped(t *testing.T) {
	t.Parallel()
	r := enterSetup(t, nil, nil)
	if err := r.Postfix.Halt(); err != nil {
		t.Fatal(err)
	}
	before := r.all()
	if out, err := r.setup(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if c, err := net.Dial("unix", strings.TrimPrefix(r.Postfix.HandbackAddr(), "unix:")); err == nil {
		c.Close()
		t.Error("Postfix was started")
	}
	if out, err := r.setup("--undo"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if after := r.all(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestOldMilterProtocolDoesNotReachMillrace: milter_protocol = 2 of a guide of old, with
// which nothing was ever diverted.
func TestOldMilterProtocolDoesNotReachMillrace(t *testing.T) {
	t.Parallel()
	for _, protocol := range oldProtocols() {
		r := enterSetup(t, map[string]string{"milter_protocol": protocol}, nil)
		r.start(r.Millrace.Agent, r.Millrace.Milter)
		if out, err := r.setup(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		n := 0
		r.until("bulk is diverted with milter_protocol = "+protocol, func() bool {
			n++
			qid := r.send("news@lab.test", []string{"ann@far.test"}, news(fmt.Sprintf("p%s-%d", protocol, n)))
			return len(logbuf.Lines(read(t, r.Millrace.Milter.Log()), "qid="+qid+" ", "diverted=1")) > 0
		})
		r.endDaemons()
	}
}

// TestRetreatAfterListenMoved: set-up knows its own words, wherever [milter] listen is now.
func TestRetreatAfterListenMoved(t *testing.T) {
	t.Parallel()
	r := enterSetup(t, nil, nil)
	before := r.all()
	if out, err := r.setup(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config := r.Millrace.Config()
	moved := strings.Replace(read(t, config), "/millrace/milter.sock", "/millrace/moved.sock", 1)
	if err := os.WriteFile(config, []byte(moved), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := r.setup("--dry-run")
	if err != nil || !strings.Contains(out, "+smtpd_milters = { unix:millrace/moved.sock") || strings.Contains(out, "+smtpd_milters = { unix:millrace/milter.sock") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := r.command("retreat", "--yes", "--postfix-config", r.Postfix.Config()); err != nil || !strings.Contains(out, "may be removed") {
		t.Errorf("%v\n%s", err, out)
	}
	if after := r.all(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestSetupTellsWhatPostfixSays: postfix(1) tells its reason to a terminal only.
func TestSetupTellsWhatPostfixSays(t *testing.T) {
	t.Parallel()
	r := enterSetup(t, nil, nil)
	path := filepath.Join(r.Postfix.Config(), "main.cf")
	if err := os.WriteFile(path, []byte(read(t, path)+"setgid_group = nosuch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := r.all()
	out, err := r.setup()
	if err == nil || !strings.Contains(out, "unknown group name: nosuch") || !strings.Contains(out, "everything is as it was") {
		t.Errorf("%v\n%s", err, out)
	}
	if after := r.all(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestMailThatAFilterGivesBackIsNotTheHosts: bulk from outside passes an alias to
// somewhere else, and the filter of this host, and comes back from loopback.
func TestMailThatAFilterGivesBackIsNotTheHosts(t *testing.T) {
	t.Parallel()
	outside, err := lab.Outside()
	if err != nil {
		t.Fatal(err)
	}
	back := freePort(t)
	host, port, err := net.SplitHostPort(back)
	if err != nil {
		t.Fatal(err)
	}
	r := enterSetup(t, map[string]string{
		"content_filter":     "smtp:[" + host + "]:" + port,
		"virtual_alias_maps": "inline:{ home@lab.test=ann@far.test }",
	}, map[string]string{"milter.accept_bypass": "[" + quoted(config.Bypasses()) + "]"},
		back+" inet n - n - - smtpd", "  -o content_filter=", "  -o receive_override_options=no_address_mappings")
	r.start(r.Millrace.Agent, r.Millrace.Milter)
	t.Cleanup(r.endDaemons)
	if out, err := r.setup(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n := 0
	r.until("Millrace sees mail from outside", func() bool {
		n++
		p := r.call(outside, r.Postfix.SMTPAddr())
		p.says("250", "EHLO client.test")
		p.sends("<news@elsewhere.test>", []string{"<home@lab.test>"}, news(fmt.Sprintf("forwarded-%d", n)))
		p.quits()
		return strings.Contains(read(t, r.Millrace.Milter.Log()), "msg=verdict")
	})
	r.until("it came back from the filter and is on its way out", func() bool {
		lines, err := r.Postfix.LogLines("to=<ann@far.test>", "relay="+host+"["+host+"]:"+port)
		if err != nil {
			t.Fatal(err)
		}
		return len(lines) >= n
	})
	if taken := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "diverted=1"); len(taken) > 0 {
		t.Errorf("mail from outside was diverted:\n%s", strings.Join(taken, "\n"))
	}
}
