package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// postfix is the configuration of one Postfix instance, as postconf(1) shows it.
type postfix struct {
	main     map[string]string // main.cf over the defaults, $names expanded
	services []service         // master.cf
}

// service is one line of master.cf.
type service struct {
	name, kind string // "127.0.0.1:10626", "inet"
	command    string // "smtpd"
	chroot     bool
	set        map[string]string // its -o options
}

// where names the service for a message, in the form that postconf -P takes.
func (s *service) where() string { return "master.cf: " + s.name + "/" + s.kind }

// errNoPostfix: there is no Postfix on this host, or none that was set up.
var errNoPostfix = errors.New("there is no Postfix on this host")

// postconfTime is how long postconf may take. It reads some files; but it also
// looks up the host's own name, which hangs where DNS does.
const postconfTime = time.Minute

// readPostfix asks postconf for the instance in dir, or for the default one.
func readPostfix(ctx context.Context, dir string) (*postfix, error) {
	ctx, cancel := context.WithTimeout(ctx, postconfTime)
	defer cancel()
	path, err := findPostconf()
	if err != nil {
		return nil, err
	}
	if dir != "" {
		path = append(path, "-c", dir)
	}
	var texts [3]string
	for i, flags := range [...][]string{{"-x"}, {"-M"}, {"-P", "-x"}} {
		if texts[i], err = postconf(ctx, append(path[:len(path):len(path)], flags...)); err != nil {
			return nil, err
		}
	}
	return parsePostfix(texts[0], texts[1], texts[2]), nil
}

// findPostconf returns the command. An admin who is not root may not have
// Postfix's directory in PATH.
func findPostconf() ([]string, error) {
	for _, name := range []string{"postconf", "/usr/sbin/postconf", "/usr/local/sbin/postconf"} {
		if path, err := exec.LookPath(name); err == nil {
			return []string{path}, nil
		}
	}
	return nil, fmt.Errorf("%w (no postconf found)", errNoPostfix)
}

func postconf(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(complaint.String())
		// The package may be there, and main.cf never written.
		if strings.HasSuffix(text, "/main.cf: No such file or directory") {
			return "", fmt.Errorf("%w (%s)", errNoPostfix, text)
		}
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
	}
	return out.String(), nil
}

// parsePostfix reads the output of postconf, postconf -M and postconf -P.
func parsePostfix(main, master, options string) *postfix {
	p := &postfix{main: map[string]string{}}
	for line := range strings.Lines(main) {
		if name, value, ok := strings.Cut(line, "="); ok {
			p.main[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
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
			chroot: f[4] == "y" || f[4] == "-" && p.chrootDefault(),
			set:    set[f[0]+"/"+f[1]],
		})
	}
	return p
}

// chrootDefault is what "-" means in master.cf's column: yes, until Postfix 3.0
// with a compatibility_level of 1.
func (p *postfix) chrootDefault() bool {
	level := p.main["compatibility_level"]
	return level == "" || level == "0"
}

// value is a parameter as a service sees it.
func (p *postfix) value(s *service, name string) string {
	if s != nil {
		if v, ok := s.set[name]; ok {
			return v
		}
	}
	return p.main[name]
}

// where names the file, and the service if it overrides it, that sets a parameter.
func (p *postfix) where(s *service, name string) string {
	if s != nil {
		if _, ok := s.set[name]; ok {
			return s.where()
		}
	}
	return "main.cf"
}

// service returns a service by name and kind; nil if there is none.
func (p *postfix) service(name, kind string) *service {
	for i := range p.services {
		if s := &p.services[i]; s.name == name && s.kind == kind {
			return s
		}
	}
	return nil
}

// list splits a parameter at blanks and commas. What stands in braces is one
// element, without them.
func list(value string) []string {
	var out []string
	depth, start := 0, -1
	end := func(i int) {
		if start >= 0 {
			out = append(out, strings.TrimSpace(value[start:i]))
			start = -1
		}
	}
	for i, c := range []byte(value) {
		switch {
		case c == '{':
			if depth++; depth == 1 {
				end(i)
				start = i + 1
			}
		case c == '}' && depth > 0:
			if depth--; depth == 0 {
				end(i)
			}
		case depth > 0:
		case strings.IndexByte(" \t\r\n,", c) >= 0:
			end(i)
		case start < 0:
			start = i
		}
	}
	end(len(value))
	return out
}
