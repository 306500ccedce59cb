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

// far is a receiver that runs in a tree.
type far struct {
	tree  *tree
	smtp  string
	log   string
	ports ports
	group *group
}

// startFar starts a receiver of an unpacked package; install writes its
// configuration and says how it is run in the foreground.
func startFar(ctx context.Context, name string, o ReceiverOptions, install func(*far, ReceiverOptions) ([]string, error)) (Receiver, error) {
	t, err := newTree(name, "")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	f := &far{tree: t, smtp: o.Addr, log: filepath.Join(t.dir, "memory", "log")}
	if err := f.start(ctx, o, install); err != nil {
		log, _ := os.ReadFile(f.log)
		return nil, errors.Join(fmt.Errorf("start %s: %w\n%s", name, err, log), f.Stop())
	}
	return f, nil
}

func (f *far) start(ctx context.Context, o ReceiverOptions, install func(*far, ReceiverOptions) ([]string, error)) error {
	var err error
	if f.smtp == "" {
		if f.smtp, err = f.ports.free(); err != nil {
			return err
		}
	}
	said, err := os.Create(f.log)
	if err != nil {
		return err
	}
	defer said.Close()
	if err := f.tree.mailbox(); err != nil {
		return err
	}
	args, err := install(f, o)
	if err != nil {
		return err
	}
	cmd := f.tree.command(args[0], args[1:]...)
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
