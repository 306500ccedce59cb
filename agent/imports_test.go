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
// later lines, and of its own line none.
var layers = [][]string{
	{"agent"},
	{"agent/admin"},
	{"agent/watch", "agent/deliver"},
	{"agent/assess", "agent/move", "agent/orders", "agent/settle"},
	{"agent/settings"},
	{"agent/metrics", "agent/web", "agent/outcomes", "agent/breaker", "agent/warmup", "agent/webhook", "agent/fleet"},
	{"agent/history", "agent/postconf", "agent/eventlog"},
	{"agent/fleet/marks", "agent/daily", "agent/dialogue", "agent/event", "agent/queue", "agent/suppress"},
	{"agent/manners", "agent/outcome", "agent/dsn", "agent/trace", "agent/smtp", "agent/route", "agent/control", "agent/fleet/peer", "agent/fleet/exchange"},
	{"agent/config", "agent/feedback", "agent/quotas", "agent/spool", "agent/elastic", "agent/maillog", "agent/listen", "agent/sites", "agent/route/sts", "agent/route/dane", "agent/fleet/lease", "agent/fleet/order"},
	{"agent/address", "agent/durable", "agent/loop", "agent/pools", "agent/printable", "agent/simulate", "agent/slots", "agent/transient", "agent/windows"},
}

// alone names packages that import none of ours but those of the last line, and why.
var alone = map[string]string{
	"agent/manners":     "how a host is spoken to depends on nothing else of the agent",
	"agent/elastic":     "a controller is pure, so that it can be simulated",
	"agent/fleet/lease": "who may use what is pure but for one file, so that it can be simulated",
	"agent/fleet/order": "what two nodes make of the same orders depends on nothing else",
	"agent/spool":       "mail must be readable whatever else changes",
	"contrib/inlet":     "it is embedded in the product, which carries nothing of the lab",
	"contrib/postfix":   "it is embedded in the product, which carries nothing of the lab",
	"contrib/sendmail":  "it is embedded in the product, which carries nothing of the lab",
}

// others are what the programs and the milter may import of the agent's packages and of
// each other's: the milter decides and spools, and does not know the agent.
var others = map[string][]string{
	"milter/inlet":         {"agent/address", "agent/config", "agent/trace", "milter", "milter/classify", "milter/wire"},
	"milter":               {"agent/config", "agent/feedback", "agent/maillog", "agent/spool", "agent/trace", "milter/classify", "milter/wire"},
	"milter/classify":      {"agent/address", "agent/config"},
	"milter/wire":          nil,
	"cmd/internal/program": {"agent/config", "agent/maillog", "agent/printable", "packaging/man/roff"},
	"cmd/millrace-milter":  {"agent/config", "agent/control", "agent/feedback", "agent/fleet/marks", "agent/spool", "cmd/internal/program", "milter", "milter/inlet"},
	"cmd/millrace-agent":   {"agent", "agent/config", "cmd/internal/program"},
	"cmd/millrace": {
		"agent/address", "agent/assess", "agent/config", "agent/control", "agent/daily", "agent/deliver", "agent/feedback", "agent/fleet", "agent/outcome", "agent/pools", "agent/postconf", "agent/printable", "agent/route",
		"agent/settings", "agent/spool",
		"cmd/internal/program", "contrib/inlet", "contrib/sendmail", "milter", "milter/classify",
	},
}

// shown may be imported from contrib by the agent: texts for admins, embedded.
var shown = map[string]bool{"agent/postconf contrib/postfix": true}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	layer := make(map[string]int)
	for i, line := range layers {
		for _, p := range line {
			layer[p] = i
		}
	}
	last := len(layers) - 1
	seen := 0
	for from, list := range imports(t) {
		allowed, listed := others[from]
		at, known := layer[from]
		why, solitary := alone[from]
		switch top, _, _ := strings.Cut(from, "/"); {
		case listed || known || solitary:
			seen++
		case top == "agent" || top == "milter" || top == "cmd":
			t.Errorf("%s has no place yet: give it one in layers or others", from)
			continue
		default:
			continue // of the lab and the packaging, which nothing here imports
		}
		for _, to := range list {
			below, ok := layer[to]
			switch {
			case solitary && (!ok || below != last):
				t.Errorf("%s imports %s, and may import nothing but the last line of layers: %s", from, to, why)
			case listed && !slices.Contains(allowed, to):
				t.Errorf("%s imports %s: that is not among what it may know (others)", from, to)
			case known && !ok && !shown[from+" "+to]:
				t.Errorf("%s imports %s: the agent knows neither the lab nor the programs that import it", from, to)
			case known && ok && below <= at:
				t.Errorf("%s imports %s: imports go downwards in layers; move what both need below, or hand it over in a constructor", from, to)
			}
		}
	}
	if want := len(layer) + len(others) + 3; seen != want {
		t.Errorf("%d packages were looked at, %d are listed", seen, want)
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
