package agent_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace/"

// layers are the packages of the agent from the one that starts everything to those that
// know nothing of the others. Imports go downwards only: a package may import those of
// later lines, and of its own line none. doc.go draws them.
var layers = [][]string{
	{"agent"},
	{"agent/admin"},
	{"agent/watch"},
	{"agent/deliver"},
	{"agent/orders"},
	{"agent/settle"},
	{"agent/settings"},
	{"agent/metrics", "agent/web"},
	{"agent/history", "agent/postconf"},
	{"agent/event", "agent/queue", "agent/suppress"},
	{"agent/hosts", "agent/outcome", "agent/dsn", "agent/trace", "agent/smtp", "agent/route", "agent/control"},
	{"agent/config", "agent/spool", "agent/elastic", "agent/maillog", "agent/listen", "agent/route/sts", "agent/route/dane"},
	{"agent/durable", "agent/address", "agent/loop", "agent/printable", "agent/slots", "agent/transient"},
}

// nothing names packages that import none of ours, and why.
var nothing = map[string]string{
	"agent/hosts":   "contrib/sim calls hosts with it, without an agent",
	"agent/elastic": "a controller is pure, so that it can be simulated",
	"agent/spool":   "mail must be readable whatever else changes",
	"agent/durable": "it is a function of files",
}

// product are the folders of what is installed.
var product = []string{"agent", "milter", "cmd"}

// shown may be imported from contrib by the product: texts for admins, embedded.
var shown = []string{"contrib/postfix", "contrib/sendmail"}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	layer := make(map[string]int)
	for i, line := range layers {
		for _, p := range line {
			layer[p] = i
		}
	}
	seen := 0
	for from, list := range imports(t) {
		top, _, _ := strings.Cut(from, "/")
		if !slices.Contains(product, top) {
			continue
		}
		at, known := layer[from]
		if top == "agent" && !known {
			t.Errorf("%s has no place yet: give it one in layers", from)
		}
		seen++
		for _, to := range list {
			switch below, ok := layer[to]; {
			case strings.HasPrefix(to, "contrib/"):
				if !slices.Contains(shown, to) {
					t.Errorf("%s imports %s: the product carries nothing of the lab", from, to)
				}
			case nothing[from] != "" && layer[to] != len(layers)-1:
				t.Errorf("%s imports %s, and is to import none of ours: %s", from, to, nothing[from])
			case top == "agent" && !ok:
				t.Errorf("%s imports %s: the agent is imported by the programs, and not the other way", from, to)
			case top == "agent" && below <= at:
				t.Errorf("%s imports %s: imports go downwards in layers; move what both need below, or hand it over in a constructor", from, to)
			}
		}
	}
	if seen < len(layer) {
		t.Errorf("%d packages were looked at; layers has %d", seen, len(layer))
	}
}

// imports are our packages that each of our packages imports, tests apart.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != "..") {
				return fs.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		from := filepath.ToSlash(rel)
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		all[from] = append(all[from], []string{}...)
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ok := strings.CutPrefix(name, module); ok && !slices.Contains(all[from], to) {
				all[from] = append(all[from], to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
