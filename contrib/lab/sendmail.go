package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/sendmail"
)

// sendmailStart is how long Sendmail may take to answer on its ports.
const sendmailStart = 2 * time.Minute

// Users of Debian's packages; only the tree knows their numbers.
const (
	smmta = 64101
	smmsp = 64102
)

// sendmailProgram is what Debian's /usr/sbin/sendmail is a link to.
const sendmailProgram = "/usr/libexec/sendmail/sendmail"

// SendmailOptions says how a private Sendmail differs from Debian's default.
// The zero value is one that delivers everything itself, without a filter.
type SendmailOptions struct {
	// Millrace adds contrib/sendmail/millrace.mc: our filter, and the hand-back
	// port.
	Millrace bool
	// DNS is the address, without a port, of the name server. Default: Resolver.
	DNS string
	// Lines are m4 lines for sendmail.mc, before ours.
	Lines string
	// Files are files below /etc/mail, such as "aliases" and "mailertable";
	// those that a map needs as a database are made into one.
	Files map[string]string
	// Receiver makes it a receiver; nil is none.
	Receiver *ReceiverOptions
}

// Sendmail is a running private Sendmail. It has its own mail(1) mailbox: all
// users of its local domains are there.
type Sendmail struct {
	tree     *tree
	smtp     string
	handback string // "" without Millrace
	domains  []string
	ports    ports
	group    *group
}

// StartSendmail makes a Sendmail of Debian's packages in a tree of its own and
// waits until it answers. The program must be isolated. Stop removes everything.
func StartSendmail(ctx context.Context, o SendmailOptions) (*Sendmail, error) {
	t, err := newTree("sendmail", o.DNS)
	if err != nil {
		return nil, fmt.Errorf("start sendmail: %w", err)
	}
	s := &Sendmail{tree: t, domains: []string{LocalDomain, Hostname}}
	if o.Receiver != nil {
		s.smtp, s.domains = o.Receiver.Addr, append(o.Receiver.domains(), Hostname)
	}
	if s.smtp == "" {
		s.smtp, err = s.ports.free()
	}
	if err == nil && o.Millrace {
		s.handback, err = s.ports.free()
	}
	if err == nil {
		err = s.install(o)
	}
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		s.ports.release()
		return nil, errors.Join(fmt.Errorf("start sendmail: %w", err), t.remove())
	}
	return s, nil
}

// Start starts it again after Kill or Halt, with its queue as it was left.
func (s *Sendmail) Start(ctx context.Context) error {
	// -bD: a daemon that does not leave its process group; -q2s: what is
	// deferred is tried every two seconds.
	cmd := s.tree.command(sendmailProgram, "-bD", "-q2s")
	stderr, err := os.Create(filepath.Join(s.tree.dir, "memory", "stderr"))
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if s.group, err = startGroup(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendmailStart)
	defer cancel()
	err = s.group.until(ctx, func() bool {
		return (s.handback == "" || greets(ctx, s.handback)) && (s.handback != "" || greets(ctx, s.smtp))
	})
	if err != nil {
		s.Kill()
		said, _ := os.ReadFile(stderr.Name())
		log, _ := os.ReadFile(s.Log())
		return fmt.Errorf("sendmail does not answer: %w\n%s%s", err, said, log)
	}
	return nil
}

// SMTPAddr is the port where any loopback client may relay, through the milter.
func (s *Sendmail) SMTPAddr() string { return s.smtp }

// HandbackAddr is the hand-back port of contrib/sendmail/millrace.mc.
func (s *Sendmail) HandbackAddr() string { return s.handback }

// MilterSocket is the path of the socket that contrib/sendmail/millrace.mc
// names, as it is found from outside the tree.
func (s *Sendmail) MilterSocket() string { return s.tree.path("/run/millrace/milter.sock") }

// LocalDomains are those whose mail is delivered into the mailbox.
func (s *Sendmail) LocalDomains() []string { return s.domains }

// Log is the path of what Sendmail tells syslog.
func (s *Sendmail) Log() string { return filepath.Join(s.tree.dir, "memory", "mail.log") }

// Kill is the crash: SIGKILL to every process. The queue stays, Start starts
// it again.
func (s *Sendmail) Kill() {
	if s.group != nil {
		s.group.kill()
	}
	s.tree.kill() // deliveries under way are in sessions of their own
}

