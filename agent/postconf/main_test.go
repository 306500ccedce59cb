package postconf

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/tidy"
)

func TestMain(m *testing.M) {
	ask = remembered
	tidy.Main(m)
}

// answers are what postconf said of a configuration's texts, without the directory's name. A
// test reads each state of a host several times over, and starting postconf is what costs.
var answers sync.Map

// chosen are the parameters of main.cf that set-up reads one by one.
var chosen = []string{"smtpd_milters", "non_smtpd_milters", "in_flow_delay"}

// remembered runs postconf once for the same question about the same texts. One run tells all
// parameters that set-up reads, and for the defaults postconf reads no main.cf.
func remembered(ctx context.Context, args []string) (string, error) {
	i := slices.Index(args, "-c")
	if i < 0 {
		return postconf(ctx, args)
	}
	dir := args[i+1]
	var key strings.Builder
	for _, text := range args[i+2:] {
		key.WriteString(text + "\x00")
	}
	if asked := args[i+2:]; len(asked) == 2 && asked[0] == "-n" && slices.Contains(chosen, asked[1]) {
		said, err := remembered(ctx, slices.Concat(args[:i+3], chosen))
		for line := range strings.Lines(said) {
			if strings.HasPrefix(line, asked[1]+" =") {
				return line, err
			}
		}
		return "", err
	}
	those := files
	if slices.Contains(args, "-d") {
		those = []string{"master.cf"}
	}
	for _, name := range those {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil { // what postconf says of that is of interest
			return postconf(ctx, args)
		}
		key.WriteString(strings.ReplaceAll(string(text), dir, "\x01") + "\x00")
	}
	if said, ok := answers.Load(key.String()); ok {
		return strings.ReplaceAll(said.(string), "\x01", dir), nil
	}
	out, err := postconf(ctx, args)
	if err == nil {
		answers.Store(key.String(), strings.ReplaceAll(out, dir, "\x01"))
	}
	return out, err
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

// marked ends lines that end in a blank, which editors and git do not like.
func marked(text string) string { return strings.ReplaceAll(text, " \n", "␠\n") }

func keep(files []txtar.File, names ...string) (kept []txtar.File) {
	for _, f := range files {
		for _, n := range names {
			if f.Name == n {
				kept = append(kept, f)
			}
		}
	}
	return kept
}

// write does what Apply does but for asking postfix(1), which looks at queues.
func write(t *testing.T, p *Plan) {
	t.Helper()
	if _, err := p.write(); err != nil {
		t.Fatal(err)
	}
	settled(t, p.Dir)
}

func edit(t *testing.T, dir, name, more string) {
	t.Helper()
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(text, more...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	settled(t, dir)
}

// shown is the configuration as postconf -n and postconf -Mf show it.
func shown(t *testing.T, dir string) string {
	t.Helper()
	s := &stage{dir: dir, path: []string{"postconf"}}
	main, err := s.postconf(t.Context(), "-n")
	if err != nil {
		t.Fatal(err)
	}
	master, err := s.postconf(t.Context(), "-M", "-f")
	if err != nil {
		t.Fatal(err)
	}
	return main + master
}

// settled writes the files anew, as old as lab's: see WritePostfixConfig.
func settled(t *testing.T, dir string) {
	t.Helper()
	main, err := os.ReadFile(filepath.Join(dir, "main.cf"))
	if err != nil {
		t.Fatal(err)
	}
	master, err := os.ReadFile(filepath.Join(dir, "master.cf"))
	if err == nil {
		err = lab.WritePostfixConfig(dir, string(main), string(master))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
