package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RelativeSocket is the smtpd_milters entry of a host: the milter's socket
// below Postfix's queue directory.
const RelativeSocket = "unix:millrace/milter.sock"

// MillraceOptions says how a Millrace differs from the lab's own: diverting,
// loopback receivers allowed, resolver 127.0.0.1:53, no HTTP.
type MillraceOptions struct {
	// Host is the host MTA: a Postfix started with Milter: RelativeSocket, or a
	// Sendmail with Millrace. With nil the milter's socket is in Millrace's own
	// directory, and handback.relay has to be set.
	Host Host
	// DNS is the address, without a port, of the name server. Default: Resolver.
	DNS string
	// Set are keys of millrace.toml with their TOML values; they win over the
	// lab's own: {"milter.verdict": `"discard"`, "general.retry": `["1s"]`}. "" leaves
	// a key of the lab's out.
	Set map[string]string
	// Extra is TOML at the end of millrace.toml: [[queue]], [[milter.rule]].
	Extra string
	// AgentUser is the number of the user that the agent runs as, and to whom spool and
	// state belong; the milter cannot share them then. 0 is root.
	AgentUser int
	// Machine is where the daemons run on. Default: the room itself.
	Machine *Machine
	// Boot is by how much longer their machine has run than this one (CLOCK_BOOTTIME,
	// time_namespaces(7)), in whole seconds.
	Boot time.Duration
	// Programs is the directory of the programs. Default: Programs().
	Programs string
}

// Millrace is both daemons over one configuration in a directory of its own.
type Millrace struct {
	Milter *Daemon
	Agent  *Daemon

	dir    string
	socket string
}

// NewMillrace writes the configuration and starts nothing: Milter.Start and
// Agent.Start do. Close removes everything.
func NewMillrace(o MillraceOptions) (*Millrace, error) {
	if !Isolated() {
		return nil, errors.New("new millrace: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	if o.Programs == "" {
		dir, err := Programs()
		if err != nil {
			return nil, err
		}
		o.Programs = dir
	}
	dir, err := os.MkdirTemp("", "millrace-")
	if err != nil {
		return nil, fmt.Errorf("new millrace: %w", err)
	}
	m := &Millrace{dir: dir, socket: filepath.Join(dir, "milter.sock")}
	if o.Host != nil {
		m.socket = o.Host.MilterSocket()
	}
	m.Milter = m.daemon(o.Programs, "millrace-milter", func(ctx context.Context) bool {
		return listens(ctx, m.socket)
	})
	m.Agent = m.daemon(o.Programs, "millrace-agent", func(ctx context.Context) bool {
		return listens(ctx, m.control())
	})
	if p, ok := o.Host.(*Postfix); ok {
		// Postfix's own way to say which instance is meant.
		m.Agent.env = []string{"MAIL_CONFIG=" + p.Config()}
	}
	// The directory is passable, so that the MTA reaches the milter's socket.
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(m.Spool(), 0o700),
		os.WriteFile(m.Config(), []byte(m.toml(o)), 0o644))
	for _, d := range []*Daemon{m.Milter, m.Agent} {
		d.machine = o.Machine
		if o.Boot != 0 { // unshare(1) becomes the program, under the same process id
			d.args = append([]string{"--time", "--boottime", strconv.FormatInt(int64(o.Boot/time.Second), 10), d.path}, d.args...)
			d.path = "unshare"
		}
	}
	if id := o.AgentUser; err == nil && id != 0 {
		m.Agent.user = &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}
		err = errors.Join(os.Chown(dir, id, id), os.Chown(m.Spool(), id, id))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("new millrace: %w", err), os.RemoveAll(dir))
	}
	return m, nil
}

// Socket is the milter's socket as an smtpd_milters entry.
func (m *Millrace) Socket() string { return "unix:" + m.socket }

// Config is the path of millrace.toml.
func (m *Millrace) Config() string { return filepath.Join(m.dir, "millrace.toml") }

// Spool is the spool directory.
func (m *Millrace) Spool() string { return filepath.Join(m.dir, "spool") }

// Control is the agent's control socket, as in [agent] control.
func (m *Millrace) Control() string { return "unix:" + m.control() }

func (m *Millrace) control() string { return filepath.Join(m.dir, "control.sock") }

// Close kills what runs and removes everything.
func (m *Millrace) Close() error {
	m.Milter.Kill()
	m.Agent.Kill()
	return os.RemoveAll(m.dir)
}

func (m *Millrace) daemon(programs, name string, ready func(context.Context) bool) *Daemon {
	return &Daemon{
		name:  name,
		path:  filepath.Join(programs, name),
		args:  []string{"--config", m.Config()},
		dir:   m.dir,
		ready: ready,
	}
}

// listens reports whether the group of a socket finds somebody there: the file has its mode
// only a moment after it is bound, when we, who are root, can connect already.
func listens(ctx context.Context, socket string) bool {
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm()&0o020 == 0 {
		return false
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// toml is the configuration: the lab's keys and those of o.Set by section.
func (m *Millrace) toml(o MillraceOptions) string {
	if o.DNS == "" {
		o.DNS = Resolver
	}
	keys := map[string]string{
		"hostname":                 strconv.Quote(Hostname),
		"spool.directory":          strconv.Quote(m.Spool()),
		"spool.min_free":           `"16MiB"`,
		"milter.listen":            `["unix:` + m.socket + `"]`,
		"milter.mode":              `"divert"`,
		"agent.control":            strconv.Quote(m.Control()),
		"agent.state_directory":    strconv.Quote(filepath.Join(m.dir, "state")),
		"agent.resolvers":          `["` + net.JoinHostPort(o.DNS, "53") + `"]`,
		"agent.protocols":          `["ipv4"]`,
		"agent.allow_destinations": `["127.0.0.0/8"]`,
		"agent.http.listen":        `""`,
	}
	if o.Host != nil {
		keys["handback.relay"] = strconv.Quote(o.Host.HandbackAddr())
		keys["milter.host_domains"] = tomlStrings(o.Host.LocalDomains())
	}
	maps.Copy(keys, o.Set)
	maps.DeleteFunc(keys, func(_, value string) bool { return value == "" })

	sections := map[string][]string{}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		section, key := "", k
		if i := strings.LastIndexByte(k, '.'); i >= 0 {
			section, key = k[:i], k[i+1:]
		}
		sections[section] = append(sections[section], key+" = "+keys[k])
	}
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(sections)) { // "", the top level, first
		if s != "" {
			fmt.Fprintf(&b, "\n[%s]\n", s)
		}
		b.WriteString(strings.Join(sections[s], "\n") + "\n")
	}
	b.WriteString("\n" + o.Extra + "\n")
	return b.String()
}

func tomlStrings(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
