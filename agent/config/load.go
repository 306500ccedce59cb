package config

import (
	"bytes"
	"cmp"
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

	"github.com/BurntSushi/toml"
)

// Load reads the configuration at path and, in name order, conf.d/*.toml beside
// it, fills in the defaults and checks the whole. An error is of type Errors and
// lists all that is wrong; notices are remarks on a good configuration. Load
// reads files, and may ask the resolver once for the host's full name when
// hostname is not set; it takes at most some seconds.
func Load(path string) (*Config, []Notice, error) {
	l := loader{cfg: defaults(), at: map[string]Notice{}, bad: map[string]bool{}}
	sources := l.sources(path)
	l.decode(sources)
	if !l.unreadable {
		l.check()
	}
	if len(l.errs) == 0 && l.cfg.Hostname == "" {
		l.cfg.Hostname = l.ownName(path)
	}
	if len(l.errs) > 0 {
		rank := func(n Notice) int { // as the files were read, then domain files and the like
			if i := slices.Index(l.files, n.File); i >= 0 {
				return i
			}
			return len(l.files)
		}
		slices.SortStableFunc(l.errs, func(a, b Notice) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
		})
		return nil, nil, l.errs
	}
	l.remark()
	return l.cfg, l.notices, nil
}

// loader is one run of Load. Paths name values of the merged configuration:
// "general.tls", "queue[3].domains[0]".
type loader struct {
	cfg        *Config
	files      []string // in the order they are merged
	errs       Errors
	notices    []Notice
	unreadable bool              // a file is missing from what was merged
	at         map[string]Notice // path -> where it was set, Text is empty
	bad        map[string]bool   // path -> its value could not be used
}

// source is one parsed file.
type source struct {
	file  string
	tree  map[string]any
	lines map[string]int // path within this file -> line
}

// sources reads and parses the files. Each is parsed by itself: decoded into
// one struct, a later file would silently overwrite an earlier one.
func (l *loader) sources(path string) []source {
	var sources []source
	l.files = append([]string{path}, l.confd(path)...)
	for _, file := range l.files {
		text, err := os.ReadFile(file)
		if err != nil {
			l.unreadable = true
			todo := "let the program's user read it"
			if errors.Is(err, fs.ErrNotExist) {
				todo = "create it, or name another with --config"
			}
			l.errs = append(l.errs, Notice{File: file, Text: remedy("cannot be read: "+cause(err), todo)})
			continue
		}
		s := source{file: file, tree: map[string]any{}}
		if _, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&s.tree); err != nil {
			l.unreadable = true
			n := Notice{File: file, Text: err.Error()}
			var parse toml.ParseError
			if errors.As(err, &parse) {
				n.Line, n.Text = parse.Position.Line, parse.Message
			}
			n.Text = remedy("not TOML: "+n.Text, "see https://toml.io for how to write it")
			l.errs = append(l.errs, n)
			continue
		}
		s.lines = scanLines(string(text))
		sources = append(sources, s)
	}
	return sources
}

// confd lists the files beside path that are merged with it, in name order.
// Hidden files are an editor's or a package manager's, not the admin's.
func (l *loader) confd(path string) []string {
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.unreadable = true
			l.errs = append(l.errs, Notice{File: dir, Text: remedy("cannot be read: "+cause(err), "let the program's user read it")})
		}
		return nil
	}
	var files []string
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files
}

// cause is the error without the path that a message already begins with.
func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

// decode merges the files into l.cfg. Queues come last: each starts from a copy
// of the general queue, which any of the files may have set.
func (l *loader) decode(sources []source) {
	for _, s := range sources {
		t := tree{l, s}
		t.table(s.tree, l.cfg, "", "")
	}
	for _, s := range sources {
		t := tree{l, s}
		t.queues()
	}
	l.replies()
}

// fail notes an error at the place where path, or what holds it, was set.
func (l *loader) fail(path, text string) {
	n := l.place(path)
	n.Text = text
	l.errs = append(l.errs, n)
}

// place is where path was set, or the nearest of its parents.
func (l *loader) place(path string) Notice {
	for path != "" {
		if n, ok := l.at[path]; ok {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return Notice{}
}

// given reports whether path was set in a file, to a value that could be used.
func (l *loader) given(path string) bool {
	_, ok := l.at[path]
	return ok && !l.bad[path]
}

// ownName is the host's fully qualified name, as "hostname -f" finds it.
func (l *loader) ownName(path string) string {
	name, err := os.Hostname()
	if err != nil {
		l.errs = append(l.errs, Notice{File: path, Text: remedy("the host's own name cannot be found: "+err.Error(), `set hostname = "mail.example.com"`)})
		return ""
	}
	if !strings.Contains(name, ".") {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		full, err := net.DefaultResolver.LookupCNAME(ctx, name)
		full = strings.TrimSuffix(full, ".")
		if err == nil && strings.HasPrefix(strings.ToLower(full), strings.ToLower(name)+".") { // not "localhost"
			name = full
		}
	}
	if !strings.Contains(name, ".") {
		l.notices = append(l.notices, Notice{File: path, Text: remedy(
			fmt.Sprintf("hostname is not set, and the host's own name %q has no domain: receivers will refuse it", name),
			`set hostname = "mail.example.com"`)})
	}
	return name
}
