package postconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// SetupOptions say what to set up.
type SetupOptions struct {
	// Dir is the configuration directory of the instance; "" is Postfix's default.
	Dir string
	// Command says to filter mail of sendmail(1) too.
	Command bool
}

// stage is a copy of an instance's configuration on which postconf(1) can work
// before anything of the instance is touched.
type stage struct {
	dir  string // of the copy
	real string
	path []string // the command postconf
}

// files are what a stage has, in the order in which changes are applied.
var files = []string{"main.cf", "master.cf"}

func newStage(ctx context.Context, dir string) (*stage, error) {
	path, err := findPostconf()
	if err != nil {
		return nil, err
	}
	s := &stage{real: dir, path: path}
	if s.real == "" {
		out, err := postconf(ctx, append(path[:1:1], "-h", "config_directory"))
		if err != nil {
			return nil, err
		}
		s.real = strings.TrimSpace(out)
	}
	if s.dir, err = os.MkdirTemp("", "millrace-setup-"); err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(s.real, name))
		if err == nil {
			err = s.write(name, text)
		}
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *stage) close() error { return os.RemoveAll(s.dir) }

// write writes a file that looks a minute old: Postfix's programs wait until a
// file is two seconds old, lest they read half of one.
func (s *stage) write(name string, text []byte) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	return s.settle(name)
}

func (s *stage) settle(name string) error {
	old := time.Now().Add(-time.Minute)
	return os.Chtimes(filepath.Join(s.dir, name), old, old)
}

func (s *stage) postconf(ctx context.Context, args ...string) (string, error) {
	return postconf(ctx, append(append(s.path[:1:1], "-c", s.dir), args...))
}

// raw is a parameter of main.cf as it is written there; ok says that it is.
func (s *stage) raw(ctx context.Context, name string) (value string, ok bool, err error) {
	out, err := s.postconf(ctx, "-n", name)
	if err != nil || strings.TrimSpace(out) == "" {
		return "", false, err
	}
	_, value, _ = strings.Cut(out, "=")
	return strings.TrimSpace(value), true, nil
}

// set writes a parameter of main.cf; "" and remove takes it out.
func (s *stage) set(ctx context.Context, name, value string) error {
	if _, err := s.postconf(ctx, "-e", name+"="+value); err != nil {
		return err
	}
	return s.settle("main.cf")
}

func (s *stage) unset(ctx context.Context, name string) error {
	if _, err := s.postconf(ctx, "-X", name); err != nil {
		return err
	}
	return s.settle("main.cf")
}

// plan is how the copy differs from the instance.
func (s *stage) plan(byHand []string) (*Plan, error) {
	p := &Plan{Dir: s.real, ByHand: byHand}
	for _, name := range files {
		c := Change{Path: filepath.Join(s.real, name)}
		var err error
		if c.Old, err = os.ReadFile(c.Path); err != nil {
			return nil, err
		}
		if c.New, err = os.ReadFile(filepath.Join(s.dir, name)); err != nil {
			return nil, err
		}
		if !bytes.Equal(c.Old, c.New) {
			p.Changes = append(p.Changes, c)
		}
	}
	return p, nil
}

