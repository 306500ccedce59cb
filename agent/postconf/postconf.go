// Package postconf knows the Postfix of this host as postconf(1) shows it, and
// says where it does not fit a configuration of ours. "millrace check" prints what it
// finds, and the agent shows on /readyz what of it diverted mail passes by; it knows
// neither of them.
//
// Read asks postconf, which any user may run; it changes nothing. Check then
// compares, and asks nobody: all it knows is what Read was told, and the lookup
// tables that can be read as text (table.go says which). HostQueue counts what the
// running Postfix has to do. Reach looks whether the agent gets to the socket where mail
// goes back, and who else could be there. An admin reads each
// Finding with its place, what is wrong, and a remedy.
//
// Some findings are hard stops: settings that act on a message after the
// milter, or on its envelope, and so never on what is diverted (bypass.go). A
// site may know that and want it so; [milter] accept_bypass says it. A table
// that is looked into and cannot concern diverted mail is no finding. Where that
// is not known, a table counts as if it did.
package postconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// Postfix is the configuration of one Postfix instance, as postconf(1) shows it.
type Postfix struct {
	dir      string            // its directory as an admin names it; "" is the default instance's
	main     map[string]string // main.cf over the defaults, $names expanded
	written  map[string]string // the same, as it is written
	defaults map[string]string // what it would be if nobody had chosen; nil: that is not known
	services []service         // master.cf
	files    fs.FS             // the host's, from "/", for lookup tables
}

// service is one line of master.cf.
type service struct {
	name, kind string // "127.0.0.1:10626", "inet"
	command    string // "smtpd"
	private    bool   // of kind unix: only Postfix's own user connects
	chroot     bool
	disabled   bool              // by master_service_disable: master(8) does not run it
	set        map[string]string // its -o options
}

// where names the service for a message, in the form that postconf -P takes.
func (s *service) where() string { return "master.cf: " + s.name + "/" + s.kind }

// ErrNone says that there is no Postfix on this host, or none that was set up.
var ErrNone = errors.New("there is no Postfix on this host")

// postconfTime is how long postconf may take. It reads some files; but it also
// looks up the host's own name, which hangs where DNS does.
const postconfTime = time.Minute

// Read asks postconf for the instance in dir, or with "" for the default one,
// which MAIL_CONFIG in the environment may change. It takes at most a minute.
// The error is ErrNone if there is no Postfix to ask.
func Read(ctx context.Context, dir string) (*Postfix, error) { return readAs(ctx, dir, dir) }

// readAs reads the directory at, which is a copy of dir: what postconf says of the
// copy's place is meant for dir's, "$config_directory" in a table's name above all.
func readAs(ctx context.Context, at, dir string) (*Postfix, error) {
	ctx, cancel := context.WithTimeout(ctx, postconfTime)
	defer cancel()
	path, err := findPostconf()
	if err != nil {
		return nil, err
	}
	if at != "" {
		path = append(path, "-c", at)
	}
	var texts [5]string
	for i, flags := range [...][]string{{"-x"}, {"-M"}, {"-P", "-x"}, {}, {"-d", "-x"}} {
		if texts[i], err = ask(ctx, append(path[:len(path):len(path)], flags...)); err != nil {
			return nil, err
		}
		if at != dir {
			texts[i] = strings.ReplaceAll(texts[i], at, dir)
		}
	}
	p := parse(texts[0], texts[1], texts[2], os.DirFS("/"))
	p.dir, p.written, p.defaults = dir, parameters(texts[3]), parameters(texts[4])
	return p, nil
}

// findPostconf returns the command. An admin who is not root may not have
// Postfix's directory in PATH.
func findPostconf() ([]string, error) {
	for _, name := range []string{"postconf", "/usr/sbin/postconf", "/usr/local/sbin/postconf"} {
		if path, err := exec.LookPath(name); err == nil {
			return []string{path}, nil
		}
	}
	return nil, fmt.Errorf("%w (no postconf found)", ErrNone)
}

// ask is postconf where it changes nothing. The tests, which ask the same of the same texts
// again and again, have it remember.
var ask = postconf

func postconf(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.WaitDelay = time.Second // a child of its own may hold the pipes
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(complaint.String())
		// The package may be there, and main.cf never written.
		if strings.HasSuffix(text, "/main.cf: No such file or directory") {
			return "", fmt.Errorf("%w (%s)", ErrNone, text)
		}
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
	}
	return out.String(), nil
}

