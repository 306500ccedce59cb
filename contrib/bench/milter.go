package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
)

const aboutMilter = `%d messages of %d KB, injected over %d connections, until Postfix has taken
the last one and its queue is empty. What Postfix delivers itself goes, in all variants, to its discard(8) daemon
under a transport that Millrace takes for a remote one, so that no delivery hides the cost of the filter, and
with in_flow_delay = 0, so that no client is made to wait a second. The
*null milter* says what Millrace says at the same place of the dialogue, and asks Postfix for nothing it
does not need for that: no header, no body; *reading* it has Postfix send both, and forgets them. *Accepted* is mail that is not bulk (ACCEPT at the end of the header);
*diverted* is bulk: DELRCPT of every recipient and ACCEPT at the end of the message, before which Millrace has written it
to its spool and synced it. The agent is not running.`

// whyMilter is what perf(1) and the table of this scenario showed.
const whyMilter = `The null milter of this number is not told header and body, and keeps nothing. Of the CPU time that a diverted
message costs Millrace's milter beyond that one's, half is to read header and body (see *reading*), and half to write them to
the spool and sync it; then the client waits for the disk before it has its answer. What did not help: waiting for company before
a sync (fewer syncs, as much CPU time), one processor for the Go runtime, less garbage collection.`

// discard is a Postfix that throws away what is left to it. The transport's
// name is one of those that mean "to its own domain" to the milter. Without
// in_flow_delay = 0 clients wait a whole second whenever they are ahead of the
// deliveries, and a round measures how often that happened.
func discard() *lab.PostfixOptions {
	return &lab.PostfixOptions{
		Extra:  map[string]string{"default_transport": "esmtp", "in_flow_delay": "0"},
		Master: []string{"esmtp unix - - n - - discard"},
	}
}

func milterOverhead(ctx context.Context, b *bench) ([]section, error) {
	mail := &inject.Generator{Seed: 2, Domains: domains(bulkDomains), MinSize: common, Transactional: 1}
	bulk := &inject.Generator{Seed: 2, Domains: domains(bulkDomains), MinSize: common}
	try := func(name string, g *inject.Generator, w world) variant[flow] {
		w.postfix = discard()
		return variant[flow]{name, func(ctx context.Context) (flow, error) { return hostRate(ctx, b, g, w) }}
	}
	ours := func() world { return world{millrace: &lab.MillraceOptions{}, asleep: true} }
	variants := []variant[flow]{
		try("no milter", mail, world{}),
		try("null milter, accepted", mail, world{null: nullAccept}),
		try("Millrace, accepted", mail, ours()),
		try("null milter, diverted", bulk, world{null: nullDivert}),
		try("null milter, diverted, reading", bulk, world{null: nullReadDivert}),
		try("Millrace, diverted", bulk, ours()),
	}
	found, err := alternate(ctx, b, "Milter", variants, flow.String)
	if err != nil {
		return nil, err
	}
	s := section{
		title:  "Milter",
		about:  fmt.Sprintf(aboutMilter, b.messages, common>>10, b.sessions),
		tables: []table{{title: "Rate of the host, and CPU time a message", columns: []string{"", "messages/s", "CPU us, all", "Postfix", "milter"}}},
	}
	rates := make([]series, len(variants))
	for i, v := range variants {
		rates[i] = over(found[i], func(f flow) float64 { return f.rate })
		s.tables[0].rows = append(s.tables[0].rows, []string{v.name, rates[i].cell(count),
			over(found[i], func(f flow) float64 { return f.each.total().Seconds() }).cell(micros),
			over(found[i], func(f flow) float64 { return f.each.postfix.Seconds() }).cell(micros),
			over(found[i], func(f flow) float64 { return secondsOrNone(f.each.milter) }).cell(micros),
		})
	}
	s.claims = []claim{
		{what: "messages/s, accepted: Millrace / null milter", reach: "at least 0.95", got: rates[2].to(rates[1]), met: atLeast(0.95)},
		milterRate.claim(rates[5].to(rates[3])).because(whyMilter),
		{what: "messages/s, diverted: Millrace / null milter, reading", got: rates[5].to(rates[4])},
		{what: "messages/s, accepted: Millrace / no milter", got: rates[2].to(rates[0])},
	}
	return []section{s}, nil
}

// hostRate injects until Postfix has nothing left to do.
func hostRate(ctx context.Context, b *bench, g *inject.Generator, w world) (f flow, err error) {
	deliveries := b.warmUp() + b.messages
	if g.Transactional == 0 {
		deliveries = 0
	}
	return hostRateOf(ctx, b, g.Message, deliveries, w)
}

// hostRateOf is hostRate of messages of which Postfix makes so many deliveries itself.
func hostRateOf(ctx context.Context, b *bench, message func(i int) *inject.Message, deliveries int, w world) (f flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	h, err := start(ctx, w)
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, h) }()
	warm := b.warmUp()
	if err := h.inject(ctx, message, 0, warm, b.sessions); err != nil {
		return f, err
	}
	if err := lab.Until(ctx, h.queueEmpty); err != nil {
		return f, err
	}
	began := time.Now()
	if err := h.inject(ctx, message, warm, b.messages, b.sessions); err != nil {
		return f, err
	}
	if err := lab.Until(ctx, h.queueEmpty); err != nil {
		return f, err
	}
	f.rate = float64(b.messages) / time.Since(began).Seconds()
	if err := h.wentItsWay(ctx, deliveries); err != nil {
		return f, err
	}
	f.each = h.kill().per(warm + b.messages)
	return f, nil
}

// wentItsWay waits until Postfix has logged as many deliveries as there should
// be: a rate of messages that went another way would mean nothing.
func (h *host) wentItsWay(ctx context.Context, deliveries int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	logged := 0
	err := lab.Until(ctx, func() (bool, error) {
		lines, err := h.Postfix.LogLines("status=sent")
		logged = len(lines)
		return logged >= deliveries, err
	})
	if err == nil && logged == deliveries {
		return nil
	}
	return errors.Join(err, fmt.Errorf("the host delivered %d messages itself, not %d", logged, deliveries))
}
