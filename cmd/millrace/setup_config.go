package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/printable"
)

// hostFile is what setup writes and nobody else, beside the configuration.
const hostFile = "conf.d/host.toml"

// configFiles is a copy of Millrace's configuration, without hostFile, on which
// setup tries what it would write.
type configFiles struct {
	main string // the configuration's main file
	dir  string // of the copy
}

// stageConfig copies the files that setup may change or merge: the main file and
// conf.d/*.toml. Whatever else stands beside them, lists of domains or files that have
// nothing to do with Millrace, is in the copy by name alone, as a link.
func stageConfig(main string) (*configFiles, error) {
	real, err := filepath.Abs(filepath.Dir(main))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "millrace-setup-")
	if err != nil {
		return nil, err
	}
	f := &configFiles{main: main, dir: dir}
	err = f.stage(real, ".", func(name string) bool { return name == filepath.Base(main) })
	if err == nil {
		err = f.stage(real, filepath.Dir(hostFile), func(name string) bool { return strings.HasSuffix(name, ".toml") })
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// stage brings one directory of the real configuration into the copy, if it is there.
func (f *configFiles) stage(real, dir string, copied func(name string) bool) error {
	entries, err := os.ReadDir(filepath.Join(real, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.staged(dir), 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case name == hostFile, name == filepath.Dir(hostFile):
		case !copied(e.Name()):
			err = os.Symlink(filepath.Join(real, name), f.staged(name))
		default:
			var text []byte
			if text, err = os.ReadFile(filepath.Join(real, name)); err == nil {
				err = os.WriteFile(f.staged(name), text, 0o600)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *configFiles) close() error { return os.RemoveAll(f.dir) }

// staged is a file's place in the copy.
func (f *configFiles) staged(name string) string { return filepath.Join(f.dir, name) }

// load reads the copy. Errors name the files as the admin knows them.
func (f *configFiles) load() (*config.Config, error) {
	c, _, err := config.Load(f.staged(filepath.Base(f.main)))
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), f.dir+"/", filepath.Dir(f.main)+"/"))
	}
	return c, nil
}

// changes are how main file and hostFile in the copy differ from the real ones.
func (f *configFiles) changes() (list []postconf.Change, err error) {
	for _, name := range []string{filepath.Base(f.main), hostFile} {
		c := postconf.Change{Path: filepath.Join(filepath.Dir(f.main), name)}
		if c.Old, err = read(c.Path); err != nil {
			return nil, err
		}
		if c.New, err = read(f.staged(name)); err != nil {
			return nil, err
		}
		if !bytes.Equal(c.Old, c.New) {
			list = append(list, c)
		}
	}
	return list, nil
}

