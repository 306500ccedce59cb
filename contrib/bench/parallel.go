package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/plot"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutParallel = `One destination with two hosts at %v and no limits, and a backlog; the agent may have so many
sessions as the first column says. A session for each host is where a sender stops that opens one connection to
each server.`

const parallelRTT = 100 * time.Millisecond

// parallelSessions are the ceilings tried.
var parallelSessions = []int{1, 2, 4, 8, 16, 32, 64}

// parallel shows what more sessions than the destination has hosts bring.
func parallel(ctx context.Context, b *bench) ([]section, error) {
	s := section{
		title:  "More sessions than hosts",
		about:  fmt.Sprintf(aboutParallel, parallelRTT),
		tables: []table{{title: "Goodput", columns: []string{"sessions", "messages/s"}}},
	}
	var variants []variant[float64]
	for _, n := range parallelSessions {
		variants = append(variants, variant[float64]{strconv.Itoa(n), func(ctx context.Context) (float64, error) { return withSessions(ctx, b, n) }})
	}
	found, err := alternate(ctx, b, s.title, variants, func(v float64) string { return fmt.Sprintf("%.1f messages/s", v) })
	if err != nil {
		return nil, err
	}
	line, linear := plot.Line{Name: "measured"}, plot.Line{Name: "as many times one", Dashed: true}
	for i, n := range parallelSessions {
		goodput := series(found[i])
		s.tables[0].rows = append(s.tables[0].rows, []string{strconv.Itoa(n), goodput.cell(func(v float64) string { return fmt.Sprintf("%.1f", v) })})
		line.Points = append(line.Points, plot.Point{X: float64(n), Y: goodput.median()})
		linear.Points = append(linear.Points, plot.Point{X: float64(n), Y: float64(n) * series(found[0]).median()})
	}
	s.plots = []chartFile{{"goodput-over-sessions", plot.Chart{
		Title: fmt.Sprintf("Goodput to a destination of 2 hosts at %v", parallelRTT),
		X:     "sessions", Y: "messages/s", LogX: true, Lines: []plot.Line{line, linear},
	}}}
	perHost, most := series(found[1]), series(found[len(found)-1])
	s.claims = []claim{{what: fmt.Sprintf("goodput: %d sessions / one for each host", parallelSessions[len(parallelSessions)-1]), got: most.to(perHost)}}
	return []section{s}, nil
}

// withSessions is the goodput of a drain with at most so many sessions. The
// backlog is what some seconds are enough for.
func withSessions(ctx context.Context, b *bench, sessions int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	two := []sink.Provider{{Name: "two", Domains: []string{"two.test"}, Hosts: 2, Behaviour: sink.Behaviour{RTT: parallelRTT}}}
	h, err := start(ctx, world{providers: two, asleep: true, millrace: &lab.MillraceOptions{
		Set: map[string]string{"handback.relay": `"127.0.0.1:10626"`, "general.max_sessions": strconv.Itoa(sessions)}}})
	if err != nil {
		return 0, err
	}
	defer func() { err = joinClose(err, h) }()
	n := max(b.backlog/400, 10) * sessions
	if err := fill(ctx, h.Millrace.Spool(), &inject.Generator{Seed: 1, Domains: []string{"two.test"}, MinSize: 8 << 10}, n, &h.sent); err != nil {
		return 0, err
	}
	if err := h.Millrace.Agent.Start(ctx); err != nil {
		return 0, err
	}
	if err := h.arrived(ctx, n); err != nil {
		return 0, err
	}
	h.kill()
	return rateOf(h.Internet.Ledger()), h.agree()
}
