package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/plot"
)

const aboutBlast = `%d bulk messages are injected at once: 60%% to a provider like Google (5 hosts, 20 connections
each, 30 ms away), 20%% like Outlook (2 hosts, 15 connections, 80 ms), 18%% like Yahoo (3 hosts, 10 connections,
30 ms, 20 messages a connection), 2%% to %d domains whose hosts take a connection and never say a word. Beside it go
%d transactional messages a second, one recipient each, to the first three. They always go through Postfix; with
Millrace the bulk does not. First, transactional mail is measured alone (*idle*) for %v.

Latency is from the moment a transactional message was due at the injector to its acceptance by the receiver.
A round is watched for %v and then ended, or ended as soon as everything that can arrive has; transactional mail
is sent until %v before the end, so each message is watched at least that long. What has not arrived by then counts as
*never*: Postfix alone takes far longer than a round for its bulk. *%s* is Postfix tuned that also has
a transport for the bulk alone, chosen by the sender, so that neither processes nor a destination's concurrency are shared.
Processes and memory are those of Postfix and Millrace, at their most; memory shared by processes counts once.`

// bulkApart is the fourth variant.
const bulkApart = "Postfix, bulk apart"

// apart is a tuned Postfix with a transport for the bulk.
func apart() *lab.PostfixOptions {
	o := tuned(map[string]string{"sender_dependent_default_transport_maps": "inline:{ {" + bulkSender + "=bulk:} }"})
	o.Master = []string{"bulk unix - - n - - smtp"}
	return o
}

// blastRound is what a round measured of a variant.
type blastRound struct {
	idle, beside []time.Duration // latencies of all transactional messages that were due, sorted
	bulk         []time.Duration // from the start until each bulk message that can arrive had, sorted
	refused      int64           // connections
	connections  int             // most connections at the receivers, summed over hosts
	most         load
}

// blastShares are of the bulk that can arrive: what goes to hosts that hang
// cannot.
var blastShares = [3]float64{0.5, 0.9, 0.99}

func (r blastRound) String() string {
	return fmt.Sprintf("transactional p50 %s, p99 %s (idle %s, %s), bulk %s", seconds(quantile(r.beside, 0.5)), seconds(quantile(r.beside, 0.99)),
		seconds(quantile(r.idle, 0.5)), seconds(quantile(r.idle, 0.99)), percent(arrivedOf(r.bulk)))
}

func blast(ctx context.Context, b *bench) ([]section, error) {
	all := contenders(world{providers: blastProviders()})
	all = append(all, contender{bulkApart, world{providers: blastProviders(), postfix: apart()}})
	var variants []variant[blastRound]
	for _, c := range all {
		variants = append(variants, variant[blastRound]{c.name, func(ctx context.Context) (blastRound, error) { return blastOnce(ctx, b, c.world) }})
	}
	found, err := alternate(ctx, b, "Blast", variants, blastRound.String)
	if err != nil {
		return nil, err
	}
	shipped, with := found[0], found[2]
	s := section{
		title:    "Bulk blast beside transactional mail",
		about:    fmt.Sprintf(aboutBlast, b.bulk, hangingDomains, transactionalRate, b.idle, b.window, b.tail, bulkApart),
		tables:   []table{latencyTable(b, variants, found), bulkTable(variants, found)},
		plots:    blastPlots(variants, found),
		claims:   []claim{transactionalBesideBlast.claim(besideIdle(with, 0.99))},
		compared: blastCompared(found),
	}
	for i, v := range variants {
		if i != 2 {
			s.claims = append(s.claims,
				claim{what: "p50 of transactional mail beside the blast: with Millrace / " + v.name, got: over(with, besideAt(0.5)).to(over(found[i], besideAt(0.5)))},
				claim{what: "p99 of transactional mail: beside the blast / idle, " + v.name, got: besideIdle(found[i], 0.99)})
		}
	}
	s.claims = append(s.claims, claim{what: "time to 90% of the bulk: with Millrace / Postfix default", got: over(with, bulkAt(0.9)).to(over(shipped, bulkAt(0.9)))})
	return []section{s}, nil
}

// blastCompared is the blast in README's table.
func blastCompared(found [][]blastRound) []comparison {
	cell := func(of func(blastRound) float64, format func(float64) string) func([]blastRound) string {
		return func(r []blastRound) string { return over(r, of).cell(format) }
	}
	return []comparison{
		compare("transactional mail beside a bulk blast: median", found, cell(besideAt(0.5), seconds)),
		compare("99% of it within", found, cell(besideAt(0.99), seconds)),
		compare("90% of the bulk delivered after", found, cell(bulkAt(0.9), seconds)),
		compare("connections that receivers refused", found, cell(func(r blastRound) float64 { return float64(r.refused) }, count)),
		compare("memory of all processes, MB", found, cell(func(r blastRound) float64 { return r.most.memory / 1e6 }, count)),
	}
}

