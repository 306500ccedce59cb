package sim

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace/contrib/lab/plot"
)

// Row is what a kind came to over several seeds.
type Row struct {
	Kind   Kind
	Seeds  []*Result
	Worst  Figures  // each figure's worst
	Misses []string // of the worst
}

// NewRow runs a kind with n seeds from the first one on.
func NewRow(k Kind, first, n int) *Row {
	row := &Row{Kind: k}
	for i := range n {
		r := Run(k, uint64(first+i))
		row.Seeds = append(row.Seeds, r)
		if r.Broken != "" {
			row.Misses = append(row.Misses, r.Broken)
		}
	}
	row.Worst = worst(row.Seeds)
	row.Misses = append(row.Misses, k.Misses(&row.Worst)...)
	return row
}

func worst(list []*Result) Figures {
	w := list[0].Figures
	for _, r := range list[1:] {
		f := &r.Figures
		w.Goodput, w.Fairness = min(w.Goodput, f.Goodput), min(w.Fairness, f.Fairness)
		w.Refusals, w.Late = max(w.Refusals, f.Refusals), max(w.Late, f.Late)
		w.Start, w.Recovery = max(w.Start, f.Start), max(w.Recovery, f.Recovery)
		w.Host, w.HostAlone = max(w.Host, f.Host), min(w.HostAlone, f.HostAlone)
		w.Quiet = max(w.Quiet, f.Quiet)
	}
	return w
}

// median is the run whose goodput is the median, for a picture.
func (r *Row) median() *Result {
	list := slices.Clone(r.Seeds)
	slices.SortFunc(list, func(a, b *Result) int { return cmp.Compare(a.Goodput, b.Goodput) })
	return list[len(list)/2]
}

// columns of a report. Goodput and start are rounded so that a change of the
// order of two events does not show.
var columns = [...]string{"kind", "goodput", "refused", "refused later", "90% after", "recovery", "fairness", "host refused"}

// cells are the worst figures in words; "-" where a figure does not apply.
func (r *Row) cells() []string {
	f, k := &r.Worst, &r.Kind
	cells := []string{
		k.Name, fmt.Sprintf("%.0f%%", 100*f.Goodput), percent(f.Refusals), percent(f.Late), "-", "-", "-", "-",
	}
	if !math.IsInf(f.Start, 1) {
		cells[4] = fmt.Sprintf("%.0f", f.Start)
	}
	if k.Lifted > 0 {
		cells[5] = fmt.Sprintf("%.0f s of %.0f s", f.Recovery, f.Allowed)
	}
	if k.sources() > 1 {
		cells[6] = fmt.Sprintf("%.2f", f.Fairness)
	}
	if k.HostEvery > 0 {
		cells[7] = percent(f.Host)
	}
	return cells
}

func percent(share float64) string { return fmt.Sprintf("%.2f%%", 100*share) }

// WriteTable writes rows for a terminal, with the marks that are missed.
func WriteTable(w io.Writer, rows []*Row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns[:], "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r.cells(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		for _, m := range r.Misses {
			if _, err := fmt.Fprintf(w, "MISSED %s: %s\n", r.Kind.Name, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteMarkdown writes rows for a report, with what other marks a kind has and why.
func WriteMarkdown(w io.Writer, rows []*Row) error {
	_, err := fmt.Fprintf(w, "| %s | |\n%s\n", strings.Join(columns[:], " | "), strings.Repeat("|---", len(columns)+1)+"|")
	for _, r := range rows {
		note := strings.Join(r.Misses, "; ")
		if note == "" {
			note = r.Kind.Marks.Why
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "| %s | %s |\n", strings.Join(r.cells(), " | "), note)
		}
	}
	return err
}

// Chart is a picture of a row: sessions, goodput and refusals over time.
func (r *Row) Chart() *plot.Chart {
	lines := []plot.Line{{Name: "sessions"}, {Name: "wanted"}, {Name: "messages/s"}, {Name: "possible", Dashed: true}, {Name: "refusals/s"}}
	samples := r.median().Samples
	step := max(1, len(samples)/300) // no more than can be seen
	for from := 0; from+step <= len(samples); from += step {
		var y [5]float64
		for _, s := range samples[from : from+step] {
			for i, v := range []float64{float64(s.Live), float64(s.Wanted), float64(s.Done), s.Possible, float64(s.Refused)} {
				y[i] += v / float64(step)
			}
		}
		for i := range lines {
			lines[i].Points = append(lines[i].Points, plot.Point{X: float64(from), Y: y[i]})
		}
	}
	return &plot.Chart{Title: r.Kind.Name, X: "seconds", Y: "sessions, messages/s", Lines: lines}
}
