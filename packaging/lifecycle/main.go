// Lifecycle is the life of the package on a host that already sends mail, from
// installation to purge, with the books kept:
//
//	lifecycle FIRST.deb NEXT.deb
//
// It runs as root on a Debian of its own with systemd and Postfix, where nothing
// leaves the loopback interface; packaging/try makes one. In this order: install; set up, to
// observe; divert; orders of an admin, with mail that they keep; a blast to slow and
// limited receivers, in the middle of which the package is upgraded; what was ordered is
// in force still; programs hand mail in at the inlet; the host becomes a node of a fleet, in
// which mail is moved, and the hand-back works; an attempt to remove it with mail in the queue,
// which must fail; retreat; purge. In the end every message has arrived once, the configuration of
// Postfix is what it was, and of Millrace nothing is left but what the admin made.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // five suffice at a load of 35 on two cores, eight did not always
	defer cancel()
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: lifecycle FIRST.deb NEXT.deb")
		os.Exit(64)
	}
	l := &life{first: os.Args[1], next: os.Args[2], sent: &ledger.Ledger{}}
	if err := l.live(ctx); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("PASSED")
}

type life struct {
	first, next string
	internet    *sink.Internet
	sent        *ledger.Ledger

	mu       sync.Mutex
	numbered int // messages made so far
}

// own is what the admin of this host wrote: the fake internet is on loopback.
const (
	ownFile = "/etc/millrace/conf.d/own.toml"
	own     = `[agent]
allow_destinations = ["127.0.0.0/8"]
resolvers = ["127.0.0.1:53"]
[spool]
min_free = "1MiB"
[general]
retry = ["2s"]
[suppression]
mode = "drop"
notify = false
[[queue]]
name = "mine"
domains = ["slow.test"]
max_sessions = 15
[[queue]]
name = "provider"
mx = ["*.provider.test"]
[[milter.rule]]
name = "receipts"
action = "leave"
sender = ["receipts@*"]
`
)

// slow is a receiver with few connections; gone answers nobody for now, so that its
// mail is still queued when Millrace has to leave.
var providers = []sink.Provider{
	{Name: "slow", Domains: []string{"slow.test"}, Hosts: 2, HostName: "mx%d.slow.test",
		Behaviour: sink.Behaviour{RTT: 30 * time.Millisecond, HostConnections: 10}},
	{Name: "quick", Domains: []string{"quick.test"}, Hosts: 1, HostName: "mx%d.quick.test"},
	{Name: "paused", Domains: []string{"domain.test", "timed.test", "short.test"}, Hosts: 1, HostName: "mx%d.paused.test"},
	{Name: "hosts", Domains: []string{"hosts.test"}, Hosts: 2, HostName: "mx%d.hosts.test"},
	{Name: "fleet", Domains: []string{"fleet.test"}, Hosts: 1, HostName: "mx%d.fleet.test"},
	{Name: "provider", Domains: []string{"provider.test"}, Hosts: 1, HostName: "mx%d.provider.test"},
	{Name: "gone", Domains: []string{"gone.test"}, Hosts: 1, HostName: "mx%d.gone.test", Behaviour: sink.Behaviour{Down: true}},
}

