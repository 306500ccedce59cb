package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/plot"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutLimits = `Two providers of %d hosts each, %v away, where every host takes %d connections and answers one more
with a 421 banner; neither announces it, and all variants may open more (20 a destination, 100 when tuned). With two flights
a message, MAIL to DATA and content to the final reply, %.0f messages a second are *possible* at each. The second provider
punishes: every refusal is followed by a ban, the n-th of n times %v. For %v mail for both is injected at
a rate a third above the possible, so there is always a backlog. Goodput of the first seconds is how the limit is found;
the figures are of the second half. Refusals count from the start, the search included, which weighs the more the shorter
a round is: the marks are meant for 10 minutes (-limits 10m).`

const (
	limitedHosts       = 2
	limitedConnections = 6
	limitedRTT         = 100 * time.Millisecond
	limitedBan         = 5 * time.Second
	patientInjectors   = 50 // connections: enough while Postfix makes some of them wait

	// possibleRate is of each provider, in messages a second.
	possibleRate = limitedHosts * limitedConnections / (2 * float64(limitedRTT) / float64(time.Second))
)

// limitedNames are the providers.
var limitedNames = [2]string{"limited", "punishing"}

func limited() []sink.Provider {
	plain := sink.Behaviour{RTT: limitedRTT, HostConnections: limitedConnections}
	punishing := plain
	punishing.PenaltyEvery, punishing.PenaltyBan, punishing.PenaltyForget = 1, limitedBan, time.Hour
	return []sink.Provider{
		{Name: limitedNames[0], Domains: []string{"limited.test"}, Hosts: limitedHosts, Behaviour: plain},
		{Name: limitedNames[1], Domains: []string{"punishing.test"}, Hosts: limitedHosts, Behaviour: punishing},
	}
}

// fared is how a sender fared at a provider.
type fared struct {
	goodput []float64 // messages of each second
	refused float64   // connections, for each message accepted
	offered float64   // what was injected, as a share of the possible
}

// steady is the goodput of the second half, as a share of the possible.
func (f fared) steady() float64 {
	half := f.goodput[len(f.goodput)/2:]
	sum := 0.0
	for _, v := range half {
		sum += v
	}
	return sum / float64(len(half)) / possibleRate
}

// limitsRound is both providers.
type limitsRound [len(limitedNames)]fared

func (r limitsRound) String() string {
	return fmt.Sprintf("%s of the possible, %s refused; %s, %s where refusals are punished",
		percent(r[0].steady()), percent(r[0].refused), percent(r[1].steady()), percent(r[1].refused))
}

func limits(ctx context.Context, b *bench) ([]section, error) {
	var variants []variant[limitsRound]
	for _, c := range contenders(world{providers: limited()}) {
		variants = append(variants, variant[limitsRound]{c.name, func(ctx context.Context) (limitsRound, error) { return limitsOnce(ctx, b, c.world) }})
	}
	all, err := alternate(ctx, b, "Limits", variants, limitsRound.String)
	if err != nil {
		return nil, err
	}
	steady := func(i int) func(limitsRound) float64 { return func(r limitsRound) float64 { return r[i].steady() } }
	refused := func(i int) func(limitsRound) float64 { return func(r limitsRound) float64 { return r[i].refused } }
	t := table{title: "Against limits that are not announced", columns: []string{"", "injected / possible",
		"goodput / possible", "refused connections / message", "goodput / possible, punishing", "refused connections / message, punishing"}}
	for i, v := range variants {
		row := []string{v.name, over(all[i], func(r limitsRound) float64 { return r[0].offered }).cell(percent)}
		for k := range limitedNames {
			row = append(row, over(all[i], steady(k)).cell(percent), over(all[i], refused(k)).cell(percent2))
		}
		t.rows = append(t.rows, row)
	}
	s := section{
		title:  "Finding a limit",
		about:  fmt.Sprintf(aboutLimits, limitedHosts, limitedRTT, limitedConnections, possibleRate, limitedBan, b.limits),
		tables: []table{t},
		claims: []claim{
			steadyDrain.claim(over(all[2], steady(0))),
			refusedConnections.claim(over(all[2], refused(0))),
			refusedWherePunished.claim(over(all[2], refused(1))),
			{what: "goodput / possible where refusals are punished, with Millrace", got: over(all[2], steady(1))},
		},
		compared: []comparison{
			compare("goodput against a limit that is not announced, of the possible", all, func(r []limitsRound) string { return over(r, steady(0)).cell(percent) }),
			compare("the same where each refusal is punished longer", all, func(r []limitsRound) string { return over(r, steady(1)).cell(percent) }),
		},
	}
	for k, name := range limitedNames {
		s.plots = append(s.plots, chartFile{"goodput-" + name, goodputPlot("Goodput: the "+name+" provider", k, variants, all)})
	}
	return []section{s}, nil
}

// goodputPlot is the median of the rounds over time.
func goodputPlot(title string, provider int, variants []variant[limitsRound], all [][]limitsRound) plot.Chart {
	c := plot.Chart{Title: title, X: "seconds", Y: "messages/s"}
	end := 0.0
	for i, v := range variants {
		l := plot.Line{Name: v.name}
		n := len(all[i][0][provider].goodput)
		step := max(n/60, 1) // points are few enough to be seen
		for from := 0; from+step <= n; from += step {
			rate := over(all[i], func(r limitsRound) float64 {
				sum := 0.0
				for _, x := range r[provider].goodput[from : from+step] {
					sum += x
				}
				return sum / float64(step)
			})
			end = float64(from + step)
			l.Points = append(l.Points, plot.Point{X: end, Y: rate.median()})
		}
		c.Lines = append(c.Lines, l)
	}
	c.Lines = append(c.Lines, plot.Line{Name: "possible", Dashed: true, Points: []plot.Point{{X: 0, Y: possibleRate}, {X: end, Y: possibleRate}}})
	return c
}

// limitsOnce is a round of one variant.
func limitsOnce(ctx context.Context, b *bench, w world) (r limitsRound, err error) {
	h, err := start(ctx, w)
	if err != nil {
		return r, err
	}
	defer func() { err = joinClose(err, h) }()
	began := time.Now()
	window, cancel := context.WithTimeout(ctx, b.limits)
	defer cancel()
	rate := float64(len(limitedNames)) * possibleRate * 4 / 3
	g := &inject.Generator{Seed: 5, Domains: domainsOf(w.providers), MinSize: 4 << 10}
	in := &inject.Injector{Addr: h.Postfix.SMTPAddr(), Connections: patientInjectors, Rate: rate}
	// It is the window that ends it: there is more mail than time.
	run, _ := in.Run(window, math.MaxInt32, g.Message)
	<-window.Done()
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	stats := h.Internet.Stats()
	for i, name := range limitedNames {
		p := stats.Provider(name)
		r[i].offered = float64(run.Messages) / float64(len(limitedNames)) / (possibleRate * b.limits.Seconds())
		r[i].refused = float64(p.RefusedConnections()) / float64(max(p.Messages, 1))
		first := int(began.Sub(stats.Start).Seconds())
		r[i].goodput = make([]float64, int(b.limits.Seconds()))
		for k := range r[i].goodput {
			if at := first + k; at < len(p.PerSecond) {
				r[i].goodput[k] = float64(p.PerSecond[at])
			}
		}
	}
	return r, nil
}
