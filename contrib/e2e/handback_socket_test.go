package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// stranger is nobody's number: a user in no group of Postfix's.
const stranger = 65534

// asStranger runs f with the rights of another user. Its thread has them for good, and
// ends with it: nothing else of this process does.
func asStranger(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		for _, call := range [][4]uintptr{
			{syscall.SYS_SETGROUPS, 0, 0, 0},
			{syscall.SYS_SETRESGID, stranger, stranger, stranger},
			{syscall.SYS_SETRESUID, stranger, stranger, stranger},
		} {
			if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				done <- errno
				return
			}
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// thief takes what comes, as an SMTP server does.
type thief struct {
	listener net.Listener
	took     chan string
}

// steal tries to be where mail goes back to a host that is down: at a port by listening
// there, at a socket by every way to another file of its name. It returns nil if none
// of that succeeds.
func steal(t *testing.T, relay string) *thief {
	t.Helper()
	network, address := lab.Network(relay)
	var l net.Listener
	asStranger(t, func() {
		if network == "unix" {
			dir := filepath.Dir(address)
			for what, err := range map[string]error{
				"remove":    os.Remove(address),
				"rename":    os.Rename(address, address+".old"),
				"link":      os.Symlink("/tmp/stolen", address+".new"),
				"move away": os.Rename(dir, dir+".old"),
				"chmod":     os.Chmod(dir, 0o777),
			} {
				if !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if c, err := net.Dial(network, address); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("connect: %v, %v", c, err)
			}
		}
		var err error
		if l, err = net.Listen(network, address); err != nil && network == "unix" && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("listen: %v", err)
		}
	})
	if l == nil {
		return nil
	}
	th := &thief{listener: l, took: make(chan string, 100)}
	go th.serve()
	return th
}

func (th *thief) serve() {
	for {
		c, err := th.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprint(c, "220 thief ESMTP\r\n")
			for lines := bufio.NewScanner(c); lines.Scan(); {
				reply := "250 2.0.0 Ok"
				if strings.HasPrefix(lines.Text(), "RCPT") {
					th.took <- lines.Text()
				} else if lines.Text() == "DATA" {
					reply = "354 go on"
				}
				fmt.Fprint(c, reply+"\r\n")
			}
		}()
	}
}

// later is a receiver that refuses for now, and then for good.
func later() []sink.Provider {
	return []sink.Provider{{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
		TempShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
	}}}
}

