package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
	"github.com/millrace/millrace/contrib/postfix"
)

// masterServices are Debian's services without the port 25 listener. The y of
// the chroot column are n unless PostfixOptions.Chroot is set: only then has the
// queue directory the files a chroot needs.
const masterServices = `
pickup     unix       n - y 60  1     pickup
cleanup    unix       n - y -   0     cleanup
qmgr       unix       n - n 300 1     qmgr
tlsmgr     unix       - - y 1000? 1   tlsmgr
rewrite    unix       - - y -   -     trivial-rewrite
bounce     unix       - - y -   0     bounce
defer      unix       - - y -   0     bounce
trace      unix       - - y -   0     bounce
verify     unix       - - y -   1     verify
flush      unix       n - y 1000? 0   flush
proxymap   unix       - - n -   -     proxymap
proxywrite unix       - - n -   1     proxymap
smtp       unix       - - y -   -     smtp
relay      unix       - - y -   -     smtp
showq      unix       n - y -   -     showq
error      unix       - - y -   -     error
retry      unix       - - y -   -     error
discard    unix       - - y -   -     discard
local      unix       - n n -   -     local
virtual    unix       - n n -   -     virtual
lmtp       unix       - - y -   -     lmtp
anvil      unix       - - y -   1     anvil
scache     unix       - - y -   1     scache
postlog    unix-dgram n - n -   1     postlogd
`

// install writes the instance's directories and configuration.
func (p *Postfix) install(o PostfixOptions) error {
	uid, own, gid, err := postfixIDs()
	if err != nil {
		return err
	}
	// Owners and modes are those of Postfix's own postfix-files. The top must
	// be passable for the user postfix; MkdirTemp makes it private.
	if err := os.Chmod(p.dir, 0o755); err != nil {
		return err
	}
	for _, d := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
	}{
		{"etc", 0, 0, 0o755},
		{"log", 0, 0, 0o755},
		{"data", uid, 0, 0o755},
		{"mail", nobody, nobody, 0o700},
		{"spool", 0, 0, 0o755},
		{"spool/pid", 0, 0, 0o755},
		{"spool/active", uid, 0, 0o700},
		{"spool/bounce", uid, 0, 0o700},
		{"spool/corrupt", uid, 0, 0o700},
		{"spool/defer", uid, 0, 0o700},
		{"spool/deferred", uid, 0, 0o700},
		{"spool/flush", uid, 0, 0o700},
		{"spool/hold", uid, 0, 0o700},
		{"spool/incoming", uid, 0, 0o700},
		{"spool/private", uid, 0, 0o700},
		{"spool/saved", uid, 0, 0o700},
		{"spool/trace", uid, 0, 0o700},
		// The milter's socket gets Postfix's group from its directory, so the
		// mode that the milter gives it, 0660, lets Postfix connect.
		{"spool/millrace", 0, own, 0o755 | os.ModeSetgid},
		{"spool/maildrop", uid, gid, 0o730},
		{"spool/public", uid, gid, 0o710},
	} {
		path := filepath.Join(p.dir, d.name)
		if err := os.Mkdir(path, d.mode); err != nil {
			return err
		}
		if err := os.Chown(path, d.uid, d.gid); err != nil {
			return err
		}
		if err := os.Chmod(path, d.mode); err != nil { // whatever the umask is
			return err
		}
	}
	if o.Chroot {
		if err := p.furnishChroot(); err != nil {
			return err
		}
	}
	if o.Receiver != nil {
		pair, err := selfsigned.New(Hostname)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(p.Config(), "chain.pem"), slices.Concat(pair.Key, pair.Cert), 0o600); err != nil {
			return err
		}
	}
	if o.Own != nil {
		if err := p.writeConfig("main.cf", p.places()+o.Own.Main(p.dir)); err != nil {
			return err
		}
		return p.writeConfig("master.cf", o.Own.Master(p.dir))
	}
	if err := p.writeConfig("main.cf", p.mainCF(o)); err != nil {
		return err
	}
	master, err := p.masterCF(o)
	if err != nil {
		return err
	}
	return p.writeConfig("master.cf", master)
}