// parse reads the output of postconf, postconf -M and postconf -P.
func parse(main, master, options string, files fs.FS) *Postfix {
	p := &Postfix{main: parameters(main), files: files}
	set := map[string]map[string]string{} // by "name/kind"
	for line := range strings.Lines(options) {
		path, value, _ := strings.Cut(line, "=")
		path = strings.TrimSpace(path)
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			if set[path[:i]] == nil {
				set[path[:i]] = map[string]string{}
			}
			set[path[:i]][path[i+1:]] = strings.TrimSpace(value)
		}
	}
	for line := range strings.Lines(master) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		p.services = append(p.services, service{
			name: f[0], kind: f[1], command: f[7],
			private:  f[2] != "n",
			chroot:   f[4] == "y" || f[4] == "-" && p.chrootDefault(),
			disabled: p.disables(f[0], f[1]),
			set:      set[f[0]+"/"+f[1]],
		})
	}
	return p
}

// parameters reads what postconf says of main.cf.
func parameters(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, "="); ok {
			all[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	delete(all, "process_id") // is postconf's own
	return all
}

// disables reports whether master_service_disable has a service: by its type, or by
// "name/type", of old "name.type". The first word that fits decides, "!" before it negates.
func (p *Postfix) disables(name, kind string) bool {
	for _, word := range list(p.main["master_service_disable"]) {
		bare, negated := strings.CutPrefix(word, "!")
		if bare == kind || bare == name+"/"+kind || bare == name+"."+kind {
			return !negated
		}
	}
	return false
}

// chrootDefault is what "-" means in master.cf's column: yes, until Postfix 3.0
// with a compatibility_level of 1.
func (p *Postfix) chrootDefault() bool {
	level := p.main["compatibility_level"]
	return level == "" || level == "0"
}

// value is a parameter as a service sees it: what its -o options say counts where
// another parameter refers to it too, as smtp_helo_name does to myhostname.
func (p *Postfix) value(s *service, name string) string {
	if s == nil || len(s.set) == 0 {
		return p.main[name]
	}
	if v, ok := s.set[name]; ok {
		return v
	}
	if v, ok := p.expand(s, p.written[name], 0); ok {
		return v
	}
	return p.main[name]
}

// reference is a plain "$name", "${name}" or "$(name)" in a value.
var reference = regexp.MustCompile(`\$(?:([A-Za-z0-9_]+)|\{([A-Za-z0-9_]+)\}|\(([A-Za-z0-9_]+)\))`)

// expand replaces the references of a value by what a service sees. It is not ok
// where the value has a conditional, or refers to nothing that the service sets:
// then postconf's own expansion holds.
func (p *Postfix) expand(s *service, value string, depth int) (out string, ok bool) {
	if depth > 10 || !strings.Contains(value, "$") { // references may form circles
		return value, false
	}
	out = reference.ReplaceAllStringFunc(value, func(text string) string {
		name := strings.Trim(text, "$(){}")
		if v, set := s.set[name]; set {
			ok = true
			return v
		}
		if v, changed := p.expand(s, p.written[name], depth+1); changed {
			ok = true
			return v
		}
		return p.main[name]
	})
	return out, ok && !strings.Contains(out, "$")
}

// where names the file, and the service if it overrides it, that sets a parameter.
func (p *Postfix) where(s *service, name string) string {
	if s != nil {
		if _, ok := s.set[name]; ok || p.value(s, name) != p.main[name] {
			return s.where()
		}
	}
	return "main.cf"
}

// service returns a service by name and kind; nil if there is none.
func (p *Postfix) service(name, kind string) *service {
	for i := range p.services {
		if s := &p.services[i]; s.name == name && s.kind == kind {
			return s
		}
	}
	return nil
}

// tokens splits a parameter at blanks and commas, as Postfix does: not inside
// braces, which stay, as in "inline:{a=b, c=d}".
func tokens(value string) []string {
	var out []string
	depth, start := 0, -1
	for i, c := range []byte(value + " ") {
		switch {
		case depth <= 0 && strings.IndexByte(" \t\r\n,", c) >= 0:
			if start >= 0 {
				out = append(out, value[start:i])
				start = -1
			}
			continue
		case c == '{':
			depth++
		case c == '}':
			depth--
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 { // a brace without its partner
		out = append(out, strings.TrimSpace(value[start:]))
	}
	return out
}

// list is tokens with the braces of "{ one element }" taken off.
func list(value string) []string {
	out := tokens(value)
	for i, t := range out {
		if inside, ok := inBraces(t); ok {
			out[i] = inside
		}
	}
	return out
}
