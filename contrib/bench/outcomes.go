package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutOutcomes = `The agent drains a spool of messages of 8 KB, with and without [outcomes]: every attempt in a database,
and counts. *At its own pace*, %d messages go to receivers that take all at once, so that agent and receivers use the whole
machine, and whatever costs CPU time costs as much of the rate. *At the receivers' pace*, %d go to receivers that take %v
for each. CPU time is the agent's from its start until %v after the last message has arrived, so that all rows are written.`

const (
	// tookIn is how long the agent may take to have the last event in its database.
	tookIn = 4 * time.Second

	// paced is how long the receivers of an ordinary drain take for a message: two flights,
	// so that a hundred sessions get less than half of what this machine can.
	paced = 20 * time.Millisecond
)

// steady are receivers that take their time, whatever comes.
func steady() []sink.Provider {
	return []sink.Provider{{Name: "steady", Domains: []string{"*"}, Hosts: 4, Behaviour: sink.Behaviour{RTT: paced / 2}}}
}

// outcomesKept drains with and without outcomes.
func outcomesKept(ctx context.Context, b *bench) ([]section, error) {
	kept := func(m *lab.MillraceOptions) {
		m.Set["outcomes.keep"], m.Set["outcomes.keep_totals"] = `"7d"`, `"400d"`
	}
	all := b.backlogOf(common)
	some := max(all/5, 1)
	variants := []variant[flow]{
		{"at its own pace", func(ctx context.Context) (flow, error) { return drain(ctx, b, ideal(), all, common, tookIn) }},
		{"at its own pace, with outcomes", func(ctx context.Context) (flow, error) {
			return drain(ctx, b, ideal(), all, common, tookIn, kept)
		}},
		{"at the receivers' pace", func(ctx context.Context) (flow, error) { return drain(ctx, b, steady(), some, common, tookIn) }},
		{"at the receivers' pace, with outcomes", func(ctx context.Context) (flow, error) {
			return drain(ctx, b, steady(), some, common, tookIn, kept)
		}},
	}
	found, err := alternate(ctx, b, "Outcomes", variants, flow.String)
	if err != nil {
		return nil, err
	}
	s := section{
		title:  "What it costs to keep what became of mail",
		about:  fmt.Sprintf(aboutOutcomes, all, some, paced, tookIn),
		tables: []table{flowTable("agent", variants, found)},
	}
	for i := 0; i < len(variants); i += 2 {
		without, with := found[i], found[i+1]
		s.claims = append(s.claims,
			claim{what: variants[i].name + ", CPU a message drained: with outcomes / without", reach: "at most 1.05", got: over(with, flow.cpu).to(over(without, flow.cpu)), met: atMost(1.05)},
			claim{what: variants[i].name + ", drain rate: with outcomes / without", reach: "at least 0.98", got: over(with, flow.perSecond).to(over(without, flow.perSecond)), met: atLeast(0.98)},
		)
	}
	return []section{s}, nil
}
