package postconf

import (
	"context"
	"path/filepath"
	"strings"
)

// Others are the further Postfix instances of the host, beside the one in dir, that the
// default one knows of (MULTI_INSTANCE_README). One that cannot be read is left out.
func Others(ctx context.Context, dir string) []*Postfix {
	path, err := findPostconf()
	if err != nil {
		return nil
	}
	// Not MAIL_CONFIG: the default instance is the one that knows the others.
	def, err := postconf(ctx, append(path, "-h", "-d", "config_directory"))
	if err != nil {
		return nil
	}
	def = strings.TrimSpace(def)
	more, _ := postconf(ctx, append(path[:1:1], "-c", def, "-h", "multi_instance_directories")) // none is none
	var all []*Postfix
	for _, d := range append([]string{def}, tokens(more)...) {
		if SameDir(d, dir) {
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
