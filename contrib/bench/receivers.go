package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/sim"
)

const aboutReceivers = `Ten ordinary receivers, each with limits of its own that it does not announce, all at once: in groups whose sum is
less than half of the slowest sender's drain rate (%s). Each host has a loopback address; a limit is per host unless the row says otherwise. A
message takes two round trips and the processing, half of it exponentially distributed. All mail waits in the queue when the clock starts, so
there is a backlog at each receiver all the time; where the receiver allows more than %d messages a second, so many a second arrive.
Millrace has ` + "`max_sessions = 200`" + ` and no host MTA before it. The share is of the *possible*: what a simulated sender gets through there that
knows all limits and meets the same noise (contrib/sim). Measured from second %.0f to %.0f.`

// crowds are the receivers that many domains lead to. Those of sim.Table have numbers.
func crowds() []scenarioPart {
	return []scenarioPart{{"shared", sharedHost}, {"joiners", joiners}, {"hostile", hostile}, {"backup", commonBackup}}
}

// scenarioPart is a section of the scenario.
type scenarioPart struct {
	name string
	run  func(context.Context, *bench) (section, error)
}

func crowdNames() (list []string) {
	for _, c := range crowds() {
		list = append(list, c.name)
	}
	return list
}

// ourselves is Millrace without a host MTA before it.
const ourselves = "Millrace"

// mostOffered is how many messages a second a receiver is offered that allows more.
const mostOffered = 80

// senders of the scenario, but those that -without leaves out.
func (b *bench) receiverSenders() []string {
	var list []string
	for name, words := range map[string][]string{ourselves: {"millrace"}, asShipped: {"default", "postfix"}, asTuned: {"tuned", "postfix"}} {
		if !slices.ContainsFunc(words, func(w string) bool { return slices.Contains(b.without, w) }) {
			list = append(list, name)
		}
	}
	slices.Sort(list) // Millrace first
	return list
}

// chosen says whether -receivers has it, or has nothing.
func (b *bench) chosen(name string) bool {
	return len(b.receivers) == 0 || slices.Contains(b.receivers, name)
}

func receivers(ctx context.Context, b *bench) (sections []section, err error) {
	if b.population > 0 {
		s, err := populated(ctx, b)
		return []section{s}, err
	}
	var list []*target
	for i, k := range sim.Table() {
		if b.chosen(strconv.Itoa(i + 1)) {
			list = append(list, b.newTarget(k, fmt.Sprintf("r%d", i+1), 1, mostOffered))
		}
	}
	if len(list) > 0 {
		s, err := ordinary(ctx, b, list)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s)
	}
	for _, c := range crowds() {
		if !b.chosen(c.name) {
			continue
		}
		s, err := c.run(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		sections = append(sections, s)
	}
	return sections, nil
}

// ordinary meets the receivers of the table.
func ordinary(ctx context.Context, b *bench, list []*target) (section, error) {
	names := b.receiverSenders()
	found, rates, err := b.meetAll(ctx, "Receivers", names, list)
	if err != nil {
		return section{}, err
	}
	s := section{
		title:  "Ten ordinary receivers",
		about:  fmt.Sprintf(aboutReceivers, rates, mostOffered, b.learn.Seconds(), (b.learn + b.measured).Seconds()),
		tables: receiverTables(names, list, found),
	}
	of := map[string][][]met{}
	for i, name := range names {
		of[name] = found[i]
	}
	if ours := of[ourselves]; ours != nil {
		least, most, behind := series{math.Inf(1)}, series{0}, series{math.Inf(-1)}
		for i := range list {
			share := at(ours, i, met.shared).median()
			least[0] = min(least[0], share)
			most[0] = max(most[0], at(ours, i, met.refusals).median())
			if tuned := of[asTuned]; tuned != nil {
				behind[0] = max(behind[0], at(tuned, i, met.shared).median()-share)
			}
		}
		s.claims = append(s.claims, receiversShare.claim(least), receiversRefused.claim(most))
		if of[asTuned] != nil {
			s.claims = append(s.claims, receiversBehind.claim(behind))
		}
	}
	if len(names) == 3 {
		cell := func(name string, figure func(met) float64, format func(float64) string) string {
			var medians series
			for i := range list {
				medians = append(medians, at(of[name], i, figure).median())
			}
			return medians.cell(format)
		}
		row := func(what string, figure func(met) float64, format func(float64) string) comparison {
			return comparison{what, cell(asShipped, figure, format), cell(asTuned, figure, format), cell(ourselves, figure, format)}
		}
		s.compared = []comparison{
			row(fmt.Sprintf("goodput at %d ordinary receivers at once, of the possible: the middle one (worst-best)", len(list)), met.shared, percent),
			row("refused there, for each message accepted", met.refusals, percent2),
		}
	}
	return s, nil
}

// at takes a figure of receiver i out of each round.
func at(rounds [][]met, i int, figure func(met) float64) series {
	return over(rounds, func(r []met) float64 { return figure(r[i]) })
}

// receiverTables has a row for each receiver, and of each figure a column for each sender.
func receiverTables(names []string, list []*target, found [][][]met) (tables []table) {
	figures := []struct {
		what   string
		figure func(met) float64
		format func(float64) string
	}{
		{"Goodput, of the possible", met.shared, hundredth},
		{"Connections refused, for each message accepted", met.refusedOnly, percent2},
		{"Messages refused for their rate, for each message accepted", met.tooFastOnly, percent2},
	}
	for _, f := range figures {
		t := table{title: f.what, columns: append([]string{"receiver", "possible a second"}, names...)}
		for i, x := range list {
			row := []string{x.what, figureOf(x.rate)}
			for n := range names {
				row = append(row, at(found[n], i, f.figure).cell(f.format))
			}
			t.rows = append(t.rows, row)
		}
		tables = append(tables, t)
	}
	if len(names) > 1 {
		return tables
	}
	one := table{title: names[0], columns: []string{"receiver", "possible a second", "goodput / possible", "connections refused / message", "too fast / message"}}
	for i := range list {
		one.rows = append(one.rows, append(tables[0].rows[i], tables[1].rows[i][2], tables[2].rows[i][2]))
	}
	return []table{one}
}

func hundredth(v float64) string { return fmt.Sprintf("%.2f", v) }

// parseReceivers reads the flags of the scenario.
func (s *settings) parseReceivers(receivers, without string) error {
	fields := func(text string) (list []string) {
		for f := range strings.SplitSeq(text, ",") {
			if f = strings.TrimSpace(f); f != "" {
				list = append(list, f)
			}
		}
		return list
	}
	s.receivers, s.without = fields(receivers), fields(without)
	for _, r := range s.receivers {
		n, err := strconv.Atoi(r)
		if (err != nil || n < 1 || n > len(sim.Table())) && !slices.Contains(crowdNames(), r) {
			return fmt.Errorf("-receivers: no %q; there are 1 to %d, %s", r, len(sim.Table()), strings.Join(crowdNames(), ", "))
		}
	}
	for _, w := range s.without {
		if !slices.Contains([]string{"millrace", "default", "tuned", "postfix"}, w) {
			return fmt.Errorf("-without: no %q; there are millrace, default, tuned, postfix", w)
		}
	}
	if s.population < 0 || s.learn < time.Second || s.measured < time.Second {
		return fmt.Errorf("-population must not be negative, -learn and -measure be at least a second")
	}
	return nil
}