// latencyPlot is the file of the plot that README shows.
const latencyPlot = "blast-latency"

func blastPlots(variants []variant[blastRound], found [][]blastRound) []chartFile {
	latency := plot.Chart{Title: "Transactional mail beside a bulk blast", X: "seconds from submission to delivery", Y: "delivered, %", LogX: true}
	bulk := plot.Chart{Title: "Bulk", X: "seconds from the first message injected", Y: "delivered, % of what can arrive"}
	var idle []time.Duration
	for i, v := range variants {
		var few, many []time.Duration
		for _, r := range found[i] {
			idle, few, many = append(idle, r.idle...), append(few, r.beside...), append(many, r.bulk...)
		}
		latency.Lines = append(latency.Lines, distribution(v.name, few, 1.0/16))
		bulk.Lines = append(bulk.Lines, distribution(v.name, many, 0))
	}
	quiet := distribution("no bulk", idle, 1.0/16)
	quiet.Dashed = true
	latency.Lines = append(latency.Lines, quiet)
	return []chartFile{{latencyPlot, latency}, {"blast-bulk", bulk}}
}

// distribution is a line of the share, in percent, that had come within so many
// seconds; what never came is in no point. Less than least is drawn as least:
// a logarithmic axis has to begin somewhere.
func distribution(name string, samples []time.Duration, least float64) plot.Line {
	slices.Sort(samples)
	l := plot.Line{Name: name}
	if least == 0 {
		l.Points = []plot.Point{{}}
	}
	for p := 1; p <= 100 && len(samples) > 0; p++ {
		if at := quantile(samples, float64(p)/100); !math.IsInf(at, 1) {
			l.Points = append(l.Points, plot.Point{X: max(at, least), Y: float64(p)})
		}
	}
	return l
}

// arrivedOf is the share of samples that came at all.
func arrivedOf(samples []time.Duration) float64 {
	i, _ := slices.BinarySearch(samples, never)
	return float64(i) / float64(max(len(samples), 1))
}

func bulkAt(q float64) func(blastRound) float64 {
	return func(r blastRound) float64 { return quantile(r.bulk, q) }
}

func besideAt(q float64) func(blastRound) float64 {
	return func(r blastRound) float64 { return quantile(r.beside, q) }
}

func besideIdle(rounds []blastRound, q float64) series {
	return over(rounds, besideAt(q)).to(over(rounds, func(r blastRound) float64 { return quantile(r.idle, q) }))
}

// latencyTable pools the samples of all rounds: a p99 wants many.
func latencyTable(b *bench, variants []variant[blastRound], found [][]blastRound) table {
	t := table{
		title:   "Latency of transactional mail, all rounds together",
		columns: []string{"", "messages", "p50", "p95", "p99", fmt.Sprintf("not within %v", b.tail)},
	}
	row := func(name string, samples []time.Duration) {
		slices.Sort(samples)
		late := 0
		for _, d := range samples {
			if d > b.tail {
				late++
			}
		}
		t.rows = append(t.rows, []string{name, fmt.Sprint(len(samples)), seconds(quantile(samples, 0.5)),
			seconds(quantile(samples, 0.95)), seconds(quantile(samples, 0.99)), fmt.Sprint(late)})
	}
	for i, v := range variants {
		var idle, beside []time.Duration
		for _, r := range found[i] {
			idle = append(idle, r.idle...)
			beside = append(beside, r.beside...)
		}
		row(v.name+", idle", idle)
		row(v.name+", beside the blast", beside)
	}
	return t
}

func bulkTable(variants []variant[blastRound], found [][]blastRound) table {
	t := table{
		title: "Bulk of a round; 50, 90, 99% of what can arrive",
		columns: []string{"", "50% after", "90% after", "99% after", "delivered at the end",
			"refused connections", "connections, most", "processes, most", "memory, MB"},
	}
	for i, v := range variants {
		row := []string{v.name}
		for _, share := range blastShares {
			row = append(row, over(found[i], bulkAt(share)).cell(seconds))
		}
		t.rows = append(t.rows, append(row,
			over(found[i], func(r blastRound) float64 { return arrivedOf(r.bulk) }).cell(percent),
			over(found[i], func(r blastRound) float64 { return float64(r.refused) }).cell(count),
			over(found[i], func(r blastRound) float64 { return float64(r.connections) }).cell(count),
			over(found[i], func(r blastRound) float64 { return float64(r.most.processes) }).cell(count),
			over(found[i], func(r blastRound) float64 { return r.most.memory / 1e6 }).cell(count)))
	}
	return t
}
