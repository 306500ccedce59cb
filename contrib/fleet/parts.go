package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// part is one scene, with the name by which it is chosen.
type part struct {
	name string
	show func(w *world, ctx context.Context) error
}

// parts are the scenes in their order. The one before the books ends with all nodes at work.
var parts = []part{
	{"share", (*world).share},     // three nodes share what one would have: limits, goodput, demand
	{"store", (*world).loseStore}, // the store is killed, comes back empty, stands still, fails over to an old copy
	{"stop", (*world).stopNode},   // a node stands still for two minutes, another cannot reach the store
	{"pause", (*world).pause},     // a pause on one node stops a user on all
	{"lose", (*world).loseNode},   // a node is lost, another one's mail moves
}

func names() []string {
	var list []string
	for _, p := range parts {
		list = append(list, p.name)
	}
	return list
}

// row is one claim.
type row struct {
	part, claim, figure string
	ok                  bool
}

var errFailed = errors.New("claims do not hold")

// claim checks one claim, and says so.
func (w *world) claim(part string, ok bool, claim, figure string, args ...any) {
	r := row{part, claim, fmt.Sprintf(figure, args...), ok}
	w.rows = append(w.rows, r)
	verdict := "holds"
	if !ok {
		verdict = "DOES NOT HOLD"
	}
	w.say("%s: %s (%s)", verdict, claim, r.figure)
}

// show shows the chosen parts, and then the books and the table.
func (w *world) show(ctx context.Context) error {
	if err := w.start(ctx); err != nil {
		return err
	}
	for _, p := range parts {
		if !slices.Contains(w.parts, p.name) {
			continue
		}
		fmt.Fprintln(w.out)
		err := p.show(w, ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			w.claim(p.name, false, "the part can be shown", "%v", err)
		}
	}
	fmt.Fprintln(w.out)
	if err := w.books(ctx); err != nil {
		return err
	}
	return w.table()
}

// table prints all claims with their figures.
func (w *world) table() error {
	failed := 0
	t := tabwriter.NewWriter(w.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\npart\tclaim\tfigure\t")
	for _, r := range w.rows {
		verdict := "holds"
		if !r.ok {
			verdict = "DOES NOT HOLD"
			failed++
		}
		figure, _, _ := strings.Cut(r.figure, "\n")
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.part, r.claim, figure, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "\n%d claims, %d do not hold; %s at this load: %s\n", len(w.rows), failed, w.traffic.now().Round(time.Second), load())
	if failed > 0 {
		return fmt.Errorf("%d of %d %w", failed, len(w.rows), errFailed)
	}
	return nil
}

// limits claims that at no moment of a time more connections were open than a limit and its excuses.
func (w *world) limits(part string, from, to time.Duration, list ...receiver) {
	for _, r := range list {
		p := w.traffic.peak(r.name, r.limit, from, to)
		figure := fmt.Sprintf("most at once %d", p.most)
		if p.excused > 0 {
			figure += fmt.Sprintf(", of which up to %d of transactions under way at the node stopped or cut off", p.excused)
		}
		if p.late > 0 {
			figure += fmt.Sprintf("; up to %d were too many only until the receiver had seen the end of others (%v)", p.late, freedLate)
		}
		if p.over > 0 {
			figure += fmt.Sprintf("; %d too many at %.1f s: %s", p.over, p.overAt.Seconds(), p.overWho)
		}
		if p.refusals > 0 {
			figure += fmt.Sprintf("; %d turned away", p.refusals)
		}
		w.claim(part, p.over <= 0 && p.most > 0, fmt.Sprintf("limit %d is kept at every moment", r.limit), "%s", figure)
	}
}