// While Postfix is down no local user takes its place, and no bounce goes to anybody.
func TestReturnedMailIsNotTakenWhileTheHostIsDown(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{providers: later(), millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["1s"]`}}})
	const n = 5
	sender := func(i int) string { return fmt.Sprintf("news+%d@lab.test", i) }
	for i := range n {
		r.send(sender(i), []string{fmt.Sprintf("a%d@strict.test", i)}, news(fmt.Sprint("taken-", i)))
	}
	r.until("all are diverted", func() bool { return r.left() == n })
	if err := r.Host.Halt(); err != nil {
		t.Fatal(err)
	}
	th := steal(t, r.Host.HandbackAddr())
	if th != nil {
		defer th.listener.Close()
		t.Errorf("a stranger listens at %s", r.Host.HandbackAddr())
	}
	if err := r.Internet.Change("strict", func(b *sink.Behaviour) { b.TempShare, b.PermShare = 0, 1 }); err != nil {
		t.Fatal(err)
	}
	agentLog := func(words ...string) int { return len(logbuf.Lines(read(t, r.Millrace.Agent.Log()), words...)) }
	r.until("all have bounced", func() bool { return agentLog("status=bounced") == n })
	r.until("the host was called", func() bool {
		return agentLog("msg=connect", "relay=localhost[") > 0 || th != nil && len(th.took) > 0
	})
	if th != nil {
		if k := len(th.took); k > 0 {
			t.Errorf("%d bounces were taken: %s", k, <-th.took)
		}
		th.listener.Close()
	}
	if err := r.Host.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.verb("flush", "--all")
	for i := range n {
		r.mailbox(sender(i), 1)
	}
	r.rest()
}

// A socket's client is localhost to Postfix, and may do what the hand-back service lets
// localhost do, whatever protocols Postfix speaks; the port of old does as well.
func TestMailComesHomeWhateverProtocolsPostfixSpeaks(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]lab.PostfixOptions{
		"ipv4":      {},
		"ipv6":      {Extra: map[string]string{"inet_protocols": "ipv6"}},
		"all":       {Extra: map[string]string{"inet_protocols": "all"}},
		"ipv6 ipv4": {Extra: map[string]string{"inet_protocols": "ipv6, ipv4"}},
		"chroot":    {Chroot: true},
		"port":      {HandbackPort: lab.AnyPort},
		"port ipv6": {HandbackPort: lab.AnyPort, Extra: map[string]string{"inet_protocols": "ipv6"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := enter(t, setup{postfix: o, providers: strictAndFar(), millrace: lab.MillraceOptions{
				Extra: "[[queue]]\nname = \"home\"\ndomains = [\"home.test\"]\nroute = \"handback\"\n",
			}})
			if said := r.verb("trace", "home.test"); !strings.Contains(said, "relay "+r.Host.HandbackAddr()) || !strings.Contains(said, "250") {
				t.Errorf("millrace trace:\n%s", said)
			}
			r.send("news@lab.test", []string{"a@strict.test"}, news("home-"+name))
			r.mailbox("news@lab.test", 1)
			r.rest()
			if th := r.Host.HandbackAddr(); strings.HasPrefix(th, "unix:") {
				r.logLine(r.Millrace.Agent, "relay=localhost["+strings.TrimPrefix(th, "unix:")+"]", "status=\"handed back\"")
			}

			// What a client may say there: relay for strangers, and XFORWARD.
			for name, value := range map[string]string{
				"mynetworks": "192.0.2.1/32", "smtpd_relay_restrictions": "reject", "smtpd_recipient_restrictions": "reject", "smtpd_authorized_xforward_hosts": "",
			} {
				if err := r.Postfix.Set(r.ctx, name, value); err != nil {
					t.Fatal(err)
				}
			}
			r.reloadPostfix()
			p := r.call(netip.Addr{}, r.Host.HandbackAddr())
			p.says("250", "EHLO client.test")
			p.says("250", "XFORWARD NAME=spike.example HELO=spike.example PROTO=ESMTP")
			p.says("250", "MAIL FROM:<>")
			p.says("250", "RCPT TO:<stranger@elsewhere.example>")
			p.quits()
		})
	}
}

// With stop_with_host sending stops with a Postfix that is reached by a socket, whose
// file stays when it has gone, and goes on with it.
func TestSendingStopsWithPostfixAtItsSocket(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{millrace: lab.MillraceOptions{Set: map[string]string{"agent.stop_with_host": "true"}}})
	stopped := func() bool { return strings.Contains(r.verb("brakes"), "the host MTA is stopped") }
	r.loaded()
	if stopped() {
		t.Error("stopped while Postfix runs")
	}
	if err := r.Host.Halt(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(strings.TrimPrefix(r.Host.HandbackAddr(), "unix:")); err != nil {
		t.Error(err) // it is the socket without a listener that is to be seen through
	}
	r.until("stopped", stopped)
	if err := r.Host.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.until("it goes on", func() bool { return !stopped() })
	// The room itself calls once at each start.
	if calls := r.hostLines(2, "handback/smtpd", "]: connect from"); len(calls) != 2 {
		t.Errorf("Postfix was called for that: %q", calls)
	}
}

// setupCommand runs "millrace setup" on the room's Postfix.
func (r *room) setupCommand(args ...string) (string, error) {
	r.t.Helper()
	programs, err := lab.Programs()
	if err != nil {
		r.t.Fatal(err)
	}
	all := append([]string{"--config", r.Millrace.Config(), "setup", "--postfix-config", r.Postfix.Config(), "--yes", "--no-test"}, args...)
	out, err := exec.CommandContext(r.ctx, filepath.Join(programs, "millrace"), all...).CombinedOutput()
	return string(out), err
}

// An agent whose user is not in the group of public/ is told so by check, by setup before
// it changes anything, in the log and on /readyz.
func TestAgentThatIsNotLetInIsTold(t *testing.T) {
	t.Parallel()
	const page = "127.84.0.1:8891"
	r := newRoom(t, t.Context())
	r.startHost(setup{})
	err := r.NewMillrace(lab.MillraceOptions{AgentUser: stranger, Set: map[string]string{"agent.http.listen": strconv.Quote(page)}})
	if err != nil {
		t.Fatal(err)
	}
	r.start(r.Millrace.Agent)
	const told = "user nobody may not connect to it"
	const remedy = "remedy: usermod -aG postdrop nobody, then restart millrace-agent"
	r.logLine(r.Millrace.Agent, "level=ERROR", "mail cannot go back to the host", told, remedy)
	ready := func() string {
		resp, err := http.Get("http://" + page + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b := bufio.NewScanner(resp.Body)
		text := ""
		for b.Scan() {
			text += b.Text() + "\n"
		}
		return text
	}
	r.until("/readyz", func() bool { return strings.Contains(ready(), told) && strings.Contains(ready(), remedy) })
	lines, code := check(r.ctx, t, r.Millrace, r.Postfix)
	if len(logbuf.Lines(strings.Join(lines, "\n"), "error: [handback] relay unix:", told, remedy)) != 1 || code != 1 {
		t.Errorf("millrace check: code %d\n%s", code, strings.Join(lines, "\n"))
	}
	before := read(t, filepath.Join(r.Postfix.Config(), "main.cf"))
	out, err := r.setupCommand()
	if err == nil || !strings.Contains(out, told) || !strings.Contains(out, "nothing was changed") || read(t, filepath.Join(r.Postfix.Config(), "main.cf")) != before {
		t.Errorf("millrace setup: %v\n%s", err, out)
	}
}
