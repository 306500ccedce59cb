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
	// After is the configuration as it will be.
	After *Postfix
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

// Apply changes the files, asks "postfix check" about them, and has a running
// Postfix read them. When the check fails all is put back as it was.
//
// Each file is replaced as a whole by a rename, master.cf after main.cf, so
// Postfix never reads half of one; a crash in between leaves Millrace without a
// hand-back port, which "millrace setup" mends when it is run again.
func (p *Plan) Apply(ctx context.Context) error {
	for i, c := range p.Changes {
		if _, err := os.Lstat(backup(c.Path)); errors.Is(err, fs.ErrNotExist) && !p.Restored {
			if err := replaceAs(backup(c.Path), c.Path, c.Old); err != nil {
				return err
			}
		}
		if err := c.Apply(c.Path); err != nil {
			return errors.Join(err, PutBack(p.Changes[:i]))
		}
	}
	if err := postfix(ctx, p.Dir, "check"); err != nil {
		return errors.Join(fmt.Errorf("postfix does not like it, and everything is as it was: %w", err), PutBack(p.Changes))
	}
	if postfix(ctx, p.Dir, "status") == nil {
		if err := postfix(ctx, p.Dir, "reload"); err != nil {
			return err
		}
	}
	if p.Restored {
		for _, name := range files {
			if err := os.Remove(backup(filepath.Join(p.Dir, name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
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

// replaceAs replaces a file by a rename; the new one has mode and owner of like.
func replaceAs(path, like string, content []byte) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
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

// postfix runs postfix(1); its words are the error's.
func postfix(ctx context.Context, dir, verb string) error {
	cmd := exec.CommandContext(ctx, "postfix", "-c", dir, verb)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("postfix -c %s %s: %w\n%s", dir, verb, err, bytes.TrimSpace(out))
	}
	return nil
}