// Setup plans what makes Postfix ask Millrace and take its mail back. What is set up
// already stays as it is, and what is not understood is left to the admin.
func Setup(ctx context.Context, c *config.Config, o SetupOptions) (*Plan, error) {
	s, err := newStage(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	byHand, err := s.setup(ctx, c, o)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(byHand)
	if err == nil {
		p.After, err = Read(ctx, s.dir)
	}
	return p, err
}

func (s *stage) setup(ctx context.Context, c *config.Config, o SetupOptions) (byHand []string, err error) {
	host, err := Read(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	address, err := host.socket(c)
	if err != nil {
		return nil, err
	}
	note := func(format string, args ...any) { byHand = append(byHand, fmt.Sprintf(format, args...)) }
	spaced := "{ " + address + ", " + snippets.MilterOptions + " }"
	dense := "{" + address + "," + strings.ReplaceAll(snippets.MilterOptions, " ", "") + "}"

	// main.cf.
	parameters := []string{"smtpd_milters"}
	if o.Command {
		parameters = append(parameters, "non_smtpd_milters")
	}
	for _, name := range parameters {
		value, _, err := s.raw(ctx, name)
		if err != nil {
			return nil, err
		}
		switch host.position(c, value) {
		case absent:
			if err := s.set(ctx, name, joined(value, spaced)); err != nil {
				return nil, err
			}
		case notLast:
			note("main.cf: %s has milters after Millrace; move Millrace to the end", name)
		}
	}
	if v := host.main["smtpd_milter_maps"]; v != "" {
		note("main.cf: smtpd_milter_maps is %s: clients that it lists have milters of their own; add %s there for those that send bulk", v, spaced)
	}

	// master.cf: the hand-back service, in the place of one at another relay.
	text, err := os.ReadFile(filepath.Join(s.dir, "master.cf"))
	if err != nil {
		return nil, err
	}
	m := readMaster(text)
	if host.at(c.Handback.Relay) == nil {
		bare := m.without()
		if host, err = s.reread(ctx, bare); err != nil {
			return nil, err
		}
		more, left := host.handbackService(c.Handback.Relay)
		byHand = append(byHand, left...)
		if more != "" {
			m = bare.with(more)
		}
		if host, err = s.reread(ctx, m); err != nil {
			return nil, err
		}
	}

	// And services with milters of their own.
	for i := range host.services {
		v := &host.services[i]
		value, own := v.set["smtpd_milters"]
		switch {
		case v.command != "smtpd" || !own || host.listens(v, c.Handback.Relay):
			continue
		case value == "" && v.set["syslog_name"] == snippets.SyslogName:
			note("%s: mail comes back at %s now: take this service out, and leave its cleanup, %s/unix", v.where(), c.Handback.Relay, snippets.Cleanup)
			continue
		case value == "":
			note("%s has no milters at all (-o smtpd_milters=), and gets none; if users send bulk there, take that option out", v.where())
			continue
		}
		switch host.position(c, value) {
		case absent:
			line, before, written, after, spaces := m.option(v.name, v.kind, "smtpd_milters")
			if line < 0 {
				note("%s: its smtpd_milters are not written in a form that is known here; add %s at the end", v.where(), dense)
				continue
			}
			more := "," + dense
			if spaces {
				more = ", " + spaced
			}
			m[line] = before + written + more + after
		case notLast:
			note("%s: smtpd_milters has milters after Millrace; move Millrace to the end", v.where())
		}
	}

	// What discards needs.
	if host, err = s.reread(ctx, m); err != nil {
		return nil, err
	}
	for _, f := range host.discards(c, host.milters(c)) {
		switch {
		case f.Remedy == "postconf -e in_flow_delay=0":
			if err := s.set(ctx, "in_flow_delay", "0"); err != nil {
				return nil, err
			}
		case f.Bypass == "":
			byHand = append(byHand, f.String())
		}
	}
	return byHand, nil
}

// reread puts a master.cf into the copy, and reads it.
func (s *stage) reread(ctx context.Context, m master) (*Postfix, error) {
	if err := s.write("master.cf", m.bytes()); err != nil {
		return nil, err
	}
	return Read(ctx, s.dir)
}

// Undo plans to take out what Setup put in. If nobody has changed the files since,
// they become again what they were, octet by octet.
func Undo(ctx context.Context, c *config.Config, o SetupOptions) (*Plan, error) {
	s, err := newStage(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	old := map[string][]byte{}
	for _, name := range files {
		text, err := os.ReadFile(backup(filepath.Join(s.real, name)))
		switch {
		case err == nil:
			old[name] = text
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	byHand, err := s.undo(ctx, c, old)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(byHand)
	if err != nil {
		return nil, err
	}
	p.Restored = true
	return p, nil
}

func (s *stage) undo(ctx context.Context, c *config.Config, old map[string][]byte) (byHand []string, err error) {
	host, err := Read(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	// What was there before, if it is known.
	before := &stage{real: s.real, path: s.path}
	if text, ok := old["main.cf"]; ok {
		if before.dir, err = os.MkdirTemp("", "millrace-setup-"); err != nil {
			return nil, err
		}
		defer before.close()
		if err := errors.Join(before.write("main.cf", text), before.write("master.cf", old["master.cf"])); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"smtpd_milters", "non_smtpd_milters"} {
		value, _, err := s.raw(ctx, name)
		if err != nil {
			return nil, err
		}
		rest, had := host.without(c, value)
		if !had {
			continue
		}
		if err := s.setOrUnset(ctx, before, name, rest); err != nil {
			return nil, err
		}
	}
	if v, set, err := s.raw(ctx, "in_flow_delay"); err != nil {
		return nil, err
	} else if set && v == "0" && before.dir != "" {
		was, _, err := before.raw(ctx, "in_flow_delay")
		if err != nil {
			return nil, err
		}
		if err := s.setOrUnset(ctx, before, "in_flow_delay", was); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "master.cf"))
	if err != nil {
		return nil, err
	}
	m := readMaster(text).without()
	for i := range host.services {
		v := &host.services[i]
		value, own := v.set["smtpd_milters"]
		if _, had := host.without(c, value); v.command != "smtpd" || !own || !had {
			continue
		}
		line, lead, written, after, _ := m.option(v.name, v.kind, "smtpd_milters")
		if line < 0 {
			byHand = append(byHand, fmt.Sprintf("%s: take Millrace out of its smtpd_milters", v.where()))
			continue
		}
		if rest, ok := host.without(c, written); ok {
			m[line] = lead + rest + after
		}
	}
	if err := s.write("master.cf", m.bytes()); err != nil {
		return nil, err
	}
	return byHand, s.restore(ctx, old)
}

// setOrUnset gives a parameter a value, or takes it out if it has none and was not
// there before.
func (s *stage) setOrUnset(ctx context.Context, before *stage, name, value string) error {
	if value == "" {
		had := false
		if before.dir != "" {
			var err error
			if _, had, err = before.raw(ctx, name); err != nil {
				return err
			}
		}
		if !had {
			return s.unset(ctx, name)
		}
	}
	return s.set(ctx, name, value)
}

// restore puts the old text in the place of one that says the same.
func (s *stage) restore(ctx context.Context, old map[string][]byte) error {
	for _, name := range files {
		text, ok := old[name]
		if !ok {
			continue
		}
		flags := []string{"-n"}
		if name == "master.cf" {
			flags = []string{"-M", "-f"}
		}
		now, err := s.postconf(ctx, flags...)
		if err != nil {
			return err
		}
		mine, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return err
		}
		if err := s.write(name, text); err != nil {
			return err
		}
		then, err := s.postconf(ctx, flags...)
		if err != nil {
			return err
		}
		if now != then {
			if err := s.write(name, mine); err != nil {
				return err
			}
		}
	}
	return nil
}

// socket is the milter's address as Postfix has to write it.
func (p *Postfix) socket(c *config.Config) (string, error) {
	queue := filepath.Clean(p.main["queue_directory"]) + "/"
	chrooted := slices.ContainsFunc(p.services, func(s service) bool { return s.command == "smtpd" && s.chroot })
	for _, l := range c.Milter.Listen {
		network, at, err := config.ParseListen(l)
		if err != nil {
			return "", err
		}
		if network != "unix" {
			host, port, err := net.SplitHostPort(at)
			if err != nil {
				return "", err
			}
			if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
				host = "127.0.0.1"
			}
			return "inet:" + net.JoinHostPort(host, port), nil
		}
		if path, ok := strings.CutPrefix(filepath.Clean(at), queue); ok {
			return "unix:" + path, nil
		}
		if !chrooted {
			return "unix:" + filepath.Clean(at), nil
		}
	}
	return "", fmt.Errorf("smtpd runs chrooted in %s, and [milter] listen (%s) has no socket there; %s",
		queue, strings.Join(c.Milter.Listen, ", "), p.relative(c.Milter.Listen))
}

// position is where Millrace stands in a list of milters.
type position int

const (
	absent position = iota
	last
	notLast
)

func (p *Postfix) position(c *config.Config, value string) position {
	found := absent
	for _, text := range list(value) {
		if p.names(c, text) {
			found = last
		} else if text == "$smtpd_milters" && p.position(c, p.main["smtpd_milters"]) == last {
			found = last
		} else if found == last {
			found = notLast
		}
	}
	return found
}

// names reports whether an element of a list of milters is Millrace.
func (p *Postfix) names(c *config.Config, text string) bool {
	named, _ := p.isOurs(parseMilter(text).address, c.Milter.Listen, false)
	return named
}

// without is a list of milters without Millrace, and otherwise as it is written.
func (p *Postfix) without(c *config.Config, value string) (rest string, had bool) {
	const separators = ", \t\r\n"
	for _, text := range tokens(value) {
		i := strings.Index(value, text)
		inside, braced := inBraces(text)
		switch {
		case !p.names(c, text) && !(braced && p.names(c, inside)):
			rest += value[:i+len(text)]
		case rest == "":
			had = true
			value = strings.TrimLeft(value[i+len(text):], separators)
			continue
		default:
			had = true // with the separators before it
		}
		value = value[i+len(text):]
	}
	return rest, had
}

// joined adds an element to a list.
func joined(value, element string) string {
	if value == "" {
		return element
	}
	return strings.TrimRight(value, ", ") + ", " + element
}
