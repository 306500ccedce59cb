package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

const aboutBlast = `%d bulk messages are injected at once: 60%% to a provider like Google (5 hosts, 20 connections
each, 30 ms away), 20%% like Outlook (2 hosts, 15 connections, 80 ms), 18%% like Yahoo (3 hosts, 10 connections,
30 ms, 20 messages a connection), 2%% to %d domains whose hosts take a connection and never say a word. Beside it go
%d transactional messages a second, one recipient each, to the first three. They always go through Postfix; with
Millrace the bulk does not. First, transactional mail is measured alone (*idle*) for %v.

Latency is from the moment a transactional message was due at the injector to its acceptance by the receiver.
A round is watched for %v and then ended, or ended as soon as everything that can arrive has; transactional mail
is sent until %v before the end, so each message is watched at least that long. What has not arrived by then counts as
*never*: Postfix alone takes far longer than a round for its bulk. Postfix and Millrace have their defaults, which are
20 sessions a destination in both%s.`

// blastRound is what a round measured of a variant.
type blastRound struct {
	idle, beside []time.Duration           // latencies of all transactional messages that were due, sorted
	reached      [len(blastShares)]float64 // seconds until blastShares of the bulk had arrived
	delivered    float64                   // share of the bulk at the end
	refused      int64                     // connections
	processes    int                       // most smtp(8) processes at a time
	connections  int                       // most connections at the receivers, summed over hosts
}

// blastShares are of the bulk that can arrive: what goes to hosts that hang
// cannot.
var blastShares = [3]float64{0.5, 0.9, 0.99}

func (r blastRound) String() string {
	return fmt.Sprintf("transactional p50 %s, p99 %s (idle %s, %s), bulk %s", seconds(quantile(r.beside, 0.5)), seconds(quantile(r.beside, 0.99)),
		seconds(quantile(r.idle, 0.5)), seconds(quantile(r.idle, 0.99)), percent(r.delivered))
}

func blast(ctx context.Context, b *bench) ([]section, error) {
	try := func(name string, postfix map[string]string, m *lab.MillraceOptions) variant[blastRound] {
		w := world{providers: blastProviders(), postfix: &lab.PostfixOptions{Extra: postfix}, millrace: m}
		return variant[blastRound]{name, func(ctx context.Context) (blastRound, error) { return blastOnce(ctx, b, w) }}
	}
	variants := []variant[blastRound]{
		try("Postfix alone", nil, nil),
		try("with Millrace", nil, &lab.MillraceOptions{}),
	}
	more := ""
	if b.tuned {
		more = "; *tuned* is 100 a destination, and 1,000 processes for Postfix alone"
		variants = append(variants,
			try("Postfix alone, tuned", map[string]string{"default_process_limit": "1000", "default_destination_concurrency_limit": "100"}, nil),
			try("with Millrace, tuned", nil, &lab.MillraceOptions{Set: map[string]string{"general.max_sessions": "100"}}))
	}
	found, err := alternate(ctx, b, "Blast", variants, blastRound.String)
	if err != nil {
		return nil, err
	}
	s := section{
		title: "Bulk blast beside transactional mail",
		about: fmt.Sprintf(aboutBlast, b.bulk, hangingDomains, transactionalRate, b.idle, b.window, b.tail(), more),
	}
	s.tables = []table{latencyTable(b, variants, found), bulkTable(variants, found)}
	s.claims = []claim{{
		what:  "p99 of transactional mail: beside the blast / idle, with Millrace",
		reach: "at most 1.5", got: besideIdle(found[1], 0.99), met: atMost(1.5),
	}}
	for i := 1; i < len(variants); i++ {
		s.claims = append(s.claims, claim{what: "p50 of transactional mail beside the blast: " + variants[i].name + " / Postfix alone",
			got: over(found[i], besideAt(0.5)).to(over(found[0], besideAt(0.5)))})
	}
	s.claims = append(s.claims, claim{
		what: "p99 of transactional mail: beside the blast / idle, Postfix alone", got: besideIdle(found[0], 0.99)})
	return []section{s}, nil
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
		columns: []string{"", "messages", "p50", "p95", "p99", fmt.Sprintf("not within %v", b.tail())},
	}
	row := func(name string, samples []time.Duration) {
		slices.Sort(samples)
		late := 0
		for _, d := range samples {
			if d > b.tail() {
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
			"refused connections", "smtp(8) processes, most", "connections, most"},
	}
	for i, v := range variants {
		row := []string{v.name}
		for k := range blastShares {
			row = append(row, over(found[i], func(r blastRound) float64 { return r.reached[k] }).cell(seconds))
		}
		t.rows = append(t.rows, append(row,
			over(found[i], func(r blastRound) float64 { return r.delivered }).cell(percent),
			over(found[i], func(r blastRound) float64 { return float64(r.refused) }).cell(count),
			over(found[i], func(r blastRound) float64 { return float64(r.processes) }).cell(count),
			over(found[i], func(r blastRound) float64 { return float64(r.connections) }).cell(count)))
	}
	return t
}
