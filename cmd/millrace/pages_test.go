package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/cmd/internal/program"
)

// nodes are all that --help can be asked of.
func nodes(n *kong.Node) (list []*kong.Node) {
	if n.Hidden {
		return nil
	}
	list = append(list, n)
	for _, child := range n.Children {
		list = append(list, nodes(child)...)
	}
	return list
}

// path is how a verb is called, without the program's name.
func path(n *kong.Node) []string {
	if n.Parent == nil {
		return nil
	}
	return append(path(n.Parent), n.Name)
}

// words are those of a text, with a blank between each two.
func words(s string) string { return " " + strings.Join(strings.Fields(s), " ") + " " }

// manualWords are the words of our manual page.
func manualWords(t *testing.T) string {
	t.Helper()
	var page bytes.Buffer
	program.WriteManual(&page, model(t), 1)
	text := regexp.MustCompile(`(?m)^\.(B|SH|SS) |^\.(TP|PP|IP|RE|RS 4|nf|fi)$`).ReplaceAllString(page.String(), "")
	return words(strings.NewReplacer(`\e`, `\`, `\-`, "-", `\(aq`, "'", `\(ha`, "^", `\(ga`, "`", `\(ti`, "~", `\&`, "").Replace(text))
}

// TestThePageHasWhatHelpSays compares what --help prints of each verb, paragraph by paragraph, with
// the manual page: that leaves nothing out, and --help, which reads its texts as doc comments are read,
// makes no list of what is none, and no link of a name in brackets.
func TestThePageHasWhatHelpSays(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	k, err := kong.New(&cli{}, kong.Name("millrace"), kong.Vars{"version": "", "config": "/nowhere"},
		kong.Writers(&out, &out), kong.Exit(func(int) {}), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		t.Fatal(err)
	}
	page := manualWords(t)
	compared := 0
	for _, n := range nodes(k.Model.Node) {
		out.Reset()
		k.Parse(append(path(n), "--help"))
		text, _, _ := strings.Cut(out.String(), "\n\nCommands:\n")
		for paragraph := range strings.SplitSeq(text, "\n\n") {
			if strings.HasPrefix(paragraph, "Usage:") {
				continue // the page's heading of the verb has more
			}
			paragraph = strings.TrimPrefix(strings.TrimPrefix(paragraph, "Arguments:\n"), "Flags:\n")
			compared++
			if !strings.Contains(page, words(paragraph)) {
				t.Errorf("millrace %s --help says what the page does not:\n%s", strings.Join(path(n), " "), paragraph)
			}
		}
	}
	if compared < 300 {
		t.Errorf("only %d paragraphs compared", compared)
	}
}

// called finds commands: in quotes, in bold, or at the beginning of a line that is set off.
var called = regexp.MustCompile("(?m)(?:[\"`(]|^\\.B \"?|^ {2,}|^\\t)millrace ([a-z][^\"`\n]*)")

// TestPagesNameWhatThereIs looks up the verbs and flags of all commands that are shown to
// admins: in --help, manual pages, the README, NEWS, alerts and examples.
func TestPagesNameWhatThereIs(t *testing.T) {
	t.Parallel()
	root := model(t)
	pages := map[string]string{}
	for _, n := range nodes(root) {
		pages["--help of "+strings.Join(path(n), " ")] = n.Help + "\n" + n.Detail
	}
	for _, dir := range []string{"README.md", "packaging", "contrib"} {
		err := filepath.WalkDir("../../"+dir, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(file, ".go") {
				return err
			}
			text, err := os.ReadFile(file)
			pages[file] = strings.NewReplacer(`\-`, "-", `\"`, `"`).Replace(string(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	for page, text := range pages {
		for _, m := range called.FindAllStringSubmatch(text, -1) {
			found++
			n := root
			command, _, _ := strings.Cut(m[1], "  ") // a remark stands behind
			for i, w := range strings.Fields(command) {
				if w == "|" || w == "#" || w == "&&" {
					break
				}
				w, _, _ = strings.Cut(w, "|") // list|test|replay
				if strings.HasPrefix(w, "--") {
					name, _, _ := strings.Cut(strings.TrimRight(w, ",.:;)"), "=")
					if name != "--help" && flagOf(n, name) == nil {
						t.Errorf("%s: %s is no flag of millrace %s: %s", page, name, n.Path(), m[0])
					}
					continue
				}
				child := childOf(n, strings.TrimRight(w, ",.:;)"))
				if child == nil && (i == 0 || n.Type == kong.CommandNode && len(n.Children) > 0 && !slices.ContainsFunc(n.Children, func(c *kong.Node) bool { return c.Tag.Default != "" })) {
					t.Errorf("%s: millrace %s has no %s: %s", page, n.Path(), w, m[0])
					break
				}
				if child != nil {
					n = child
				}
			}
		}
	}
	if found < 150 {
		t.Errorf("only %d commands found", found)
	}
}
