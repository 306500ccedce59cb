package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/postfix"
)

// LocalDomain is the domain of every lab Postfix: its hostname is in it, and
// mail for any user of it is delivered into the lab's mailbox.
const LocalDomain = "lab.test"

// Hostname is the name of a lab Postfix.
const Hostname = "mail." + LocalDomain

// postfixStart is how long Postfix may take to answer on its first port.
const postfixStart = 2 * time.Minute

// PostfixOptions says how a private Postfix differs from Debian's default
// internet site. The zero value is a Postfix that delivers everything itself.
type PostfixOptions struct {
	// Milter is the value of smtpd_milters, "" for none: "inet:127.0.0.1:port",
	// "unix:/abs/path", or "{ unix:/abs/path, default_action=accept }".
	Milter string
	// NonSMTPDMilter is the value of non_smtpd_milters, for sendmail(1) mail.
	NonSMTPDMilter string
	// DNS is the address, without a port, of the name server Postfix asks.
	// Default: Resolver. It lets Postfixes of one program see different
	// internets.
	DNS string
	// SMTPPort fixes the port; 0 takes a free one.
	SMTPPort int
	// HandbackPort is the port of loopback where mail comes back, as set-ups before
	// the socket have it, AnyPort a free one; 0 is the socket.
	HandbackPort int
	// Chroot has the services run in the queue directory that Debian's master.cf
	// runs there.
	Chroot bool
	// LocalDomains are delivered locally, besides LocalDomain.
	LocalDomains []string
	// Receiver makes it a receiver, which listens there instead of on SMTPPort
	// and takes mail for its domains; nil is none.
	Receiver *ReceiverOptions
	// Own are a main.cf and a master.cf that it has instead of the lab's; nil is the lab's.
	Own *PostfixOwn
	// Extra are main.cf parameters, which win over the lab's own.
	Extra map[string]string
	// Master are lines appended to master.cf.
	Master []string
}

// PostfixOwn is a configuration that somebody else wrote. The lab puts what it needs to
// run it before the first line of main.cf: the parameters that say where an instance
// has its files.
type PostfixOwn struct {
	// Main and Master make the two files; dir is the instance's directory.
	Main, Master func(dir string) string
	// Addr is where it takes mail: "127.5.0.1:25".
	Addr string
}

// AnyPort is a free port.
const AnyPort = -1

// Postfix is a running private Postfix.
type Postfix struct {
	dir      string
	smtp     string
	handback string
	dns      string
	own      bool
	domains  []string
	ports    ports
	group    *group
	earlier  time.Duration // CPU time of masters before a Kill and Start
}

// StartPostfix makes a Postfix instance in a directory of its own and waits
// until it answers. The program must be isolated. Stop removes everything.
func StartPostfix(ctx context.Context, o PostfixOptions) (*Postfix, error) {
	if !Isolated() {
		return nil, errors.New("start postfix: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	dir, err := os.MkdirTemp("", "postfix-")
	if err != nil {
		return nil, fmt.Errorf("start postfix: %w", err)
	}
	p := &Postfix{dir: dir, dns: o.DNS, own: o.Own != nil, domains: append([]string{LocalDomain}, o.LocalDomains...)}
	if o.Receiver != nil {
		p.smtp, p.domains = o.Receiver.Addr, o.Receiver.domains()
	}
	if o.Own != nil {
		p.smtp = o.Own.Addr
	}
	loopback := "127.0.0.1"
	if o.Extra["inet_protocols"] == "ipv6" {
		loopback = "[::1]"
	}
	if p.smtp == "" {
		p.smtp, err = p.ports.on(loopback, o.SMTPPort)
	}
	p.handback = "unix:" + filepath.Join(p.Queue(), "public", postfix.Socket)
	if err == nil && o.HandbackPort != 0 {
		p.handback, err = p.ports.on(loopback, max(0, o.HandbackPort))
	}
	if err == nil {
		err = p.install(o)
	}
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		p.ports.release()
		return nil, errors.Join(fmt.Errorf("start postfix: %w", err), os.RemoveAll(dir))
	}
	return p, nil
}

// Start starts an instance again after Kill or Halt, with its queue as it was left.
func (p *Postfix) Start(ctx context.Context) error {
	master, err := daemon("master")
	if err != nil {
		return err
	}
	// -d: no detaching, no new session. The shell's exec keeps the process id.
	cmd := exec.Command(master, "-c", p.Config(), "-d")
	if p.dns != "" && p.dns != Resolver {
		resolv := filepath.Join(p.dir, "resolv.conf")
		if err := os.WriteFile(resolv, []byte("nameserver "+p.dns+"\n"), 0o644); err != nil {
			return err
		}
		cmd = exec.Command("unshare", "--mount", "sh", "-c",
			`mount --bind "$1" "$(readlink -f /etc/resolv.conf)" && shift && exec "$@"`, "sh",
			resolv, master, "-c", p.Config(), "-d")
	}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MAIL_CONFIG=" + p.Config(), "LANG=C"}
	cmd.Dir = p.dir
	stderr, err := os.Create(filepath.Join(p.dir, "log", "stderr"))
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	if p.group != nil {
		p.earlier += p.group.cpu()
	}
	if p.group, err = startGroup(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, postfixStart)
	defer cancel()
	// The hand-back port has no milter: it answers even while the milter of
	// the other port is still to be started. A configuration of its own has none yet.
	first := p.handback
	if p.own {
		first = p.smtp
	}
	if err := p.group.until(ctx, func() bool { return greets(ctx, first) }); err != nil {
		p.group.kill()
		said, _ := os.ReadFile(stderr.Name())
		log, _ := os.ReadFile(p.Log())
		return fmt.Errorf("postfix does not answer: %w\n%s%s", err, said, log)
	}
	return nil
}

// greets reports whether an SMTP server with a 220 banner answers.
func greets(ctx context.Context, addr string) bool {
	var d net.Dialer
	network, addr := Network(addr)
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(t)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	_, _ = io.WriteString(c, "QUIT\r\n")
	return err == nil && strings.HasPrefix(line, "220")
}

// Network is what net.Dial takes for an address, "host:port" or "unix:/path".
func Network(addr string) (network, address string) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return "unix", path
	}
	return "tcp", addr
}

