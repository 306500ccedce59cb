package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/contrib/lab/plot"
)

// The files of a report.
const (
	reportFile = "report.md"
	resultFile = "result.json"
)

const quickWarning = "A quick run: it shows that the scenarios work. Its figures are no measurement."

// report is everything a run has found.
type report struct {
	machine  machine
	settings *settings
	start    time.Time
	sections []section
}

// section is what a scenario found: what was done, the figures, and the claims
// that rest on them.
type section struct {
	title  string
	about  string // paragraphs
	tables []table
	plots  []chartFile
	claims []claim

	compared []comparison
}

// chartFile is a chart in a file of its own beside the report.
type chartFile struct {
	name  string // of the file, without its ending
	chart plot.Chart
}

func (f *chartFile) file() string { return f.name + ".svg" }

func (f *chartFile) write(dir string) error {
	file, err := os.Create(filepath.Join(dir, f.file()))
	if err != nil {
		return err
	}
	return errors.Join(f.chart.Write(file), file.Close())
}

// table is text in cells.
type table struct {
	title   string
	columns []string // the first names the rows
	rows    [][]string
}

// claim is a ratio within a round, and what it ought to be.
type claim struct {
	what  string
	reach string // the wanted value in words; "" if there is none
	got   series
	met   func(median float64) bool
	why   string // what limits it, should it be missed
}

func (c claim) row() []string {
	if c.met == nil {
		return []string{c.what, c.got.cell(ratio), "-", "-"}
	}
	verdict := "yes"
	if math.IsNaN(c.got.median()) {
		verdict = "not measured"
	} else if c.missed() {
		verdict = "no"
	}
	return []string{c.what, c.got.cell(ratio), c.reach, verdict}
}

// because says what limits a claim, should it be missed.
func (c claim) because(why string) claim {
	c.why = why
	return c
}

// missed reports whether it was measured and is not what it ought to be.
func (c claim) missed() bool {
	m := c.got.median()
	return c.met != nil && !math.IsNaN(m) && !c.met(m)
}

func atMost(limit float64) func(float64) bool  { return func(m float64) bool { return m <= limit } }
func atLeast(limit float64) func(float64) bool { return func(m float64) bool { return m >= limit } }

// all gives the section's tables, that of its claims last.
func (s *section) all() []table {
	if len(s.claims) == 0 {
		return s.tables
	}
	t := table{title: "Ratios within a round", columns: []string{"ratio", "median (spread)", "to reach", "reached"}}
	for _, c := range s.claims {
		t.rows = append(t.rows, c.row())
	}
	return append(s.tables[:len(s.tables):len(s.tables)], t)
}

// text writes the section for a terminal.
func (s *section) text(w io.Writer) {
	fmt.Fprintf(w, "\n== %s\n", s.title)
	for _, t := range s.all() {
		fmt.Fprintf(w, "\n%s\n", t.title)
		t.text(w)
	}
}

func (t *table) text(w io.Writer) {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.columns}, t.rows...) {
		fmt.Fprintln(tab, "  "+strings.Join(row, "\t"))
	}
	tab.Flush()
}

// write writes report, plots and result into a directory.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	r.markdown(&text)
	err := os.WriteFile(filepath.Join(dir, reportFile), text.Bytes(), 0o644)
	for _, s := range r.sections {
		for _, p := range s.plots {
			err = errors.Join(err, p.write(dir))
		}
	}
	return errors.Join(err, r.result().write(dir))
}

// markdown writes the whole report.
func (r *report) markdown(w io.Writer) {
	fmt.Fprintf(w, "# Millrace benchmark\n\n%s, rounds: %d, in %v; `%s`\n\n", r.start.Format("2 January 2006 15:04 -0700"), r.settings.rounds,
		time.Since(r.start).Round(time.Second), r.settings.command())
	if r.settings.quick {
		fmt.Fprintf(w, "**%s**\n\n", quickWarning)
	}
	fmt.Fprint(w, "Figures are medians over the rounds, with the least and the most in brackets. ",
		"In every round each variant ran once, on programs started for it; absolute figures belong to this machine, ",
		"so what is claimed is the ratio of two variants within a round.\n\n", aboutVariants, "\n\n")
	r.machine.table().markdown(w)
	fmt.Fprint(w, "\n## Numbers to reach\n\n")
	numbersTable(r.sections).markdown(w)
	for _, s := range r.sections {
		for _, c := range s.claims {
			if c.missed() && c.why != "" {
				fmt.Fprintf(w, "\nNot reached: %s. %s\n", c.what, c.why)
			}
		}
	}
	for _, s := range r.sections {
		fmt.Fprintf(w, "\n## %s\n\n%s\n", s.title, s.about)
		for _, t := range s.all() {
			fmt.Fprintf(w, "\n%s:\n\n", t.title)
			t.markdown(w)
		}
		for _, p := range s.plots {
			fmt.Fprintf(w, "\n![%s](%s)\n", p.chart.Title, p.file())
		}
	}
}

func (t *table) markdown(w io.Writer) {
	escape := strings.NewReplacer("|", `\|`)
	line := func(cells []string) {
		fmt.Fprint(w, "|")
		for _, c := range cells {
			fmt.Fprintf(w, " %s |", escape.Replace(c))
		}
		fmt.Fprintln(w)
	}
	line(t.columns)
	fmt.Fprint(w, "|---|"+strings.Repeat("---:|", len(t.columns)-1)+"\n")
	for _, row := range t.rows {
		line(row)
	}
}