func (l *life) live(ctx context.Context) error {
	if err := l.host(ctx); err != nil {
		return err
	}
	internet, err := sink.New(sink.Options{Port: 25, DNS: "127.0.0.1:53"})
	if err != nil {
		return err
	}
	defer internet.Close()
	l.internet = internet
	for _, p := range providers {
		if err := internet.Add(p); err != nil {
			return err
		}
	}
	before, err := look(ctx)
	if err != nil {
		return err
	}

	step("install")
	if err := run(ctx, "apt-get", "install", "--yes", l.first); err != nil {
		return err
	}
	if err := os.WriteFile(ownFile, []byte(own), 0o644); err != nil {
		return err
	}
	if err := run(ctx, "systemctl", "restart", "millrace-milter", "millrace-agent"); err != nil {
		return err
	}
	step("set up, to observe")
	if err := run(ctx, "millrace", "setup", "--yes"); err != nil {
		return err
	}
	if err := l.send(ctx, 100, nil); err != nil {
		return err
	}
	if err := run(ctx, "millrace", "check"); err != nil {
		return err
	}
	if n, err := spooled(); err != nil || n > 0 {
		return errors.Join(fmt.Errorf("%d messages were diverted in mode observe", n), err)
	}
	step("divert")
	if err := run(ctx, "millrace", "setup", "--divert", "--yes"); err != nil {
		return err
	}
	step("orders, and mail that they keep")
	orders, err := l.order(ctx)
	if err != nil {
		return err
	}
	pids, err := daemons(ctx)
	if err != nil {
		return err
	}
	step("blast, with an upgrade in its middle")
	if err := l.send(ctx, 4000, func() error { return l.upgrade(ctx) }); err != nil {
		return err
	}
	step("both daemons are the new ones, and all orders stand")
	if err := renewed(ctx, pids); err != nil {
		return err
	}
	if err := run(ctx, "millrace", "check"); err != nil {
		return err
	}
	if err := orders.stand(ctx, l); err != nil {
		return err
	}
	step("the inlet, and removal with its clients: must fail")
	if err := l.inlet(ctx); err != nil {
		return err
	}
	step("a node of a fleet, and another one")
	nodes, err := l.join(ctx)
	if err != nil {
		return err
	}
	defer nodes.stop()
	step("hand back, and lift the orders, as a node of the fleet")
	if err := orders.lift(ctx, l); err != nil {
		return err
	}
	step("leave the fleet")
	if err := nodes.leave(ctx); err != nil {
		return err
	}
	if n, err := spooled(); err != nil || n == 0 {
		return errors.Join(errors.New("nothing was diverted"), err)
	}
	step("the daily report, by its timer's service")
	if err := daily(ctx); err != nil {
		return err
	}
	step("remove it with mail in the queue: must fail")
	out, err := exec.CommandContext(ctx, "apt-get", "remove", "--yes", "millrace").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("millrace retreat")) {
		return fmt.Errorf("removal with mail in the queue: %v\n%s", err, out)
	}
	if err := run(ctx, "systemctl", "is-active", "millrace-milter.socket", "millrace-milter", "millrace-agent"); err != nil {
		return fmt.Errorf("after the failed removal: %w", err)
	}
	step("retreat")
	if err := run(ctx, "millrace", "retreat", "--yes"); err != nil {
		return err
	}
	if err := run(ctx, "millrace", "retreat", "--check"); err != nil {
		return err
	}
	step("purge")
	if err := run(ctx, "apt-get", "purge", "--yes", "millrace"); err != nil {
		return err
	}
	if out, _ := exec.CommandContext(ctx, "systemctl", "is-active", reportTimer).Output(); string(out) != "inactive\n" {
		return fmt.Errorf("after the purge %s is %s", reportTimer, out)
	}
	after, err := look(ctx)
	if err != nil {
		return err
	}
	if err := before.same(after); err != nil {
		return err
	}
	step("the receiver that was gone comes back, and Postfix delivers the rest")
	if err := internet.Change("gone", func(b *sink.Behaviour) { b.Down = false }); err != nil {
		return err
	}
	return l.settle(ctx)
}

// upgrade installs the next package, after a pause whose time is over later. The
// configuration was changed by "millrace setup", and dpkg must not ask about it: there
// is nobody to answer. NEXT may be FIRST again, as in the package's autopkgtest.
func (l *life) upgrade(ctx context.Context) error {
	short := stopped{pause: []string{"--domain", "short.test"}, to: "short.test"}
	if err := run(ctx, "millrace", append([]string{"pause", "--for", "1m"}, short.pause...)...); err != nil {
		return err
	}
	if err := l.post(ctx, &short, 1); err != nil {
		return err
	}
	return run(ctx, "apt-get", "install", "--yes", "--reinstall", l.next)
}

const reportTimer = "millrace-report.timer"

