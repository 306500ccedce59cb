// Package roff writes manual pages with the macros of man(7).
package roff

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Writer writes the macros of man(7).
type Writer struct{ Out io.Writer }

// Title begins a page.
func (w Writer) Title(name string, section int) {
	fmt.Fprintf(w.Out, ".TH %s %d %s \"Millrace\" \"Millrace\"\n.nh\n.ad l\n", escape(strings.ToUpper(name)), section, dated())
}

// Head begins a section, Sub a part of one.
func (w Writer) Head(title string) { fmt.Fprintf(w.Out, ".SH %s\n", escape(title)) }

// Sub begins a part of a section.
func (w Writer) Sub(title string) { fmt.Fprintf(w.Out, ".SS \"%s\"\n", escape(title)) }

// Term explains a term.
func (w Writer) Term(term, text string) {
	fmt.Fprintf(w.Out, ".TP\n.B %s\n", escape(term))
	w.lines(text, ".IP")
}

// Text writes paragraphs; lines that begin with blanks stand as they are.
func (w Writer) Text(text string) {
	if strings.TrimSpace(text) != "" {
		fmt.Fprintln(w.Out, ".PP")
		w.lines(text, ".PP")
	}
}

func (w Writer) lines(text, paragraph string) {
	shown := false
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		indented := strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "\t")
		switch {
		case strings.TrimSpace(line) == "":
			if shown {
				fmt.Fprintln(w.Out, ".RE\n.fi")
				shown = false
			}
			fmt.Fprintln(w.Out, paragraph)
			continue
		case indented && !shown:
			fmt.Fprintln(w.Out, ".RS 4\n.nf")
			shown = true
		case !indented && shown:
			fmt.Fprintln(w.Out, ".RE\n.fi")
			shown = false
		}
		fmt.Fprintln(w.Out, escape(strings.TrimPrefix(strings.TrimPrefix(line, "  "), "\t")))
	}
	if shown {
		fmt.Fprintln(w.Out, ".RE\n.fi")
	}
}

// dated is the day of a manual page: that of SOURCE_DATE_EPOCH, for builds that
// can be repeated, else today.
func dated() string {
	now := time.Now()
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		now = time.Unix(n, 0)
	}
	return now.UTC().Format(time.DateOnly)
}

// escape keeps text from being read as roff.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, `^`, `\(ha`, "`", `\(ga`, `~`, `\(ti`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}
