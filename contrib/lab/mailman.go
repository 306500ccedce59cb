package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// mailmanStart is how long Mailman may take to answer: it makes a database, and
// each of its runners loads some hundred Python modules.
const mailmanStart = 4 * time.Minute

// listUser is the user of mailing list managers in Debian's base system.
const listUser = 38

// MailmanOptions says where Mailman's mail comes from and goes to.
type MailmanOptions struct {
	// Relay is the host MTA's SMTP port: "127.0.0.1:25".
	Relay string
	// LMTP is where it takes mail for its lists. Default: a free loopback port.
	LMTP string
}

// Mailman is a running Mailman 3 core: the real software that sends to a list,
// each recipient with a return path of its own (VERP), and reads the bounces.
type Mailman struct {
	tree  *tree
	lmtp  string
	rest  string
	ports ports
	group *group
}

// StartMailman starts Debian's Mailman in a tree of its own and waits until it
// answers. The program must be isolated. Stop removes everything.
func StartMailman(ctx context.Context, o MailmanOptions) (*Mailman, error) {
	t, err := newTree("mailman3", "")
	if err != nil {
		return nil, fmt.Errorf("start mailman: %w", err)
	}
	m := &Mailman{tree: t, lmtp: o.LMTP}
	if m.lmtp == "" {
		m.lmtp, err = m.ports.free()
	}
	if err == nil {
		m.rest, err = m.ports.free()
	}
	if err == nil {
		err = m.install(o)
	}
	if err == nil {
		err = m.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start mailman: %w\n%s", err, m.said()), m.Stop())
	}
	return m, nil
}

func (m *Mailman) install(o MailmanOptions) error {
	var address []string
	for _, a := range []string{o.Relay, m.lmtp, m.rest} {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return err
		}
		address = append(address, host, port)
	}
	conf := strings.NewReplacer("RELAY_HOST", address[0], "RELAY_PORT", address[1], "LMTP_HOST", address[2], "LMTP_PORT", address[3],
		"REST_HOST", address[4], "REST_PORT", address[5]).Replace(mailmanConf)
	t := m.tree
	err := t.write("/etc/mailman3/mailman.cfg", conf)
	for _, dir := range []string{"/var/lib/mailman3", "/var/log/mailman3", "/run/mailman3"} {
		err = errors.Join(err, t.directory(dir, listUser, listUser, 0o755))
	}
	return err
}

func (m *Mailman) start(ctx context.Context) error {
	cmd := m.tree.command("/usr/lib/mailman3/bin/master", "-C", "/etc/mailman3/mailman.cfg")
	cmd.Env = append(cmd.Env, "HOME=/var/lib/mailman3")
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: listUser, Gid: listUser}
	said, err := os.Create(filepath.Join(m.tree.dir, "memory", "stderr"))
	if err != nil {
		return err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	if m.group, err = startGroup(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mailmanStart)
	defer cancel()
	return m.group.until(ctx, func() bool {
		return greets(ctx, m.lmtp) && m.call(ctx, http.MethodGet, "system/versions", nil, nil) == nil
	})
}

// said is all that Mailman has to say.
func (m *Mailman) said() []byte {
	files, _ := filepath.Glob(m.tree.path("/var/log/mailman3/*"))
	files = append(files, filepath.Join(m.tree.dir, "memory", "stderr"))
	out, _ := exec.Command("tail", append([]string{"-n", "40"}, files...)...).CombinedOutput()
	return out
}

// Log is the end of each of its logs.
func (m *Mailman) Log() string { return string(m.said()) }

// AddList makes a list to which everybody may write, with its domain and its
// members.
func (m *Mailman) AddList(ctx context.Context, address string, members ...string) error {
	_, domain, _ := strings.Cut(address, "@")
	err := m.call(ctx, http.MethodPost, "domains", url.Values{"mail_host": {domain}}, nil)
	if err == nil {
		err = m.call(ctx, http.MethodPost, "lists", url.Values{"fqdn_listname": {address}}, nil)
	}
	if err == nil {
		err = m.call(ctx, http.MethodPatch, "lists/"+address+"/config", url.Values{
			"default_nonmember_action": {"accept"}, "send_welcome_message": {"false"},
		}, nil)
	}
	for _, x := range members {
		if err == nil {
			err = m.call(ctx, http.MethodPost, "members", url.Values{
				"list_id": {strings.Replace(address, "@", ".", 1)}, "subscriber": {x},
				"pre_verified": {"true"}, "pre_confirmed": {"true"}, "pre_approved": {"true"},
			}, nil)
		}
	}
	if err != nil {
		return fmt.Errorf("mailman: list %s: %w", address, err)
	}
	return nil
}

// ListMember is what Mailman knows of a member.
type ListMember struct {
	BounceScore int `json:"bounce_score"`
}

// Member asks for a member of a list.
func (m *Mailman) Member(ctx context.Context, address, member string) (x ListMember, err error) {
	err = m.call(ctx, http.MethodGet, "lists/"+address+"/member/"+member, nil, &x)
	return x, err
}

// call speaks to Mailman's REST interface.
func (m *Mailman) call(ctx context.Context, method, path string, form url.Values, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.rest+"/3.1/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.SetBasicAuth("restadmin", "restpass")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Close = true // each worker of its server holds one connection
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(b, v)
}

// Stop ends every process and removes every file.
func (m *Mailman) Stop() error {
	if m.group != nil {
		m.group.kill()
	}
	m.ports.release()
	return m.tree.remove()
}

// mailmanConf is Debian's, but that each recipient gets a return path of its own,
// that bounces are looked at each second, and that what no list needs to send
// and to read bounces is not started.
const mailmanConf = `
[mailman]
site_owner: postmaster@lab.test
layout: debian

[paths.debian]
var_dir: /var/lib/mailman3
queue_dir: $var_dir/queue
bin_dir: /usr/lib/mailman3/bin
list_data_dir: $var_dir/lists
log_dir: /var/log/mailman3
lock_dir: $var_dir/locks
data_dir: $var_dir/data
cache_dir: $var_dir/cache
etc_dir: /etc/mailman3
ext_dir: $var_dir/ext
messages_dir: $var_dir/messages
archive_dir: $var_dir/archives
template_dir: $var_dir/templates
pid_file: /run/mailman3/master.pid
lock_file: $lock_dir/master.lck

[mta]
incoming: mailman.mta.null.NullMTA
smtp_host: RELAY_HOST
smtp_port: RELAY_PORT
lmtp_host: LMTP_HOST
lmtp_port: LMTP_PORT
verp_delivery_interval: 1
verp_personalized_deliveries: yes

[webservice]
hostname: REST_HOST
port: REST_PORT
workers: 1

[runner.bounces]
sleep_time: 1s

[runner.archive]
start: no
[runner.command]
start: no
[runner.digest]
start: no
[runner.nntp]
start: no
[runner.retry]
start: no
[runner.task]
start: no
[runner.virgin]
start: no
`