// Halt is the orderly stop; Start starts it again.
func (s *Sendmail) Halt() error {
	err := s.group.terminate()
	s.tree.kill()
	return err
}

// Stop ends every process and removes every file. Mail still in the queue is
// gone.
func (s *Sendmail) Stop() error {
	s.Kill()
	s.ports.release()
	return s.tree.remove()
}

// QueueLength is the number of messages in the queues of daemon and submission.
func (s *Sendmail) QueueLength(context.Context) (int, error) {
	n := 0
	for _, dir := range []string{"/var/spool/mqueue", "/var/spool/mqueue-client"} {
		entries, err := os.ReadDir(s.tree.path(dir))
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "qf") {
				n++
			}
		}
	}
	return n, nil
}

// Flush tries what is deferred now.
func (s *Sendmail) Flush(context.Context) error {
	_, err := s.tree.output(sendmailProgram, "-q")
	return err
}

// Sendmail hands a message to sendmail(8) for submission, as a program on the
// host would: it sends it on to the daemon by SMTP.
func (s *Sendmail) Sendmail(_ context.Context, from string, rcpts []string, msg []byte) error {
	args := append([]string{"-Ac", "-i", "-f", from, "--"}, rcpts...)
	cmd := s.tree.command(sendmailProgram, args...)
	cmd.Stdin = bytes.NewReader(msg)
	_, err := outputOf(cmd)
	return err
}

// Mailbox returns the local copies for one address, oldest first. All have the
// first of the local domains: Sendmail tells its mailer only the user.
func (s *Sendmail) Mailbox(addr string) ([]Message, error) {
	all, err := readMailbox(s.tree.path(boxDir), addr)
	for i := range all {
		if all[i].From == "MAILER-DAEMON" { // the null sender, as it shows it to users
			all[i].From = ""
		}
	}
	return all, err
}

// noLoad has mail taken and delivered at once, however busy the machine is.
const noLoad = "define(`confQUEUE_LA', `1000')dnl\ndefine(`confREFUSE_LA', `1000')dnl\ndefine(`confDELAY_LA', `1000')dnl\n"

// boxDir is the mailbox in a tree: a Maildir.
const boxDir = "/var/mail/box"

// deliverScript is the local mailer, in the place of Debian's: it is given
// sender, user, host and client, and the message on standard input.
const deliverScript = `#!/bin/sh
set -eu
umask 022
file=$(mktemp ` + boxDir + `/tmp/XXXXXXXXXX)
{ printf 'Delivered-To: %s@DOMAIN\n' "$2"; cat; } >"$file"
chmod 644 "$file"
mv "$file" "` + boxDir + `/new/$(date +%s.%N).$$"
`