// SMTPAddr is the port where any loopback client may relay, through the milter.
func (p *Postfix) SMTPAddr() string { return p.smtp }

// HandbackAddr is where mail comes back: the socket of contrib/postfix/master.cf, or the
// port of old.
func (p *Postfix) HandbackAddr() string { return p.handback }

// Config is the configuration directory, for postconf -c and sendmail -C.
func (p *Postfix) Config() string { return filepath.Join(p.dir, "etc") }

// Queue is the queue directory; a relative unix: milter is below it.
func (p *Postfix) Queue() string { return filepath.Join(p.dir, "spool") }

// MilterSocket is the path of RelativeSocket.
func (p *Postfix) MilterSocket() string {
	return filepath.Join(p.Queue(), strings.TrimPrefix(RelativeSocket, "unix:"))
}

// LocalDomains are those whose mail is delivered into the mailbox.
func (p *Postfix) LocalDomains() []string { return append([]string{Hostname}, p.domains...) }

// Log is the path of Postfix's log.
func (p *Postfix) Log() string { return filepath.Join(p.dir, "log", "mail.log") }

// CPU is the CPU time of all Postfix processes since StartPostfix, alive and
// dead; programs run by Sendmail, Flush and the like are not among them.
func (p *Postfix) CPU() time.Duration { return p.earlier + p.group.cpu() }

// Reload makes Postfix read main.cf and master.cf again.
func (p *Postfix) Reload(ctx context.Context) error {
	return p.command(ctx, nil, "postfix", "-c", p.Config(), "reload")
}

// Set changes a main.cf parameter; Reload gives effect to them.
func (p *Postfix) Set(ctx context.Context, param, value string) error {
	if err := p.command(ctx, nil, "postconf", "-c", p.Config(), "-e", param+"="+value); err != nil {
		return err
	}
	return p.age("main.cf")
}

// Kill is the crash: SIGKILL to every process at once. The queue stays, Start
// starts the instance again.
func (p *Postfix) Kill() { p.group.kill() }

// Halt is the orderly stop; Start starts the instance again.
func (p *Postfix) Halt() error { return p.group.terminate() }

// Stop ends every process and removes every file of the instance. Mail still
// in its queue is gone.
func (p *Postfix) Stop() error {
	p.group.kill() // nothing is worth the two seconds postlogd takes to end
	p.ports.release()
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("stop postfix: %w", err)
	}
	return nil
}

// command runs one of Postfix's programs to its end.
func (p *Postfix) command(ctx context.Context, stdin io.Reader, name string, args ...string) error {
	_, err := p.output(ctx, stdin, name, args...)
	return err
}

func (p *Postfix) output(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join("/usr/sbin", name), args...)
	cmd.Stdin = stdin
	return outputOf(cmd)
}

// daemon is the path of one of Postfix's internal programs.
func daemon(name string) (string, error) {
	for _, dir := range []string{"/usr/lib/postfix/sbin", "/usr/libexec/postfix"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no postfix %s on this machine: install the package postfix (make deps)", name)
}
