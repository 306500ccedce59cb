package program

import (
	"fmt"
	"io"
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
		for _, leaf := range n.Leaves(true) {
			w.Sub(leaf.Summary())
			w.Text(leaf.Help)
			flags(w, leaf.Flags)
			w.Text(leaf.Detail)
		}
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
	w.Term(strconv.Itoa(ExitConfig), "The configuration cannot be used.")
	w.Head("SEE ALSO")
	w.Text("millrace(1), millrace.toml(5), millrace(7), millrace-agent(8), millrace-milter(8)")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// flags explains those that are not hidden.
func flags(w roff.Writer, list []*kong.Flag) {
	for _, f := range list {
		if !f.Hidden {
			w.Term(f.String(), f.Help)
		}
	}
}
