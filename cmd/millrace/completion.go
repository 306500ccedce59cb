package main

import (
	"bufio"
	"cmp"
	"context"
	"embed"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/agent/printable"
)

//go:embed completion
var completions embed.FS

// completionCmd prints a shell's completion.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Help() string {
	return `Prints what lets a shell complete the verbs and flags of millrace, and, while the
agent runs, the names of streams, sites and queues; of these only those that no shell
takes for more than a name. The Debian package has it installed.

Examples:
  . <(millrace completion bash)
  millrace completion zsh >/usr/local/share/zsh/site-functions/_millrace
  millrace completion fish >~/.config/fish/completions/millrace.fish`
}

func (c *completionCmd) Run() error {
	script, err := completions.ReadFile("completion/millrace." + c.Shell)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(script)
	return err
}

// completeCmd is what the shells' completions run: it prints what may stand in the
// place of the last word, a line each, and after a tab what it means.
type completeCmd struct {
	Words []string `arg:"" optional:""`
}

// namesWithin is how long a shell waits for names from the agent.
const namesWithin = time.Second

func (c *completeCmd) Run(ctx context.Context, k *kong.Context, g *globals) error {
	ctx, cancel := context.WithTimeout(ctx, namesWithin)
	defer cancel()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, x := range complete(k.Model.Node, c.Words, func(kind, config string) []string {
		g.Config = cmp.Or(config, g.Config)
		return g.names(ctx, kind)
	}) {
		printable.Fprintf(out, "%s\t%s\n", x.text, x.help)
	}
	return nil
}

// candidate may stand in a word's place.
type candidate struct{ text, help string }

// complete says what may stand in the place of the last word. names is asked for what
// the agent or the configuration knows: streams, sites, queues.
func complete(node *kong.Node, words []string, names func(kind, config string) []string) (list []candidate) {
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "=" }) // bash has --flag = value
	if len(words) == 0 {
		return nil
	}
	last := words[len(words)-1]
	config, placed := "", 0 // the value of --config; how many arguments stand already
	var open *kong.Flag     // the one whose value comes next
	for _, w := range words[:len(words)-1] {
		switch name, value, given := strings.Cut(w, "="); {
		case open != nil:
			if open.Name == "config" {
				config = w
			}
			open = nil
		case strings.HasPrefix(w, "-"):
			if f := flagOf(node, name); f != nil && !given && !f.IsBool() {
				open = f
			} else if f != nil && f.Name == "config" {
				config = value
			}
		default:
			if child := childOf(node, w); child != nil {
				node, placed = child, 0
			} else {
				placed++
			}
		}
	}
	add := func(text, help string) {
		if strings.HasPrefix(text, last) {
			list = append(list, candidate{text, help})
		}
	}
	values := func(v *kong.Value, before string) {
		if v.Enum != "" {
			for _, x := range strings.Split(v.Enum, ",") {
				if x != "" {
					add(before+x, "")
				}
			}
			return
		}
		for _, x := range names(v.Name, config) {
			if isWord(x) {
				add(before+x, "")
			}
		}
	}
	if open != nil {
		values(open.Value, "")
		return list
	}
	if name, _, given := strings.Cut(last, "="); given && strings.HasPrefix(name, "-") {
		if f := flagOf(node, name); f != nil {
			values(f.Value, name+"=")
		}
		return list
	}
	if strings.HasPrefix(last, "-") {
		for n := node; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				if !f.Hidden {
					add("--"+f.Name, f.Help)
				}
			}
		}
		return list
	}
	for _, child := range node.Children {
		if !child.Hidden {
			add(child.Name, child.Help)
		}
	}
	if n := len(node.Positional); n > 0 && placed < n {
		values(node.Positional[placed], "")
	}
	return list
}

// isWord reports whether a name may become a word of a command line. Streams are named
// by the headers of mail, "$(reboot)" too, and each shell has its own rules for what is
// code, in quotes and out of them: a name is completed only if it means itself to every
// shell wherever it stands, and to the command, which takes a leading hyphen for a flag.
func isWord(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("._-+@:/,", c) >= 0:
		default:
			return false
		}
	}
	return name != ""
}

// flagOf finds a flag, "--name" or "-n", of a verb or of what it is part of.
func flagOf(node *kong.Node, word string) *kong.Flag {
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

func childOf(node *kong.Node, word string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == word || slices.Contains(child.Aliases, word) {
			return child
		}
	}
	return nil
}

// names are those that a flag or argument of the name may have; none if they cannot be
// asked for at the moment.
func (g *globals) names(ctx context.Context, kind string) (list []string) {
	cfg, _, err := g.Load()
	if err != nil {
		return nil
	}
	if kind == "queue" || kind == "name" { // of millrace set: a queue or a site
		list = []string{cfg.General.Name}
		for i := range cfg.Queues {
			list = append(list, cfg.Queues[i].Name)
		}
	}
	client, err := g.client()
	if err != nil {
		return list
	}
	switch kind {
	case "stream":
		streams, _ := client.Streams(ctx)
		for _, s := range streams {
			list = append(list, s.Name)
		}
	case "site", "name":
		if st, _ := client.Status(ctx); st != nil {
			for _, s := range st.Sites {
				list = append(list, s.Name)
			}
		}
	}
	return list
}