// daily turns the daily report on, which no package does, and has it sent.
func daily(ctx context.Context) error {
	if out, _ := exec.CommandContext(ctx, "systemctl", "is-enabled", reportTimer).Output(); string(out) != "disabled\n" {
		return fmt.Errorf("%s is %s", reportTimer, out)
	}
	for _, args := range [][]string{{"enable", "--now", reportTimer}, {"start", "millrace-report.service"}} {
		if err := run(ctx, "systemctl", args...); err != nil {
			return errors.Join(err, run(ctx, "journalctl", "--no-pager", "-u", "millrace-report"))
		}
	}
	for {
		box, err := os.ReadFile("/var/mail/root")
		if bytes.Contains(box, []byte("\nSubject: Millrace on mail.host.test, ")) && bytes.Contains(box, []byte("\nAuto-Submitted: auto-generated\n")) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the daily report did not come: %w (%v): %s", ctx.Err(), err, box)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// host makes a Postfix that sends to our internet.
func (l *life) host(ctx context.Context) error {
	// Before Postfix starts, which copies it into its chroot.
	if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	// Receivers have the other addresses of loopback.
	for _, args := range [][]string{
		{"postconf", "-e", "inet_interfaces=127.0.0.1", "myhostname=mail.host.test", "maximal_backoff_time=5s",
			"minimal_backoff_time=5s", "queue_run_delay=5s", "smtp_host_lookup=dns",
			"smtpd_authorized_xclient_hosts=127.0.0.1"},
		{"systemctl", "restart", "postfix"},
	} {
		if err := run(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// send has Postfix take n messages, newsletters and a tenth of other mail, and does
// something in the middle of it.
func (l *life) send(ctx context.Context, n int, middle func() error) error {
	l.mu.Lock()
	first := l.numbered
	l.numbered += n
	l.mu.Unlock()
	in := &inject.Injector{Addr: "127.0.0.1:25", Connections: 10, PerConnection: 50, Rate: 400, Ledger: l.sent}
	reached := make(chan error, 1)
	go func() {
		if middle == nil {
			reached <- nil
			return
		}
		for l.sent.Messages() < first+n/3 && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
		}
		reached <- middle()
	}()
	res, err := in.Run(ctx, n, func(i int) *inject.Message { return message(first + i) })
	if err := errors.Join(err, <-reached); err != nil {
		return err
	}
	if res.Messages != n {
		return fmt.Errorf("only %d of %d messages were taken by Postfix: %w", res.Messages, n, res.Err)
	}
	return nil
}

// number is that of the next message.
func (l *life) number() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbered++
	return l.numbered - 1
}

func message(i int) *inject.Message {
	domain := [...]string{"slow.test", "slow.test", "quick.test", "gone.test"}[i%4]
	list := "news.shop.test"
	if i%10 == 7 {
		list = ""
	}
	return letter(i, fmt.Sprintf("user%d@%s", i, domain), list)
}

// letter is a message of a list; of none, it is not bulk.
func letter(i int, to, list string) *inject.Message {
	if list != "" {
		list = "List-Id: <" + list + ">\r\nList-Unsubscribe: <https://shop.test/u>\r\n"
	}
	return &inject.Message{Sender: "news@shop.test", Recipients: []string{to}, Content: fmt.Appendf(nil,
		"%s: life-%d\r\nFrom: <news@shop.test>\r\nTo: <%s>\r\nSubject: Offers\r\nDate: %s\r\nMessage-ID: <%d@shop.test>\r\n%s\r\n%s\r\n",
		ledger.IDHeader, i, to, time.Now().Format(time.RFC1123Z), i, list, strings.Repeat("An offer, and another one.\r\n", 100))}
}

// settle waits until all has arrived, and compares the books.
func (l *life) settle(ctx context.Context) error {
	for l.internet.Ledger().Messages() < l.sent.Messages() && ctx.Err() == nil {
		if err := run(ctx, "postqueue", "-f"); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
	}
	report := ledger.Compare(l.sent, l.internet.Ledger())
	fmt.Println(report)
	if !report.Clean() {
		return errors.New("the books do not agree")
	}
	return nil
}

// spooled counts the messages that Millrace has taken and not delivered.
func spooled() (int, error) {
	out, err := exec.Command("millrace", "queue", "--json").Output()
	return bytes.Count(out, []byte("\n")), err
}

// host is what a host has of Postfix's configuration, and its files.
type host struct {
	main, master string
	files        []string
}

// look leaves out what a running system and its package manager write by themselves.
func look(ctx context.Context) (h host, err error) {
	for _, q := range []struct {
		into *string
		args []string
	}{{&h.main, []string{"-n"}}, {&h.master, []string{"-M", "-f"}}} {
		out, err := exec.CommandContext(ctx, "postconf", q.args...).Output()
		if err != nil {
			return h, err
		}
		*q.into = string(out)
	}
	for _, dir := range []string{"/etc", "/usr", "/var/spool", "/var/lib"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case slices.Contains([]string{"/var/lib/dpkg", "/var/lib/apt", "/var/lib/systemd", "/var/lib/postfix", "/etc/millrace"}, path):
				return filepath.SkipDir
			case strings.HasPrefix(path, "/var/spool/postfix/") && strings.Count(path, "/") > 4: // queue files
				return nil
			case strings.HasSuffix(path, "-"): // backups of passwd and the like
				return nil
			}
			h.files = append(h.files, path)
			return nil
		})
		if err != nil {
			return h, err
		}
	}
	return h, nil
}

// same says how two looks differ.
func (h host) same(after host) error {
	var err error
	if h.main != after.main {
		err = errors.Join(err, fmt.Errorf("postconf -n was:\n%s\nand is:\n%s", h.main, after.main))
	}
	if h.master != after.master {
		err = errors.Join(err, fmt.Errorf("postconf -Mf was:\n%s\nand is:\n%s", h.master, after.master))
	}
	for _, f := range after.files {
		if !slices.Contains(h.files, f) {
			err = errors.Join(err, fmt.Errorf("%s is left", f))
		}
	}
	for _, f := range h.files {
		if !slices.Contains(after.files, f) {
			err = errors.Join(err, fmt.Errorf("%s is gone", f))
		}
	}
	left, globErr := filepath.Glob("/etc/millrace/*")
	more, _ := filepath.Glob("/etc/millrace/conf.d/*")
	if got := append(left, more...); globErr != nil || !slices.Equal(got, []string{"/etc/millrace/conf.d", ownFile}) {
		err = errors.Join(err, fmt.Errorf("in /etc/millrace is %v; it should be what the admin made: %s", got, ownFile))
	}
	passwd, readErr := os.ReadFile("/etc/passwd")
	if readErr != nil || bytes.Contains(passwd, []byte("millrace")) {
		err = errors.Join(err, readErr, errors.New("the user millrace is left"))
	}
	return err
}

func step(what string) { fmt.Println("==>", what) }

// run runs a program and shows what it says.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		fmt.Print("    ", strings.TrimRight(line, "\n"), "\n")
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
