package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutThroughput = `Bulk messages to one recipient each, in %d domains, to receivers that take
everything at once. The first three are the whole way: from the first message injected
over %d connections to the 250 of the last one at a receiver, CPU time that of all processes of Postfix, milter
and agent. *agent, draining* finds %d messages in its spool when it starts and has at most %d sessions;
*smtp-source*, the load generator of Postfix, sends the same number of messages of the same size over as many
sessions to the same receivers; for these two the clock runs from the first message that arrives to the last.

Exim, OpenSMTPD and Sendmail are not among them: Sendmail delivers in processes that leave its process group, so their CPU
time cannot be counted as that of the others is; and Exim and OpenSMTPD, which start a delivery for each message or keep
a scheduler with limits of its own, would need to be set up for bulk mail by somebody who knows them as well as *Postfix tuned*
is known. A figure of a default that nobody would use is not fair.`

// whyDrain is what was found with perf(1) while the agent drained.
const whyDrain = `Two cores are busy with sender and receivers, so the rate follows from the CPU time a message. Half of the
agent's is what smtp-source does too, to write to and read from a socket. The rest is what that does not do: to read the message
from a disk (9%), write its outcome to the journal (6%) and a line to the log (11%), a Received field (5%), to give the disk back
what was sent (3%).`

// flow is what was measured of one way of getting messages to the receivers.
type flow struct {
	rate   float64 // messages a second
	each   cost    // CPU time a message
	memory float64 // of the milter, its peak resident set in octets; 0: not measured
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

// common is the size that most claims are about.
const common = 8 << 10

func throughputAt(ctx context.Context, b *bench, size int) (section, error) {
	var variants []variant[flow]
	for _, c := range b.senders() {
		variants = append(variants, variant[flow]{c.name, func(ctx context.Context) (flow, error) { return endToEnd(ctx, b, size, c.world) }})
	}
	variants = append(variants,
		variant[flow]{"agent, draining", func(ctx context.Context) (flow, error) { return drain(ctx, b, size, 0) }},
		variant[flow]{"smtp-source", func(ctx context.Context) (flow, error) { return smtpSource(ctx, b, size) }})
	title := fmt.Sprintf("Throughput, %d KB", size>>10)
	found, err := alternate(ctx, b, title, variants, flow.String)
	if err != nil {
		return section{}, err
	}
	s := section{
		title:  title,
		about:  fmt.Sprintf(aboutThroughput, bulkDomains, b.sessions, b.backlogOf(size), b.sessions),
		tables: []table{flowTable("agent or smtp-source", variants, found)},
	}
	shipped, with, agent, source := found[0], found[2], found[3], found[4]
	ratios := []series{
		over(with, flow.cpu).to(over(shipped, flow.cpu)),
		over(agent, flow.cpu).to(over(shipped, flow.cpu)),
		over(agent, flow.perSecond).to(over(source, flow.perSecond)),
	}
	if size == common {
		s.claims = []claim{wholeHostCPU.claim(ratios[0]), drainCPU.claim(ratios[1]), drainRate.claim(ratios[2]).because(whyDrain)}
		s.compared = []comparison{
			compare("messages/s, injection to remote 250, 8 KB", found, func(f []flow) string { return over(f, flow.perSecond).cell(count) }),
			compare("CPU of the whole host for such a message, ms", found, func(f []flow) string { return over(f, flow.cpu).cell(millis) }),
		}
	} else {
		s.claims = []claim{
			{what: "CPU a message, injection to remote 250: with Millrace / Postfix default", got: ratios[0]},
			{what: "CPU a message: agent, draining / Postfix default", got: ratios[1]},
			{what: "drain rate: agent / smtp-source", got: ratios[2]},
		}
	}
	s.claims = append(s.claims, claim{what: "messages/s, injection to remote 250: with Millrace / Postfix default",
		got: over(with, flow.perSecond).to(over(shipped, flow.perSecond))})
	return s, nil
}

func (f flow) perSecond() float64 { return f.rate }
func (f flow) cpu() float64       { return f.each.total().Seconds() }

func flowTable(sender string, variants []variant[flow], found [][]flow) table {
	t := table{title: "Rate, and CPU time a message", columns: []string{"", "messages/s", "CPU us, all", "Postfix", "milter", sender}}
	for i, v := range variants {
		part := func(of func(flow) time.Duration) string {
			return over(found[i], func(f flow) float64 { return secondsOrNone(of(f)) }).cell(micros)
		}
		t.rows = append(t.rows, []string{v.name, over(found[i], flow.perSecond).cell(count), over(found[i], flow.cpu).cell(micros),
			part(func(f flow) time.Duration { return f.each.postfix }),
			part(func(f flow) time.Duration { return f.each.milter }),
			part(func(f flow) time.Duration { return f.each.sender })})
	}
	return t
}

// senders are the contenders; Millrace has as many sessions as Postfix and
// smtp-source, for the four hosts of ideal are one site to it.
func (b *bench) senders() []contender {
	all := contenders(world{providers: ideal()})
	all[2].millrace = b.draining()
	return all
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
func endToEnd(ctx context.Context, b *bench, size int, w world) (f flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	h, err := start(ctx, w)
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, h) }()
	g := &inject.Generator{Seed: 1, Domains: domains(bulkDomains), MinSize: size}
	warm := b.warmUp()
	if err := h.inject(ctx, g.Message, 0, warm, b.sessions); err != nil {
		return f, err
	}
	if err := h.arrived(ctx, warm); err != nil {
		return f, err
	}
	began := time.Now()
	if err := h.inject(ctx, g.Message, warm, b.messages, b.sessions); err != nil {
		return f, err
	}
	if err := h.arrived(ctx, warm+b.messages); err != nil {
		return f, err
	}
	f.rate = float64(b.messages) / time.Since(began).Seconds()
	f.each = h.kill().per(warm + b.messages)
	return f, h.agree()
}