// furnishChroot puts into the queue directory what Debian's postfix copies there
// when it starts: what the C library needs to look names up.
func (p *Postfix) furnishChroot() error {
	etc := filepath.Join(p.Queue(), "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"hosts", "services", "nsswitch.conf", "localtime", "resolv.conf"} {
		content, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if name == "resolv.conf" && p.dns != "" {
			content = []byte("nameserver " + p.dns + "\n")
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(etc, name), content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Postfix) writeConfig(name, content string) error {
	if err := os.WriteFile(filepath.Join(p.Config(), name), []byte(content), 0o644); err != nil {
		return err
	}
	return p.age(name)
}

// age makes a configuration file look older than it is. Every Postfix process
// that finds a file younger than two seconds waits until it is not, lest it
// read half of one that is being written.
func (p *Postfix) age(name string) error {
	old := time.Now().Add(-time.Minute)
	return os.Chtimes(filepath.Join(p.Config(), name), old, old)
}

// places are the lines of main.cf that say where the instance has its files.
func (p *Postfix) places() string {
	return fmt.Sprintf("queue_directory = %s\ndata_directory = %s\nmaillog_file = %s\nmaillog_file_prefixes = %s\n",
		p.Queue(), filepath.Join(p.dir, "data"), p.Log(), filepath.Join(p.dir, "log"))
}

// PostfixServices are the services that a master.cf needs beside those that take mail,
// without a chroot.
func PostfixServices() string { return strings.ReplaceAll(masterServices, " y ", " n ") }

func (p *Postfix) mainCF(o PostfixOptions) string {
	params := map[string]string{
		"compatibility_level":   "3.6",
		"queue_directory":       p.Queue(),
		"data_directory":        filepath.Join(p.dir, "data"),
		"maillog_file":          p.Log(),
		"maillog_file_prefixes": filepath.Join(p.dir, "log"),

		"myhostname":          Hostname,
		"mydomain":            LocalDomain,
		"inet_interfaces":     "loopback-only",
		"inet_protocols":      "ipv4",
		"mynetworks":          "127.0.0.0/8 [::1]/128",
		"append_dot_mydomain": "no",
		"biff":                "no",

		// Local mail goes to one Maildir; Mailbox tells its recipients apart.
		"mydestination":           "",
		"alias_maps":              "",
		"alias_database":          "",
		"relay_domains":           "",
		"virtual_mailbox_domains": strings.Join(append([]string{Hostname}, p.domains...), " "),
		"virtual_mailbox_base":    filepath.Join(p.dir, "mail"),
		"virtual_mailbox_maps":    "static:box/",
		"virtual_mailbox_limit":   "0",
		"virtual_uid_maps":        "static:" + strconv.Itoa(nobody),
		"virtual_gid_maps":        "static:" + strconv.Itoa(nobody),

		"smtpd_relay_restrictions": "permit_mynetworks reject_unauth_destination",
		"smtpd_milters":            o.Milter,
		"non_smtpd_milters":        o.NonSMTPDMilter,
	}
	if o.Receiver != nil {
		params["smtpd_tls_security_level"] = "may"
		params["smtpd_tls_chain_files"] = filepath.Join(p.Config(), "chain.pem")
	}
	maps.Copy(params, o.Extra)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(params)) {
		fmt.Fprintf(&b, "%s = %s\n", k, params[k])
	}
	return b.String()
}

func (p *Postfix) masterCF(o PostfixOptions) (string, error) {
	var b strings.Builder
	services := fmt.Sprintf("%s inet n - y - - smtpd\n", p.smtp) + masterServices
	if !o.Chroot {
		services = strings.ReplaceAll(services, " y ", " n ")
	}
	b.WriteString(services)
	handback, err := postfix.Handback(p.handback)
	if err != nil {
		return "", err
	}
	b.WriteString(handback)
	for _, line := range o.Master {
		b.WriteString(line + "\n")
	}
	return b.String(), nil
}

// postfixIDs are the user with its own group, and the set-gid group, of
// Debian's package.
func postfixIDs() (uid, own, postdrop int, err error) {
	u, err := user.Lookup("postfix")
	if err != nil {
		return 0, 0, 0, fmt.Errorf("%w: install the package postfix (make deps)", err)
	}
	g, err := user.LookupGroup("postdrop")
	if err != nil {
		return 0, 0, 0, fmt.Errorf("%w: install the package postfix (make deps)", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, 0, err
	}
	if own, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, 0, err
	}
	postdrop, err = strconv.Atoi(g.Gid)
	return uid, own, postdrop, err
}