// install does what installing the packages does, with the lab's configuration.
func (s *Sendmail) install(o SendmailOptions) error {
	t := s.tree
	listen, port, err := net.SplitHostPort(s.smtp)
	if err != nil {
		return err
	}
	tls := ""
	if o.Receiver != nil {
		if err := t.certificate(0); err != nil {
			return err
		}
		// Its domains may be in no DNS.
		tls = "FEATURE(`nocanonify')dnl\ndefine(`confCACERT_PATH', `/etc/ssl')dnl\ndefine(`confCACERT', `" + certFile + "')dnl\ndefine(`confSERVER_CERT', `" + certFile + "')dnl\ndefine(`confSERVER_KEY', `" + keyFile + "')dnl\n"
	}
	ours := ""
	if o.Millrace {
		const shipped = "Port=10626,"
		if strings.Count(sendmail.MC, shipped) != 1 {
			return fmt.Errorf("contrib/sendmail/millrace.mc has no %s once", shipped)
		}
		_, handback, err := net.SplitHostPort(s.handback)
		if err != nil {
			return err
		}
		ours = strings.Replace(sendmail.MC, shipped, "Port="+handback+",", 1)
	}
	mc := "define(`_USE_ETC_MAIL_')dnl\n" +
		"include(`/usr/share/sendmail/cf/m4/cf.m4')dnl\nOSTYPE(`debian')dnl\nDOMAIN(`debian-mta')dnl\n" +
		"FEATURE(`no_default_msa')dnl\nFEATURE(`use_cw_file')dnl\n" +
		"define(`confDOMAIN_NAME', `" + Hostname + "')dnl\n" +
		// Anybody may have an address here, not only users of the machine.
		"MODIFY_MAILER_FLAGS(`LOCAL', `-w')dnl\n" +
		"FEATURE(`accept_unresolvable_domains')dnl\n" +
		noLoad +
		"DAEMON_OPTIONS(`Name=MTA-v4, Family=inet, Addr=" + listen + ", Port=" + port + "')dnl\n" +
		tls + o.Lines + ours +
		"MAILER_DEFINITIONS\nMAILER(`local')dnl\nMAILER(`smtp')dnl\n"
	submit := "define(`_USE_ETC_MAIL_')dnl\n" +
		"include(`/usr/share/sendmail/cf/m4/cf.m4')dnl\nOSTYPE(`debian')dnl\nDOMAIN(`debian-msp')dnl\n" +
		"define(`confDOMAIN_NAME', `" + Hostname + "')dnl\n" + noLoad +
		"define(`RELAY_MAILER_ARGS', `TCP $h " + port + "')dnl\nFEATURE(`msp', `[" + listen + "]')dnl\n"
	err = errors.Join(
		t.user("smmta", smmta), t.user("smmsp", smmsp),
		t.directory("/etc/mail", 0, 0, 0o755),
		t.directory("/var/lib/sendmail", smmta, smmsp, 0o755),
		t.directory("/var/spool/mqueue", smmta, smmsp, 0o750),
		t.directory("/var/spool/mqueue-client", smmsp, smmsp, 0o770),
		t.directory("/run/sendmail/mta", smmta, smmsp, 0o755),
		t.directory("/run/sendmail/msp", smmsp, smmsp, 0o755),
		t.directory("/run/millrace", nobody, nobody, 0o750), // as README has it for user millrace
		t.mailbox(),
		t.write("/usr/sbin/sensible-mda", strings.Replace(deliverScript, "DOMAIN", s.domains[0], 1)),
		os.Chmod(t.path("/usr/sbin/sensible-mda"), 0o755),
		t.write("/etc/mail/local-host-names", strings.Join(s.domains, "\n")+"\n"),
		t.write("/etc/mail/aliases", "postmaster: root\n"),
		t.write("/etc/mail/sendmail.mc", mc),
		t.write("/etc/mail/submit.mc", submit),
		os.Chown(t.path(sendmailProgram), 0, smmsp),
		os.Chmod(t.path(sendmailProgram), 0o755|os.ModeSetgid),
		t.logTo(s.Log()),
	)
	if err != nil {
		return err
	}
	for _, name := range []string{"sendmail", "submit"} {
		cf, err := t.output("/usr/bin/m4", "/etc/mail/"+name+".mc")
		if err != nil {
			return err
		}
		if err := t.write("/etc/mail/"+name+".cf", string(cf)); err != nil {
			return err
		}
	}
	for name, content := range o.Files {
		if err := t.write(filepath.Join("/etc/mail", name), content); err != nil {
			return err
		}
		switch name {
		case "mailertable", "access", "virtusertable", "genericstable":
			cmd := t.command("/usr/libexec/sendmail/makemap", "hash", "/etc/mail/"+name)
			cmd.Stdin = strings.NewReader(content)
			if _, err := outputOf(cmd); err != nil {
				return err
			}
		}
	}
	_, err = t.output(sendmailProgram, "-bi") // newaliases
	return err
}

// mailbox makes the Maildir of a tree.
func (t *tree) mailbox() error {
	var errs []error
	for _, d := range []string{"", "new", "tmp", "cur"} {
		errs = append(errs, t.directory(filepath.Join(boxDir, d), nobody, nobody, 0o777))
	}
	return errors.Join(errs...)
}

// readMailbox returns the copies for one address from a Maildir, oldest first.
func readMailbox(dir, addr string) ([]Message, error) {
	dir = filepath.Join(dir, "new")
	files, err := os.ReadDir(dir) // in name order: Maildir names begin with the time
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mailbox: %w", err)
	}
	var found []Message
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("mailbox: %w", err)
		}
		if m := parseLocal(b); strings.EqualFold(m.To, addr) {
			found = append(found, m)
		}
	}
	return found, nil
}
