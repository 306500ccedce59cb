package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/sink"
	"github.com/millrace/millrace/contrib/sink/inject"
)

const aboutThroughput = `Bulk messages to one recipient each, in %d domains, to receivers that take
everything at once. *Postfix alone* and *with Millrace* are the whole way: from the first message injected
over %d connections to the 250 of the last one at a receiver, CPU time that of all processes of Postfix, milter
and agent. *agent, draining* finds %d messages in its spool when it starts and has at most %d sessions;
*smtp-source*, the load generator of Postfix, sends the same number of messages of the same size over as many
sessions to the same receivers; for these two the clock runs from the first message that arrives to the last.`

// flow is what was measured of one way of getting messages to the receivers.
type flow struct {
	rate float64 // messages a second
	each cost    // CPU time a message
}

func (f flow) String() string {
	return fmt.Sprintf("%.0f messages/s, CPU %v a message", f.rate, f.each.total().Round(time.Microsecond))
}

func throughput(ctx context.Context, b *bench) ([]section, error) {
	var all []section
	for _, size := range b.sizes {
		s, err := throughputAt(ctx, b, size)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func throughputAt(ctx context.Context, b *bench, size int) (section, error) {
	variants := []variant[flow]{
		{"Postfix alone", func(ctx context.Context) (flow, error) { return endToEnd(ctx, b, size, nil) }},
		{"with Millrace", func(ctx context.Context) (flow, error) { return endToEnd(ctx, b, size, b.draining()) }},
		{"agent, draining", func(ctx context.Context) (flow, error) { return drain(ctx, b, size) }},
		{"smtp-source", func(ctx context.Context) (flow, error) { return smtpSource(ctx, b, size) }},
	}
	title := fmt.Sprintf("Throughput, %d KB", size>>10)
	found, err := alternate(ctx, b, title, variants, flow.String)
	if err != nil {
		return section{}, err
	}
	s := section{
		title: title,
		about: fmt.Sprintf(aboutThroughput, bulkDomains, b.sessions, b.backlogOf(size), b.sessions),
		tables: []table{{title: "Rate, and CPU time a message", columns: []string{
			"", "messages/s", "CPU us, all", "Postfix", "milter", "agent or smtp-source"}}},
	}
	for i, v := range variants {
		s.tables[0].rows = append(s.tables[0].rows, []string{v.name,
			over(found[i], func(f flow) float64 { return f.rate }).cell(count),
			over(found[i], func(f flow) float64 { return f.each.total().Seconds() }).cell(micros),
			over(found[i], func(f flow) float64 { return secondsOrNone(f.each.postfix) }).cell(micros),
			over(found[i], func(f flow) float64 { return secondsOrNone(f.each.milter) }).cell(micros),
			over(found[i], func(f flow) float64 { return secondsOrNone(f.each.sender) }).cell(micros),
		})
	}
	rate := func(f flow) float64 { return f.rate }
	cpu := func(f flow) float64 { return f.each.total().Seconds() }
	alone, with, agent, source := found[0], found[1], found[2], found[3]
	s.claims = []claim{
		{what: "CPU a message, injection to remote 250: with Millrace / Postfix alone", reach: "at most 1", got: over(with, cpu).to(over(alone, cpu)), met: atMost(1)},
		{what: "CPU a message: agent, draining / Postfix alone", reach: "at most 1/20 = 0.05", got: over(agent, cpu).to(over(alone, cpu)), met: atMost(0.05)},
		{what: "drain rate: agent / smtp-source", reach: "at least 0.8", got: over(agent, rate).to(over(source, rate)), met: atLeast(0.8)},
		{what: "messages/s, injection to remote 250: with Millrace / Postfix alone", got: over(with, rate).to(over(alone, rate))},
	}
	return s, nil
}

func secondsOrNone(d time.Duration) float64 {
	if d == 0 {
		return math.NaN()
	}
	return d.Seconds()
}

// bulkDomains is over how many domains the messages are spread.
const bulkDomains = 50

func domains(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("d%d.example", i)
	}
	return all
}

// ideal is an internet that takes everything at once.
func ideal() []sink.Provider {
	return []sink.Provider{{Name: "ideal", Domains: []string{"*"}, Hosts: 4}}
}

// draining is a Millrace with as many sessions as the others.
func (b *bench) draining() *lab.MillraceOptions {
	return &lab.MillraceOptions{Set: map[string]string{"general.max_sessions": strconv.Itoa(b.sessions)}}
}

// backlogOf is how many messages of a size are drained: not more octets than
// the backlog has at 8 KB.
func (b *bench) backlogOf(size int) int {
	return max(min(b.backlog, b.backlog*(8<<10)/size), 1)
}

// warmUp is how many messages go first, so that processes and connections are
// there when the clock starts.
func (b *bench) warmUp() int { return min(200, b.messages) }

// endToEnd injects into Postfix and waits for the last message at its receiver.
func endToEnd(ctx context.Context, b *bench, size int, m *lab.MillraceOptions) (f flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	h, err := start(ctx, world{providers: ideal(), postfix: &lab.PostfixOptions{}, millrace: m})
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, h) }()
	g := &inject.Generator{Seed: 1, Domains: domains(bulkDomains), MinSize: size}
	warm := b.warmUp()
	if err := h.inject(ctx, g, 0, warm, b.sessions); err != nil {
		return f, err
	}
	if err := h.arrived(ctx, warm); err != nil {
		return f, err
	}
	began := time.Now()
	if err := h.inject(ctx, g, warm, b.messages, b.sessions); err != nil {
		return f, err
	}
	if err := h.arrived(ctx, warm+b.messages); err != nil {
		return f, err
	}
	f.rate = float64(b.messages) / time.Since(began).Seconds()
	f.each = h.kill().per(warm + b.messages)
	return f, h.agree()
}
