package postconf

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Others are the further Postfix instances of the host, beside the one in dir, that the
// default one knows of (MULTI_INSTANCE_README). One that cannot be read is left out.
func Others(ctx context.Context, dir string) []*Postfix {
	path, err := findPostconf()
	if err != nil {
		return nil
	}
	var dirs []string
	// MAIL_CONFIG may say another default; the one of old knows the instances too.
	old, err := postconf(ctx, append(path[:1:1], "-d", "-h", "config_directory"))
	if err != nil {
		return nil
	}
	for _, def := range []string{os.Getenv("MAIL_CONFIG"), strings.TrimSpace(old)} {
		if _, err := os.Stat(filepath.Join(def, "main.cf")); def == "" || err != nil {
			continue // postconf waits a second before it says so
		}
		dirs = append(dirs, def)
		if more, err := postconf(ctx, append(path[:1:1], "-c", def, "-h", "multi_instance_directories")); err == nil {
			dirs = append(dirs, tokens(more)...)
		}
	}
	var all []*Postfix
	for _, d := range dirs {
		known := func(p *Postfix) bool { return SameDir(p.dir, d) }
		if SameDir(d, dir) || slices.ContainsFunc(all, known) {
			continue
		}
		if p, err := Read(ctx, d); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Dir is the configuration directory, as an admin names it.
func (p *Postfix) Dir() string { return p.dir }

// SameDir reports whether two names lead to one directory.
func SameDir(a, b string) bool {
	for _, d := range []*string{&a, &b} {
		if real, err := filepath.EvalSymlinks(*d); err == nil {
			*d = real
		}
	}
	return filepath.Clean(a) == filepath.Clean(b)
}
