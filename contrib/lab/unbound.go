package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// unboundStart is how long unbound may take to answer.
const unboundStart = 2 * time.Minute

// UnboundOptions say what a validating resolver knows.
type UnboundOptions struct {
	Addr    string            // its address, without a port; it answers on port 53
	Zones   map[string]string // zone -> address of its own name server; both without final dot and port
	Anchors []string          // DS records of zones that are signed
	Forward string            // address of the name server for all the rest, "" for none
}

// Unbound is a real validating resolver, Debian's unbound, over one
// configuration in a directory of its own.
type Unbound struct {
	dir   string
	group *group
}

// StartUnbound starts a resolver and waits until it answers. The program must
// be isolated. Stop removes everything.
func StartUnbound(ctx context.Context, o UnboundOptions) (*Unbound, error) {
	if !Isolated() {
		return nil, errors.New("start unbound: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	path, err := exec.LookPath("unbound")
	if err != nil {
		return nil, fmt.Errorf("start unbound: %w", err)
	}
	dir, err := os.MkdirTemp("", "unbound-")
	if err != nil {
		return nil, fmt.Errorf("start unbound: %w", err)
	}
	u := &Unbound{dir: dir}
	conf := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(conf, []byte(unboundConf(dir, o)), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("start unbound: %w", err), os.RemoveAll(dir))
	}
	log, err := os.Create(u.Log())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start unbound: %w", err), os.RemoveAll(dir))
	}
	defer log.Close()
	cmd := exec.Command(path, "-d", "-p", "-c", conf)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	if u.group, err = startGroup(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start unbound: %w", err), os.RemoveAll(dir))
	}
	ctx, cancel := context.WithTimeout(ctx, unboundStart)
	defer cancel()
	err = u.group.until(ctx, func() bool {
		m := new(dns.Msg).SetQuestion("localhost.", dns.TypeA)
		_, err := dns.ExchangeContext(ctx, m, net.JoinHostPort(o.Addr, "53"))
		return err == nil
	})
	if err != nil {
		said, _ := os.ReadFile(u.Log())
		return nil, errors.Join(fmt.Errorf("unbound does not answer: %w\n%s", err, said), u.Stop())
	}
	return u, nil
}

// unboundConf is a configuration that asks only the name servers it is given,
// validates what has an anchor, and keeps nothing of the machine's own.
func unboundConf(dir string, o UnboundOptions) string {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  interface: %s
  do-ip6: no
  do-daemonize: no
  username: ""
  chroot: ""
  directory: %q
  pidfile: ""
  use-syslog: no
  verbosity: 1
  val-log-level: 2
  num-threads: 1
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  module-config: "validator iterator"
  local-zone: "test." nodefault
`, o.Addr, dir)
	for _, ds := range o.Anchors {
		fmt.Fprintf(&b, "  trust-anchor: \"%s\"\n", strings.Join(strings.Fields(ds), " ")) // it knows no tabs
	}
	b.WriteString("remote-control:\n  control-enable: no\n")
	for zone, addr := range o.Zones {
		fmt.Fprintf(&b, "stub-zone:\n  name: %q\n  stub-addr: %s@53\n", zone+".", addr)
	}
	if o.Forward != "" {
		fmt.Fprintf(&b, "forward-zone:\n  name: \".\"\n  forward-addr: %s@53\n", o.Forward)
	}
	return b.String()
}

// Log is the path of what unbound says: why an answer was bogus, for one.
func (u *Unbound) Log() string { return filepath.Join(u.dir, "log") }

// Stop ends the resolver and removes everything.
func (u *Unbound) Stop() error { return errors.Join(u.group.terminate(), os.RemoveAll(u.dir)) }
