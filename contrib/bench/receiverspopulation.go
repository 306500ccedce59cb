package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/contrib/sim"
)

const aboutPopulation = `%d receivers that nobody chose, drawn from the seeds %d to %d of contrib/sim's population %q, met in
groups whose sum is less than half of the drain rate (%s). Each gets all its mail at the start, or %d messages a second where it
allows more. The share is of what the simulated sender that knows the receiver gets through with the same seed. Measured from
second %.0f to %.0f.`

// mostDrawn is how many messages a second a drawn receiver is offered that allows more.
const mostDrawn = 200

func populated(ctx context.Context, b *bench) (section, error) {
	law, word := sim.Ordinary, "ordinary"
	if b.hard {
		law, word = sim.Hard, "hard"
	}
	var list []*target
	for i := range b.population {
		seed := b.seed + uint64(i)
		k := law.Draw(seed)
		k.HostEvery = 0
		t := b.newTarget(k, fmt.Sprintf("s%d", seed), seed, mostDrawn)
		_, what, _ := strings.Cut((&sim.Met{Seed: seed, Kind: k}).String(), "| ")
		t.what = fmt.Sprintf("%d: %s", seed, what)
		list = append(list, t)
	}
	found, rates, err := b.meetAll(ctx, "Population", []string{ourselves}, list)
	if err != nil {
		return section{}, err
	}
	s := section{
		title:  "A population of receivers, " + word,
		about:  fmt.Sprintf(aboutPopulation, b.population, b.seed, b.seed+uint64(b.population)-1, word, rates, mostDrawn, b.learn.Seconds(), b.watched().Seconds()),
		tables: receiverTables([]string{ourselves}, list, found),
	}
	quantiles := func(figure func(met) float64, format func(float64) string) []string {
		var medians series
		for i := range list {
			medians = append(medians, at(found[0], i, figure).median())
		}
		slices.Sort(medians)
		q := func(share float64) string {
			return format(medians[min(len(medians)-1, int(share*float64(len(medians))))])
		}
		return []string{q(0), q(0.05), q(0.5), q(0.95), q(1)}
	}
	summary := table{title: "All of them", columns: []string{"", "least", "5%", "median", "95%", "most"}}
	for _, f := range []struct {
		what   string
		figure func(met) float64
		format func(float64) string
	}{{"goodput, of the possible", met.shared, hundredth}, {"connections refused", met.refusedOnly, percent2}, {"messages too fast", met.tooFastOnly, percent2}} {
		summary.rows = append(summary.rows, append([]string{f.what}, quantiles(f.figure, f.format)...))
	}
	s.tables = append([]table{summary}, s.tables...)
	return s, nil
}
