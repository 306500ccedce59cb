package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The packaged agent becomes node mx1 of a fleet, in its sandbox and with what the package lets it
// read and write. Certificates and the store's user are made by the commands of the installed
// millrace-fleet(7), as they stand there. Node mx2 is a second agent of the same host.
const (
	fleetFile  = "/etc/millrace/conf.d/fleet.toml"
	fleetFiles = "/etc/millrace/fleet"
	fleetMarks = "/var/spool/millrace/members"
	fleetPage  = "/usr/share/man/man7/millrace-fleet.7.gz"
	secondHome = "/run/millrace-second"
	secondFile = secondHome + "/millrace.toml"
	fleetTOML  = `[fleet]
name = "mail"
node = "%[1]s"
servers = ["valkey://127.0.0.1:6390"]
user = "millrace"
password_file = "` + fleetFiles + `/password"
tls_ca_file = "` + fleetFiles + `/fleet-ca.pem"
tls_cert_file = "` + fleetFiles + `/%[1]s.pem"
tls_key_file = "` + fleetFiles + `/%[1]s.key"
listen = "127.0.0.1:%[2]d"
[[queue]]
name = "shared"
domains = ["fleet.test"]
max_sessions = 10
shared = true
`
	secondTOML = `hostname = "second.host.test"
[spool]
directory = "` + secondHome + `/spool"
[agent]
control = "unix:` + secondHome + `/control.sock"
state_directory = "` + secondHome + `/state"
[agent.http]
listen = ""
`
	fleetMail = 5
)

// fleet is what was started for it.
type fleet struct {
	store, second *exec.Cmd
	said          bytes.Buffer // by the second agent
}

// stop ends both.
func (f *fleet) stop() {
	for _, c := range []*exec.Cmd{f.second, f.store} {
		if c != nil && c.Process != nil {
			c.Process.Signal(os.Interrupt)
			c.Wait()
		}
	}
}

// join has the host become a node, and another one besides; an order holds at both, and
// mail that is moved is sent from where it was moved to.
func (l *life) join(ctx context.Context) (f *fleet, err error) {
	f = &fleet{}
	defer func() {
		if err != nil {
			f.stop()
			err = fmt.Errorf("%w\nthe second agent: %s", err, f.said.Bytes())
			run(context.WithoutCancel(ctx), "journalctl", "--no-pager", "-n", "50", "-u", "millrace-agent")
		}
	}()
	if err := f.prepare(ctx); err != nil {
		return f, err
	}
	for _, args := range [][]string{
		{"millrace", "check"},
		{"systemctl", "restart", "millrace-agent"},
		{"millrace", "fleet", "bootstrap"},
	} {
		if err := run(ctx, args[0], args[1:]...); err != nil {
			return f, err
		}
	}
	f.second = exec.Command("setpriv", "--reuid", "millrace", "--regid", "millrace", "--init-groups", "/usr/sbin/millrace-agent", "--config", secondFile)
	f.second.Stdout, f.second.Stderr = &f.said, &f.said
	if err := f.second.Start(); err != nil {
		return f, err
	}
	if err := until(ctx, "both nodes have their part", func() (bool, error) {
		for _, at := range []string{"", secondFile} {
			if s, err := standsInFleet(ctx, at); err != nil || s.State != "ok" || s.Divisor != 2 {
				return false, nil // not up yet, perhaps
			}
		}
		return true, nil
	}); err != nil {
		return f, err
	}
	if err := l.moved(ctx); err != nil {
		return f, err
	}
	if err := until(ctx, "marks of the other node are known", func() (bool, error) {
		_, err := os.Stat(fleetMarks)
		return err == nil, nil
	}); err != nil {
		return f, err
	}
	return f, sandboxed(ctx)
}

