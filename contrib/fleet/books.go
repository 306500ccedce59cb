package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/repeats"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// drainTime is how long a node may take to send all that waits, once receivers answer at once.
const drainTime = 2 * time.Minute

// drain lets nodes send all that waits: receivers answer at once, but keep their limits.
func (w *world) drain(ctx context.Context, nodes ...*node) error {
	for _, r := range receivers {
		if err := w.Internet.Change(r.name, func(b *sink.Behaviour) { b.AcceptTime, b.RTT = 0, 0 }); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	var left []string
	flushed := time.Time{}
	err := lab.Until(ctx, func() (bool, error) {
		left = nil
		for _, n := range nodes {
			k, err := n.queued(ctx)
			if err != nil || k > 0 {
				left = append(left, fmt.Sprintf("%s: %d recipients (%v)", n.name, k, err))
			}
		}
		if time.Since(flushed) > 5*time.Second { // what was deferred is tried now
			flushed = time.Now()
			for _, n := range nodes {
				_, _ = n.command(ctx, "set", "--forget", "--all") // who was turned away waits for minutes else
				_, _ = n.client.Act(ctx, control.Action{Verb: control.VerbFlush, Filter: control.Filter{All: true}}, nil)
			}
		}
		return len(left) == 0, sleep(ctx, 200*time.Millisecond)
	})
	if err != nil {
		err = fmt.Errorf("not all mail is out after %v: %v", drainTime, left)
	}
	for _, r := range receivers {
		if e := w.Internet.Change(r.name, func(b *sink.Behaviour) { b.AcceptTime, b.RTT = acceptTime, rtt }); e != nil {
			return e
		}
	}
	return err
}

// books ends the flow of mail and holds what was sent against what came.
func (w *world) books(ctx context.Context) error {
	w.halt()
	w.wake()
	for _, n := range w.nodes { // a pause that could not be taken off where it should have been
		_, _ = n.command(ctx, "resume", "--user", mallory)
	}
	w.say("No more mail comes; the receivers answer at once now, and what waits goes out.")
	began := w.traffic.now()
	lost := "lost"
	if err := w.drain(ctx, w.nodes...); err != nil {
		w.claim("books", false, "all mail leaves the queues", "%v", err)
		lost = "lost or still queued"
	}
	w.limits("books", began, w.traffic.now(), ten, forty)
	w.fed.Lock()
	fed := w.fed.err
	w.fed.Unlock()
	if fed != nil {
		w.claim("books", false, "all mail could be given to the nodes", "%v", fed)
	}
	received := w.Internet.Ledger()
	report := ledger.Compare(&w.sent, received)
	w.claim("books", len(report.Lost) == 0 && report.Sent > 0, "nothing is lost", "%d sent, %d received, %s %d", report.Sent, report.Received, lost, len(report.Lost))
	w.claim("books", len(report.Altered)+len(report.Stray) == 0, "nothing is altered, nothing comes that was not sent", "altered %d, stray %d", len(report.Altered), len(report.Stray))
	w.traffic.mu.Lock()
	arrivals := slices.Clone(w.traffic.arrivals)
	w.traffic.mu.Unlock()
	x := repeats.Explain(repeats.Evidence{Sent: &w.sent, Received: received, Arrivals: arrivals})
	example := ""
	if len(x.Unlawful) > 0 {
		example = ": " + x.Unlawful[0]
	}
	w.claim("books", len(x.Unlawful) == 0 && x.Repeats <= w.crashed, "each copy too many is explained by the crash", "%d too many, %d transactions repeated, %d were cut; unexplained %d%s",
		report.Received-report.Sent+len(report.Lost), x.Repeats, w.crashed, len(x.Unlawful), example)
	return nil
}
