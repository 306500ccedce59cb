package postconf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
)

const (
	// settles is how long Postfix may take until it answers by what it was told to read.
	settles = 20 * time.Second
	// lookEvery is how often it is looked at meanwhile.
	lookEvery = 100 * time.Millisecond
	// goodLooks are enough: two seconds, longer than a busy master(8) takes to read its
	// files, and more on a host where each look takes long, too.
	goodLooks = 20
	// greeting is how long a port may take to greet.
	greeting = 5 * time.Second
)

// look reports whether Postfix does with new files what was meant: it runs; after a
// set-up the hand-back service greets, and postconf says nothing that contradicts the
// configuration and was not foreseen. A master(8) that cannot have a port ends itself a
// moment after the reload, and a service that was there before may still answer until
// then, so one good answer is not enough.
func (p *Plan) look(ctx context.Context, c *config.Config) error {
	silent := !p.Restored && p.After.takesBack(c.Handback.Relay)
	err := lives(ctx,
		func(ctx context.Context) error { return postfix(ctx, p.Dir, "status") },
		func(ctx context.Context) bool { return !silent || greets(ctx, c.Handback.Relay) == nil })
	switch {
	case errors.Is(err, errStopped):
		return fmt.Errorf("postfix stopped when it was told to read its new configuration%s", hint(c))
	case errors.Is(err, errSilent):
		return fmt.Errorf("no answer from Postfix at [handback] relay %s after it was told to read its new configuration%s", c.Handback.Relay, hint(c))
	case err != nil:
		return err
	}
	if p.Restored {
		return nil
	}
	now, err := Read(ctx, p.Dir)
	if err != nil {
		return err
	}
	foreseen := contradictions(p.After, c)
	for _, text := range contradictions(now, c) {
		if !slices.Contains(foreseen, text) {
			return errors.New(text)
		}
	}
	return nil
}

var errStopped, errSilent = errors.New("stopped"), errors.New("no answer")

// lives waits until Postfix runs at goodLooks looks, of which the first has an answer. Only
// the answer has a limit: looks may take as long as a busy host has them take.
func lives(ctx context.Context, running func(context.Context) error, answers func(context.Context) bool) error {
	late := time.After(settles)
	answered := false
	for good := 0; good < goodLooks; {
		if err := running(ctx); err != nil && ctx.Err() == nil {
			return errStopped
		}
		if answered = answered || answers(ctx); answered {
			good++
			late = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return errSilent
		case <-time.After(lookEvery):
		}
	}
	return nil
}

func contradictions(p *Postfix, c *config.Config) (all []string) {
	for _, f := range p.Check(c) {
		if f.Severity == Contradiction {
			all = append(all, f.String())
		}
	}
	return all
}

// greets asks for the greeting of [handback] relay.
func greets(ctx context.Context, relay string) error {
	ctx, cancel := context.WithTimeout(ctx, greeting)
	defer cancel()
	network, address := "tcp", relay
	if path, ok := strings.CutPrefix(relay, "unix:"); ok {
		network, address = "unix", path
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(t)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 1024)).ReadString('\n')
	_, _ = io.WriteString(conn, "QUIT\r\n")
	if err == nil && !strings.HasPrefix(line, "220") {
		err = fmt.Errorf("it says %q", strings.TrimSpace(line))
	}
	return err
}

// enforcing is where SELinux says that it refuses what its policy does not have.
const enforcing = "/sys/fs/selinux/enforce"

// hint names the labels that SELinux wants, where it rules: master(8) may bind only
// ports of mail there, and smtpd(8) may connect only to sockets of its own.
func hint(c *config.Config) string {
	text, err := os.ReadFile(enforcing)
	if err != nil || strings.TrimSpace(string(text)) != "1" {
		return ""
	}
	return labels(c)
}

func labels(c *config.Config) string {
	var all []string
	if _, port, err := net.SplitHostPort(c.Handback.Relay); err == nil && !strings.HasPrefix(c.Handback.Relay, "unix:") {
		all = append(all, "semanage port -a -t smtp_port_t -p tcp "+port)
	}
	for _, l := range c.Milter.Listen {
		if network, at, err := config.ParseListen(l); err == nil && network == "unix" {
			all = append(all, fmt.Sprintf("semanage fcontext -a -t postfix_public_t '%s' && restorecon -v %s", at, at))
		}
	}
	return "; SELinux is enforcing, and it may be its refusal (ausearch -m avc -c master): " + strings.Join(all, "; ")
}

// runAgain has Postfix go on with the files of before: it reads them, or is started
// where it has ended. Under systemd it is systemd's to start, or it would not know of it.
func (p *Plan) runAgain(ctx context.Context) error {
	if postfix(ctx, p.Dir, "status") == nil {
		return postfix(ctx, p.Dir, "reload")
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		_ = exec.CommandContext(ctx, "systemctl", "restart", "postfix.service").Run() // what counts is below
		if postfix(ctx, p.Dir, "status") == nil {
			return nil
		}
	}
	return postfix(ctx, p.Dir, "start")
}