// prepare has the files of both nodes and the store.
func (f *fleet) prepare(ctx context.Context) error {
	certificates, acl, err := recipes()
	if err != nil {
		return err
	}
	f.store = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", "6390", "--save", "", "--dir", "/run")
	if err := f.store.Start(); err != nil {
		return err
	}
	if err := until(ctx, "the store answers", func() (bool, error) {
		out, _ := exec.CommandContext(ctx, "redis-cli", "-p", "6390", "ping").Output()
		return string(out) == "PONG\n", nil
	}); err != nil {
		return err
	}
	cli := exec.CommandContext(ctx, "redis-cli", "-p", "6390")
	cli.Stdin = strings.NewReader(acl)
	if out, err := cli.CombinedOutput(); err != nil || string(out) != "OK\n" {
		return fmt.Errorf("%s: %w: %s", acl, err, out)
	}
	for _, dir := range []string{fleetFiles, secondHome + "/spool", secondHome + "/state"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// The authority is made once, a node's certificate for each.
	authority, ofNode, ok := strings.Cut(certificates, "\n\n")
	if !ok {
		return fmt.Errorf("%s: no commands for the authority and a node:\n%s", fleetPage, certificates)
	}
	for _, commands := range []string{authority, ofNode, strings.ReplaceAll(ofNode, "mx1", "mx2")} {
		if err := run(ctx, "sh", "-euc", "cd "+fleetFiles+"\n"+commands); err != nil {
			return err
		}
	}
	own, err := os.ReadFile(ownFile)
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		fleetFiles + "/password":          "PASSWORD\n",
		fleetFile:                         fmt.Sprintf(fleetTOML, "mx1", 8892),
		secondFile:                        secondTOML,
		secondHome + "/conf.d/own.toml":   string(own),
		secondHome + "/conf.d/fleet.toml": fmt.Sprintf(fleetTOML, "mx2", 8893),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return run(ctx, "sh", "-euc", "rm "+fleetFiles+"/fleet-ca.key; chown root:millrace "+fleetFiles+"/*; chmod 0640 "+fleetFiles+"/*; "+
		"chown -R millrace:millrace "+secondHome+"; chmod 0700 "+secondHome+"/spool")
}

// recipes are the commands of the page that is installed: those that make certificates, and that
// which makes the store's user.
func recipes() (certificates, acl string, err error) {
	file, err := os.Open(fleetPage)
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		return "", "", err
	}
	page, err := io.ReadAll(z)
	if err != nil {
		return "", "", err
	}
	for _, block := range strings.Split(string(page), "\n.nf\n")[1:] {
		block, _, _ = strings.Cut(block, "\n.fi\n")
		block = strings.NewReplacer(`\-`, "-", `\e`, `\`).Replace(block)
		switch {
		case strings.HasPrefix(block, "openssl"):
			certificates = block
		case strings.HasPrefix(block, "ACL"):
			acl = strings.ReplaceAll(block, "\\\n", "") + "\n"
		}
	}
	if certificates == "" || acl == "" {
		err = fmt.Errorf("%s has no commands for certificates and the store's user", fleetPage)
	}
	return certificates, acl, err
}

// fleetStatus is what millrace fleet --json says.
type fleetStatus struct {
	State    string   `json:"state"`
	Divisor  int      `json:"divisor"`
	Members  []string `json:"members"`
	Warnings []string `json:"warnings"`
}

// standsInFleet asks the agent of a configuration; "" is the package's.
func standsInFleet(ctx context.Context, config string) (s fleetStatus, err error) {
	out, err := exec.CommandContext(ctx, "millrace", at(config, "fleet", "status", "--json")...).Output()
	if err != nil {
		return s, fmt.Errorf("millrace fleet: %w", err)
	}
	return s, json.Unmarshal(out, &s)
}

// at are the arguments of a command for the agent of a configuration.
func at(config string, args ...string) []string {
	if config == "" {
		return args
	}
	return append([]string{"--config", config}, args...)
}

// moved pauses a domain, has its mail queued here and moved to the other node, and lifts the pause.
func (l *life) moved(ctx context.Context) error {
	to := stopped{pause: []string{"--domain", "fleet.test"}, to: "fleet.test"}
	if err := run(ctx, "millrace", append([]string{"pause"}, to.pause...)...); err != nil {
		return err
	}
	if err := l.post(ctx, &to, fleetMail); err != nil {
		return err
	}
	queuedAt := func(config string, more ...string) (int, error) {
		out, err := exec.CommandContext(ctx, "millrace", append(at(config, "queue", "--json", "--domain", "fleet.test"), more...)...).Output()
		return bytes.Count(out, []byte("\n")), err
	}
	if err := until(ctx, "the mail is queued here", func() (bool, error) {
		n, err := queuedAt("")
		return n == fleetMail, err
	}); err != nil {
		return err
	}
	if err := run(ctx, "millrace", "move", "--to", "mx2", "--domain", "fleet.test", "--yes"); err != nil {
		return err
	}
	for _, x := range []struct {
		config string
		more   []string
		want   int
	}{{"", nil, 0}, {secondFile, nil, fleetMail}, {"", []string{"--fleet"}, fleetMail}} {
		if n, err := queuedAt(x.config, x.more...); err != nil || n != x.want {
			return errors.Join(err, fmt.Errorf("millrace %v lists %d messages after the move, %d should be there", at(x.config, x.more...), n, x.want))
		}
	}
	if err := run(ctx, "millrace", append([]string{"resume"}, to.pause...)...); err != nil {
		return err
	}
	return until(ctx, "what was moved has gone", func() (bool, error) {
		n, err := queuedAt(secondFile)
		return n == 0, err
	})
}

// sandboxed sees that nothing was denied to the packaged agent, and that what it keeps of the
// fleet is for its user alone.
func sandboxed(ctx context.Context) error {
	for _, path := range []string{fleetMarks, "/var/lib/millrace/fleet.json", "/var/lib/millrace/orders.log"} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s is for others, too: %s", path, info.Mode())
		}
	}
	out, err := exec.CommandContext(ctx, "journalctl", "-u", "millrace-agent", "-o", "cat", "--no-pager").Output()
	for line := range bytes.Lines(out) {
		if slices.ContainsFunc([]string{"permission denied", "not permitted", "read-only file system"}, func(s string) bool { return bytes.Contains(line, []byte(s)) }) {
			err = errors.Join(err, fmt.Errorf("the sandbox of the agent: %s", line))
		}
	}
	return err
}

// leave takes the host out of its fleet again.
func (f *fleet) leave(ctx context.Context) error {
	defer f.stop()
	if s, err := standsInFleet(ctx, ""); err != nil || !slices.Equal(s.Members, []string{"mx1", "mx2"}) || len(s.Warnings) > 0 {
		return errors.Join(err, fmt.Errorf("millrace fleet says %+v", s))
	}
	out, err := exec.CommandContext(ctx, "millrace", "retreat", "--check").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("millrace fleet leave")) {
		return fmt.Errorf("millrace retreat --check at a node of a fleet: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"millrace", "fleet", "leave"}, {"rm", "-r", fleetFile, fleetFiles}, {"systemctl", "restart", "millrace-agent"}} {
		if err := run(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	if out, _ := exec.CommandContext(ctx, "millrace", "retreat", "--check").CombinedOutput(); bytes.Contains(out, []byte("fleet")) {
		return fmt.Errorf("millrace retreat --check at a host that has left its fleet: %s", out)
	}
	return nil
}
