package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// result is what README says of a report, in a file beside it.
type result struct {
	Rounds   int          `json:"rounds"`
	Quick    bool         `json:"quick"`
	Machine  machine      `json:"machine"`
	Compared []comparison `json:"compared"`
}

func (r *report) result() *result {
	x := &result{Rounds: r.settings.rounds, Quick: r.settings.quick, Machine: r.machine}
	for _, s := range r.sections {
		x.Compared = append(x.Compared, s.compared...)
	}
	return x
}

func (x *result) write(dir string) error {
	text, err := json.MarshalIndent(x, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, resultFile), append(text, '\n'), 0o644)
}

// What stands between these lines of README is written by [writeReadme].
const (
	readmeBegin = "<!-- written by go run ./contrib/bench -readme -->\n"
	readmeEnd   = "<!-- end -->\n"
)

// readmePlot is where README finds its plot, as seen from README's directory.
const readmePlot = "contrib/bench/" + latencyPlot + ".svg"

// writeReadme puts the comparisons of the reports in dirs into a README, and the plot of the first
// beside this program. The reports are of one commit on one machine; a scenario of an hour may have
// fewer rounds than the others.
func writeReadme(dirs []string, readme string) error {
	var list []result
	for _, dir := range dirs {
		r, err := readResult(dir)
		if err != nil {
			return err
		}
		list = append(list, r)
		for _, what := range []string{"Millrace", "CPU", "kernel"} {
			if a, b := list[0].Machine.value(what), r.Machine.value(what); a != b {
				return fmt.Errorf("%s: %s is %s, and %s in %s: run it again", filepath.Join(dir, resultFile), what, b, a, dirs[0])
			}
		}
	}
	plot, err := os.ReadFile(filepath.Join(dirs[0], latencyPlot+".svg"))
	if err != nil {
		return fmt.Errorf("run the scenario blast: %w", err)
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(old), readmeBegin)
	_, after, ends := strings.Cut(rest, readmeEnd)
	if !begins || !ends {
		return fmt.Errorf("%s has no lines %q and %q", readme, strings.TrimSpace(readmeBegin), strings.TrimSpace(readmeEnd))
	}
	return errors.Join(
		os.WriteFile(readme, []byte(before+readmeBegin+readmeText(list)+readmeEnd+after), 0o644),
		os.WriteFile(filepath.Join(filepath.Dir(readme), readmePlot), plot, 0o644))
}

// readResult reads the result of a report.
func readResult(dir string) (x result, err error) {
	text, err := os.ReadFile(filepath.Join(dir, resultFile))
	if err != nil {
		return x, err
	}
	if err := json.Unmarshal(text, &x); err != nil {
		return x, fmt.Errorf("%s: %w", filepath.Join(dir, resultFile), err)
	}
	if x.Quick {
		return x, fmt.Errorf("%s is of a quick run, whose figures are no measurement", filepath.Join(dir, resultFile))
	}
	return x, nil
}

// readmeText is what README has of reports; the machine is that of the first.
func readmeText(list []result) string {
	var b strings.Builder
	t := table{columns: []string{"", asShipped, asTuned, beside}}
	x := list[0]
	spread := "One round"
	if x.Rounds > 1 {
		spread = fmt.Sprintf("Medians of %d rounds, the least and the most in brackets", x.Rounds)
	}
	for _, r := range list {
		for _, c := range r.Compared {
			t.rows = append(t.rows, []string{c.What, c.Default, c.Tuned, c.With})
		}
		if r.Rounds != x.Rounds && len(r.Compared) > 0 {
			spread += fmt.Sprintf("; the rows from %d on: %s", len(t.rows)-len(r.Compared)+1, rounds(r.Rounds))
		}
	}
	b.WriteString("\n")
	t.markdown(&b)
	fmt.Fprintf(&b, "\n%s (*never*: not while it was watched; in the plot, *bulk apart* is tuned with a transport for the bulk alone); %s cores (%s), Linux %s, Postfix %s, spool and queues on %s.\n", spread,
		x.Machine.value("cores"), x.Machine.value("CPU"), strings.TrimPrefix(x.Machine.value("kernel"), "Linux "),
		x.Machine.value("Postfix"), x.Machine.value("file system of queues and spool"))
	fmt.Fprintf(&b, "\n![Share of transactional mail delivered within so many seconds, beside a bulk blast](%s)\n\n", readmePlot)
	return b.String()
}

func rounds(n int) string {
	if n == 1 {
		return "one round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// value is the machine's entry of a name.
func (m machine) value(name string) string {
	for _, f := range m {
		if f[0] == name {
			return f[1]
		}
	}
	return unknown
}
