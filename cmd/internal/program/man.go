package program

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/packaging/man/roff"
)

// manual is the hidden flag --man: it prints the program's manual page, made of
// what --help says, so that the two cannot differ.
type manual bool

// BeforeReset is kong's hook of a flag that is given.
func (manual) BeforeReset(app *kong.Kong) error {
	section := 8
	if len(app.Model.Children) > 0 {
		section = 1 // a command with verbs is for people
	}
	WriteManual(app.Stdout, app.Model.Node, section)
	app.Exit(0)
	return nil
}

// WriteManual writes a manual page (man(7)) of a program or command.
func WriteManual(out io.Writer, n *kong.Node, section int) {
	w := roff.Writer{Out: out}
	w.Title(n.Name, section)
	w.Head("NAME")
	w.Text(n.Name + " - " + strings.TrimSuffix(firstLine(n.Help), "."))
	w.Head("SYNOPSIS")
	if len(n.Children) > 0 {
		w.Text(fmt.Sprintf("%s COMMAND [flags] ...", n.Name))
	} else {
		w.Text(n.Name + " [flags]")
	}
	w.Head("DESCRIPTION")
	w.Text(strings.TrimSpace(n.Help + "\n\n" + n.Detail))
	if len(n.Children) > 0 {
		w.Head("COMMANDS")
		commands(w, n.Children)
	}
	w.Head("FLAGS")
	flags(w, n.Flags)
	w.Head("FILES")
	w.Term("/etc/millrace/millrace.toml, /etc/millrace/conf.d/*.toml", "The configuration, millrace.toml(5).")
	w.Term("/var/spool/millrace", "The spool: mail that was diverted and is not delivered yet.")
	w.Head("EXIT STATUS")
	w.Term("0", "Done.")
	w.Term(strconv.Itoa(ExitFailure), "It failed; the reason is on standard error.")
	w.Term(strconv.Itoa(ExitUsage), "The command line is not understood.")
	if len(n.Children) > 0 {
		w.Term(strconv.Itoa(ExitTempFail), "Not all nodes of a fleet answered.")
	}
	w.Term(strconv.Itoa(ExitConfig), "The configuration cannot be used.")
	w.Head("SEE ALSO")
	w.Text("millrace(1), millrace.toml(5), millrace-events(5), millrace(7), millrace-fleet(7), millrace-agent(8), millrace-milter(8)")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// commands writes verbs, each with what those below it have in common before them.
func commands(w roff.Writer, list []*kong.Node) {
	for _, n := range list {
		if n.Hidden {
			continue
		}
		w.Sub(n.Summary())
		w.Text(n.Help)
		for _, arg := range n.Positional {
			w.Term(arg.Summary(), arg.Help)
		}
		flags(w, n.Flags)
		w.Text(n.Detail)
		commands(w, n.Children)
	}
}

// flags writes those without a group first, as --help does, then those of each group below its title.
func flags(w roff.Writer, list []*kong.Flag) {
	title := func(f *kong.Flag) string {
		if f.Group == nil {
			return ""
		}
		return f.Group.Title
	}
	titles := []string{""}
	for _, f := range list {
		if t := title(f); !slices.Contains(titles, t) {
			titles = append(titles, t)
		}
	}
	for _, t := range titles {
		w.Text(t)
		for _, f := range list {
			if f.Hidden || title(f) != t {
				continue
			}
			name := f.String()
			if f.Tag.Negatable != "" {
				name = strings.Replace(name, "--", "--[no-]", 1)
			}
			w.Term(name, f.Help)
		}
	}
}
