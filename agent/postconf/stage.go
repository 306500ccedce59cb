package postconf

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

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
		if s.real, err = DefaultDir(ctx); err != nil {
			return nil, err
		}
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

// DefaultDir is the configuration directory that Postfix uses.
func DefaultDir(ctx context.Context) (string, error) {
	path, err := findPostconf()
	if err != nil {
		return "", err
	}
	out, err := postconf(ctx, append(path, "-h", "config_directory"))
	return strings.TrimSpace(out), err
}

// beside is a stage of other texts for the same instance.
func (s *stage) beside(texts map[string][]byte) (*stage, error) {
	dir, err := os.MkdirTemp("", "millrace-setup-")
	if err != nil {
		return nil, err
	}
	b := &stage{dir: dir, real: s.real, path: s.path}
	for _, name := range files {
		if err := b.write(name, texts[name]); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

func (s *stage) close() error { return os.RemoveAll(s.dir) }

func (s *stage) text(name string) ([]byte, error) { return os.ReadFile(filepath.Join(s.dir, name)) }

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
	out, err := ask(ctx, append(s.path[:1:1], "-c", s.dir, "-n", name))
	if err != nil || strings.TrimSpace(out) == "" {
		return "", false, err
	}
	_, value, _ = strings.Cut(out, "=")
	return strings.TrimSpace(value), true, nil
}

// set writes a parameter of main.cf. postconf(1) appends to the last line of a file
// without a final newline, so that line is ended first.
func (s *stage) set(ctx context.Context, name, value string) error {
	text, err := s.text("main.cf")
	if err != nil {
		return err
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		if err := s.write("main.cf", append(text, '\n')); err != nil {
			return err
		}
	}
	if _, err := s.postconf(ctx, "-e", name+"="+value); err != nil {
		return err
	}
	return s.settle("main.cf")
}

// unset takes a parameter out of main.cf.
func (s *stage) unset(ctx context.Context, name string) error {
	if _, err := s.postconf(ctx, "-X", name); err != nil {
		return err
	}
	return s.settle("main.cf")
}

// copies are the files as they were before Millrace was set up, as far as they
// were kept.
func (s *stage) copies() (map[string][]byte, error) {
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
	return old, nil
}

// added is how a parameter begins that postconf(1) added to main.cf for set-up.
var added = regexp.MustCompile(`^(smtpd_milters|non_smtpd_milters|in_flow_delay) =`)

// mend ends the last line that main.cf had before Millrace was set up, where an
// earlier set-up did not: "relayhost =smtpd_milters = ..." are two parameters. Other
// lines may have changed since, by that set-up too.
func (s *stage) mend(old []byte) (mended bool, err error) {
	text, err := s.text("main.cf")
	if err != nil || len(old) == 0 || old[len(old)-1] == '\n' {
		return false, err
	}
	last := old[bytes.LastIndexByte(old, '\n')+1:]
	end := 0
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, last); ok && added.Match(rest) {
			end += len(last)
			return true, s.write("main.cf", slices.Concat(text[:end], []byte("\n"), text[end:]))
		}
		end += len(line)
	}
	return false, nil
}

// plan is how the copy differs from the instance.
func (s *stage) plan(ctx context.Context) (*Plan, error) {
	p := &Plan{Dir: s.real}
	for _, name := range files {
		c := Change{Path: filepath.Join(s.real, name)}
		var err error
		if c.Old, err = os.ReadFile(c.Path); err != nil {
			return nil, err
		}
		if c.New, err = s.text(name); err != nil {
			return nil, err
		}
		if !bytes.Equal(c.Old, c.New) {
			p.Changes = append(p.Changes, c)
		}
	}
	var err error
	p.After, err = readAs(ctx, s.dir, s.real)
	return p, err
}