// read is os.ReadFile; a file that is not there is nil.
func read(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// mode is the line of millrace.toml that setup knows how to change.
var mode = regexp.MustCompile(`(?m)^(\s*mode\s*=\s*)"observe"`)

// divert sets the milter's mode in the copy.
func (f *configFiles) divert() error {
	c, err := f.load()
	if err != nil || c.Milter.Mode == config.Divert {
		return err
	}
	path := f.staged(filepath.Base(f.main))
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := len(mode.FindAllIndex(text, -1)); n != 1 {
		return fmt.Errorf("%s: set [milter] mode = \"divert\" by hand: there is no single line mode = \"observe\"", f.main)
	}
	return os.WriteFile(path, mode.ReplaceAll(text, []byte(`${1}"divert"`)), 0o600)
}

// defined are the keys that the admin has set: those are left alone.
func (f *configFiles) defined() (func(key ...string) bool, error) {
	files, err := filepath.Glob(f.staged("conf.d/*.toml"))
	if err != nil {
		return nil, err
	}
	var all []toml.MetaData
	for _, name := range append(files, f.staged(filepath.Base(f.main))) {
		var v map[string]any
		meta, err := toml.DecodeFile(name, &v)
		if err != nil {
			return nil, err
		}
		all = append(all, meta)
	}
	return func(key ...string) bool {
		for _, m := range all {
			if m.IsDefined(key...) {
				return true
			}
		}
		return false
	}, nil
}

// writeHost writes what Postfix's settings come to into the copy.
func (f *configFiles) writeHost(x *hostFacts) error {
	defined, err := f.defined()
	if err != nil {
		return err
	}
	text := hostTOML(x, defined)
	if text == "" {
		return nil
	}
	x.text = text
	if err := os.MkdirAll(f.staged("conf.d"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(f.staged(hostFile), []byte(text), 0o600)
}

// hostTOML is the text of hostFile, without the keys that are set elsewhere; "" if
// nothing is left to say.
func hostTOML(x *hostFacts, defined func(key ...string) bool) string {
	t := tables{defined: defined}
	if x.Hostname != "" {
		t.set("", "hostname", x.Hostname)
	}
	if len(x.HostDomains) > 0 {
		t.set("milter", "host_domains", x.HostDomains)
	}
	if len(x.Remote) > 0 {
		t.set("milter", "remote", x.Remote)
	}
	if len(x.Protocols) > 0 {
		t.set("agent", "protocols", x.Protocols)
	}
	if len(x.Sources) > 0 {
		t.set("agent", "source_addresses", addresses(x.Sources))
	}
	if x.relay != "" {
		t.set("handback", "relay", x.relay)
	}
	limits(&t, "general", x.General, x.TLS)
	for _, q := range x.Queues {
		t.begin("[[queue]]")
		t.line("name", q.Name)
		t.line("domains", q.Domains)
		if q.Handback {
			t.line("route", "handback")
		}
		queueLimits(&t, q.Limits, q.TLS)
	}
	if t.text.Len() == 0 {
		return ""
	}
	return "# Written by \"millrace setup\" from what Postfix says, and written anew each time:\n" +
		"# set a key in millrace.toml, and it is left out here.\n" +
		ofPostfix + x.dir + "\n" + t.text.String()
}

// ofPostfix begins the line of hostFile that names the instance whose facts it has.
const ofPostfix = "# Postfix: "

// otherInstances are the host's further instances of Postfix: those that the default one
// knows, and the one whose facts hostFile has.
func otherInstances(ctx context.Context, dir, main string) ([]*postconf.Postfix, error) {
	others := postconf.Others(ctx, dir)
	text, err := read(filepath.Join(filepath.Dir(main), hostFile))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		recorded, ok := strings.CutPrefix(strings.TrimSpace(line), ofPostfix)
		known := func(p *postconf.Postfix) bool { return postconf.SameDir(p.Dir(), recorded) }
		if !ok || postconf.SameDir(recorded, dir) || slices.ContainsFunc(others, known) {
			continue
		}
		if p, err := postconf.Read(ctx, recorded); err == nil { // one that is gone names nobody
			others = append(others, p)
		}
	}
	return others, nil
}

// limits writes what Postfix's limits come to for the general queue.
func limits(t *tables, table string, l postconf.Limits, tls config.TLS) {
	if l.Sessions > 0 {
		t.set(table, "max_sessions", l.Sessions)
	}
	if l.Recipients > 0 {
		t.set(table, "max_recipients_per_message", l.Recipients)
	}
	if l.Delay > 0 {
		t.set(table, "max_message_rate", rate(l.Delay))
	}
	if tls != "" {
		t.set(table, "tls", string(tls))
	}
}

func queueLimits(t *tables, l postconf.Limits, tls config.TLS) {
	if l.Delay > 0 {
		l.Sessions = 1 // as Postfix has it then
		t.line("max_message_rate", rate(l.Delay))
	}
	if l.Sessions > 0 {
		t.line("max_sessions", l.Sessions)
	}
	if l.Recipients > 0 {
		t.line("max_recipients_per_message", l.Recipients)
	}
	if tls != "" {
		t.line("tls", string(tls))
	}
}

// rate writes a delay between messages as a rate.
func rate(d time.Duration) string {
	if d <= time.Minute {
		return fmt.Sprintf("%d/m", time.Minute/d)
	}
	return fmt.Sprintf("%d/h", max(1, time.Hour/d))
}

func addresses(list []netip.Addr) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

// tables writes TOML.
type tables struct {
	defined func(key ...string) bool
	text    strings.Builder
	at      string
}

// set writes a key unless it is set elsewhere. Keys of a table stand together.
func (t *tables) set(table, key string, value any) {
	path := []string{table, key}
	if table == "" {
		path = path[1:]
	}
	if t.defined(path...) {
		return
	}
	if table != t.at {
		t.begin("[" + table + "]")
		t.at = table
	}
	t.line(key, value)
}

func (t *tables) begin(head string) { printable.Fprintf(&t.text, "\n%s\n", head) }

func (t *tables) line(key string, value any) {
	switch v := value.(type) {
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		printable.Fprintf(&t.text, "%s = [%s]\n", key, strings.Join(quoted, ", "))
	case string:
		printable.Fprintf(&t.text, "%s = %q\n", key, v)
	default:
		printable.Fprintf(&t.text, "%s = %v\n", key, v)
	}
}
