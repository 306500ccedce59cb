package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// ReceiverOptions says where a real MTA receives mail, and for whom.
type ReceiverOptions struct {
	// Addr is where it listens: "127.0.0.9:25". Default: a free loopback port.
	Addr string
	// Domains are those that it takes mail for. Default: LocalDomain.
	Domains []string
}

func (o *ReceiverOptions) domains() []string {
	if len(o.Domains) == 0 {
		return []string{LocalDomain}
	}
	return slices.Clone(o.Domains)
}

// Receiver is a real MTA at the far end.
type Receiver interface {
	SMTPAddr() string
	// Mailbox returns what it has delivered for one address, oldest first.
	Mailbox(addr string) ([]Message, error)
	Log() string
	Stop() error
}

var (
	_ Receiver = (*Postfix)(nil)
	_ Receiver = (*Sendmail)(nil)
)

// Where a tree has its certificate for STARTTLS.
const (
	certFile = "/etc/ssl/lab-cert.pem"
	keyFile  = "/etc/ssl/lab-key.pem"
)

// certificate makes a certificate that nobody else signed. Its key is readable
// to one user.
func (t *tree) certificate(uid int) error {
	pair, err := selfsigned.New(Hostname)
	if err != nil {
		return err
	}
	return errors.Join(
		t.write(certFile, string(pair.Cert)), t.write(keyFile, string(pair.Key)),
		os.Chown(t.path(keyFile), uid, 0), os.Chmod(t.path(keyFile), 0o600),
	)
}

// far is an MTA that runs in a tree.
type far struct {
	tree  *tree
	smtp  string
	said  string   // the file of what it writes to its standard output and error
	log   string   // the same, or the file of its log
	args  []string // how it is run in the foreground
	ports ports
	group *group
}

// startFar starts an MTA of an unpacked package, which listens at addr or, for "", at a free
// port, and asks the name server dns; install writes its configuration and says how it is run
// in the foreground.
func startFar(ctx context.Context, name, addr, dns string, install func(*far) ([]string, error)) (*far, error) {
	t, err := newTree(name, dns)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	f := &far{tree: t, smtp: addr, said: filepath.Join(t.dir, "memory", "log")}
	f.log = f.said
	if f.smtp == "" {
		f.smtp, err = f.ports.free()
	}
	if err == nil {
		err = t.mailbox()
	}
	if err == nil {
		f.args, err = install(f)
	}
	if err == nil {
		err = f.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), f.Stop())
	}
	return f, nil
}

// Start runs it, and waits until it answers.
func (f *far) Start(ctx context.Context) error {
	said, err := os.OpenFile(f.said, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := f.tree.command(f.args[0], f.args[1:]...)
	cmd.Stdout, cmd.Stderr = said, said
	if f.group, err = startGroup(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, receiverStart)
	defer cancel()
	if err := f.group.until(ctx, func() bool { return greets(ctx, f.smtp) }); err != nil {
		b, _ := os.ReadFile(said.Name())
		return fmt.Errorf("it does not answer: %w\n%s", err, b)
	}
	return nil
}

// receiverStart is how long a receiver may take to answer.
const receiverStart = 2 * time.Minute

func (f *far) SMTPAddr() string { return f.smtp }

func (f *far) Log() string { return f.log }

func (f *far) Mailbox(addr string) ([]Message, error) {
	return readMailbox(f.tree.path(boxDir), addr)
}

func (f *far) Stop() error {
	if f.group != nil {
		f.group.kill()
	}
	f.ports.release()
	return f.tree.remove()
}
