package postconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// Change is a file that is to be changed.
type Change struct {
	Path     string
	Old, New []byte // nil: there is no such file
}

// Plan is what setting up, or undoing it, would do to a Postfix instance.
type Plan struct {
	Dir     string // its configuration directory
	Changes []Change
	// Backups are kept when the plan is applied: the files as they were before
	// Millrace was set up. Restored says to remove them instead.
	Restored bool
	// Fresh says that nothing of Millrace was there: what lies in the backups' places is
	// of an earlier time, and gives way.
	Fresh bool
	// After is the configuration as it will be.
	After *Postfix
	// Reasons say why something is changed beside putting Millrace where it was not.
	Reasons []string
	// ByHand is what is left to the admin: what it would take, and why it is not
	// done here.
	ByHand []string
}

// backup is the name that a file has as it was before Millrace was set up. It lies
// beside the file, where only root writes.
func backup(path string) string { return path + ".before-millrace" }

// Diff shows the changes as diff -u does; "" if there are none.
func (p *Plan) Diff(ctx context.Context) (string, error) {
	var out strings.Builder
	for _, c := range p.Changes {
		text, err := c.Diff(ctx)
		if err != nil {
			return "", err
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

// Diff shows the change as diff -u does.
func (c *Change) Diff(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "millrace-setup-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "new")
	if err := os.WriteFile(file, c.New, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "diff", "-u", "--label", c.Path, "--label", c.Path+" (new)", "-", file)
	cmd.Stdin = bytes.NewReader(c.Old)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return "", fmt.Errorf("diff: %w", err)
	}
	return string(out), nil
}

// Apply changes the files, asks "postfix check" about them, has a running Postfix read
// them, and looks whether it does what was meant. Where not, all is put back as it was,
// and Postfix runs as it did. A Postfix that was stopped is neither started nor looked at.
//
// Each file is replaced as a whole by a rename, master.cf after main.cf, so
// Postfix never reads half of one; a crash in between leaves Millrace without a
// hand-back service, which "millrace setup" mends when it is run again.
func (p *Plan) Apply(ctx context.Context, c *config.Config) error {
	kept, err := p.write()
	if err != nil {
		return err
	}
	running := postfix(ctx, p.Dir, "status") == nil
	if err := postfix(ctx, p.Dir, "check"); err != nil {
		return p.takeBack(ctx, fmt.Errorf("postfix does not like it: %w", err), kept, false)
	}
	if running {
		err := postfix(ctx, p.Dir, "reload")
		if err == nil {
			err = p.look(ctx, c)
		}
		if err != nil {
			return p.takeBack(ctx, err, kept, true)
		}
	}
	if p.Restored {
		return p.forget(files)
	}
	return nil
}

// write keeps the files as they are, and writes them as they are to be. It returns the
// names of those that it kept. After an error all is as it was.
func (p *Plan) write() (kept []string, err error) {
	for i, c := range p.Changes {
		if !p.Restored {
			_, err = os.Lstat(backup(c.Path))
			if missing := errors.Is(err, fs.ErrNotExist); missing || err == nil && p.Fresh {
				err = replaceAs(backup(c.Path), c.Path, c.Old)
				kept = append(kept, filepath.Base(c.Path))
			}
		}
		if err == nil {
			err = c.Apply(c.Path)
		}
		if err != nil {
			return nil, errors.Join(err, PutBack(p.Changes[:i]), p.forget(kept))
		}
	}
	return kept, nil
}

// forget removes copies.
func (p *Plan) forget(names []string) (all error) {
	for _, name := range names {
		if err := os.Remove(backup(filepath.Join(p.Dir, name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// takeBack makes everything as it was because of an error, which it returns with what
// became of it. The copies stay until Postfix runs again.
func (p *Plan) takeBack(ctx context.Context, because error, kept []string, running bool) error {
	ctx = context.WithoutCancel(ctx) // an interrupt must not leave Postfix half way
	err := PutBack(p.Changes)
	if err == nil && running {
		err = p.runAgain(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w\nand it could not be taken back: %w\n%s", because, err, p.commands())
	}
	return errors.Join(fmt.Errorf("%w\neverything is as it was", because), p.forget(kept))
}

// commands are what an admin does who takes it back by hand.
func (p *Plan) commands() string {
	var copies []string
	for _, c := range p.Changes {
		if !p.Restored {
			copies = append(copies, fmt.Sprintf("cp %s %s", backup(c.Path), c.Path))
		}
	}
	first := ""
	if len(copies) > 0 {
		first = "the files as they were are kept beside them: " + strings.Join(copies, " && ") + "; then "
	}
	return fmt.Sprintf("%spostfix -c %s start, or reload if it runs", first, p.Dir)
}

// Apply writes or removes the file, if it is still as the change expects it. A new
// file gets owner and mode of like, and its directory if there is none.
func (c *Change) Apply(like string) error {
	now, err := os.ReadFile(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		now, err = nil, nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(now, c.Old) {
		return fmt.Errorf("%s has changed meanwhile", c.Path)
	}
	if c.New == nil {
		return os.Remove(c.Path)
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		return err
	}
	return replaceAs(c.Path, like, c.New)
}

// PutBack undoes changes.
func PutBack(changes []Change) (err error) {
	for _, c := range changes {
		back := Change{Path: c.Path, Old: c.New, New: c.Old}
		err = errors.Join(err, back.Apply(c.Path))
	}
	return err
}

// replaceAs replaces a file by a rename; the new one has mode and owner of like. A
// symbolic link stays, and what it points to is replaced.
func replaceAs(path, like string, content []byte) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(info.Mode().Perm()), chownAs(f, info), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
