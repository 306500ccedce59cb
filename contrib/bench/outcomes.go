package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

const aboutOutcomes = `The agent drains a spool of %d messages of 8 KB, with and without [outcomes]: every attempt in a database,
and counts. CPU time is the agent's from its start until %v after the last message has arrived, so that all rows are written.`

// tookIn is how long the agent may take to have the last event in its database.
const tookIn = 4 * time.Second

// outcomesKept drains with and without outcomes.
func outcomesKept(ctx context.Context, b *bench) ([]section, error) {
	kept := func(m *lab.MillraceOptions) {
		m.Set["outcomes.keep"], m.Set["outcomes.keep_totals"] = `"7d"`, `"400d"`
	}
	variants := []variant[flow]{
		{"agent, draining", func(ctx context.Context) (flow, error) { return drain(ctx, b, common, tookIn) }},
		{"with outcomes", func(ctx context.Context) (flow, error) { return drain(ctx, b, common, tookIn, kept) }},
	}
	found, err := alternate(ctx, b, "Outcomes", variants, flow.String)
	if err != nil {
		return nil, err
	}
	return []section{{
		title:  "What it costs to keep what became of mail",
		about:  fmt.Sprintf(aboutOutcomes, b.backlogOf(common), tookIn),
		tables: []table{flowTable("agent", variants, found)},
		claims: []claim{
			{what: "CPU a message drained: with outcomes / without", reach: "at most 1.05", got: over(found[1], flow.cpu).to(over(found[0], flow.cpu)), met: atMost(1.05)},
			{what: "drain rate: with outcomes / without", reach: "at least 0.98", got: over(found[1], flow.perSecond).to(over(found[0], flow.perSecond)), met: atLeast(0.98)},
		},
	}}, nil
}
