package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// How much of one node's goodput three must have together, by limit.
var wanted = map[int]float64{2: 0.85, 10: 0.95, 40: 0.95}

const (
	rampUp   = 90 * time.Second // in which sessions must have grown to the limit
	loneTime = 25 * time.Second // over which one node's goodput is measured
)

// share measures what one node makes of the receivers, and then that three make as much of them
// together and never have more connections; meanwhile demand for another receiver moves from
// node to node.
func (w *world) share(ctx context.Context) error {
	if err := w.alone(ctx); err != nil {
		return err
	}
	if err := w.startNodes(ctx); err != nil {
		return err
	}
	w.say("All three have mail for receivers that allow 2, 10 and 40 connections in all; shared = true.")
	w.feed(ctx, w.nodes, steady...)
	began := w.traffic.now()
	w.grow(ctx, steady)
	from := w.traffic.now()
	moved := make(chan error, 1)
	go func() { moved <- w.demand(ctx) }()
	err := w.watch(ctx, w.measure, steady...)
	to := w.traffic.now()
	if err := errors.Join(err, <-moved); err != nil {
		return err
	}
	w.limits("share", began, w.traffic.now(), receivers...)
	for _, r := range steady {
		all, lone := w.traffic.goodput(r.name, from, to), w.lone[r.name]
		w.claim("share", all >= wanted[r.limit]*lone, fmt.Sprintf("limit %d: goodput of three nodes is at least %.0f%% of one's", r.limit, 100*wanted[r.limit]),
			"%.2f/s of %.2f/s: %.1f%%", all, lone, 100*all/lone)
	}
	return nil
}

// grow waits until the connections have grown to the limits, or for as long as that may take.
func (w *world) grow(ctx context.Context, list []receiver) {
	took, ok := w.await(ctx, rampUp, func() bool {
		for _, r := range list {
			if w.traffic.connections("", r.name) < r.limit*9/10 {
				return false
			}
		}
		return true
	})
	var b []string
	for _, r := range list {
		b = append(b, fmt.Sprintf("%s %d of %d", r.name, w.traffic.connections("", r.name), r.limit))
	}
	if ok {
		w.say("  after %.0f s: %s", took.Seconds(), strings.Join(b, ", "))
	} else {
		w.say("  after %.0f s still fewer connections than the limits allow: %s", took.Seconds(), strings.Join(b, ", "))
	}
}

// alone measures one node of no fleet, and lets its mail out.
func (w *world) alone(ctx context.Context) error {
	w.say("One node of no fleet, with the same limits: what can be had.")
	m, err := w.machine(ctx, "lone", 10)
	if err != nil {
		return err
	}
	n, err := w.run(ctx, m, 0, 0, nil)
	if err != nil {
		return err
	}
	w.feed(ctx, []*node{n}, steady...)
	began := w.traffic.now()
	w.grow(ctx, steady)
	from := w.traffic.now()
	if err := sleep(ctx, loneTime); err != nil {
		return err
	}
	to := w.traffic.now()
	w.halt()
	w.lone = make(map[string]float64)
	var b []string
	for _, r := range steady {
		w.lone[r.name] = w.traffic.goodput(r.name, from, to)
		b = append(b, fmt.Sprintf("%s %.2f/s", r.name, w.lone[r.name]))
	}
	w.say("  one node's goodput: %s", strings.Join(b, ", "))
	w.limits("share", began, to, steady...)
	if err := w.drain(ctx, n); err != nil {
		return err
	}
	return n.millrace.Agent.Stop()
}

// demand moves the demand for one receiver: all of it is a's, then c has some too, and then c
// has none again. Floors are lent to nobody, so what moves is what is above them.
func (w *world) demand(ctx context.Context) error {
	const within = 10 * time.Second
	a, c := w.nodes[0], w.nodes[2]
	r := moving
	floor := r.limit / fleetSize
	open := func(n *node) int { return w.traffic.connections(n.name, r.name) }
	if err := a.give(ctx, &w.sent, r.name, 400); err != nil {
		return err
	}
	// A controller that has never met the receiver grows by its replies, in a fleet or not.
	alone := r.limit - (fleetSize-1)*floor
	took, ok := w.await(ctx, rampUp, func() bool { return open(a) >= alone })
	w.claim("demand", ok, fmt.Sprintf("limit %d: who alone has mail gets all but the others' floors, %d", r.limit, alone), "%s after %.1f s, its own growth in it", w.shares(r), took.Seconds())
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	w.say("  c gets mail for a receiver of %d, of which a has all that is lent", r.limit)
	const some = 40
	if err := c.give(ctx, &w.sent, r.name, some); err != nil {
		return err
	}
	took, ok = w.await(ctx, rampUp, func() bool { return open(c) > floor && open(a) < alone })
	w.claim("demand", ok && took <= within, "shares follow new demand within 10 s", "%s after %.1f s", w.shares(r), took.Seconds())
	if _, ok := w.await(ctx, rampUp, func() bool { return c.waiting(w.traffic, r.name) == 0 }); !ok {
		return fmt.Errorf("c's %d messages for %s are not out: %d wait", some, r.name, c.waiting(w.traffic, r.name))
	}
	gone := w.traffic.last(func(x *arrival) bool { return x.of == c.name && x.receiver == r.name })
	_, ok = w.await(ctx, rampUp, func() bool { return open(a) >= alone })
	took = w.traffic.now() - gone
	w.claim("demand", ok && took <= within, "what nobody wants any more goes back within 10 s", "%s after %.1f s", w.shares(r), took.Seconds())
	return nil
}

// load is the machine's load: over 1, 5 and 15 minutes.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(b)); err == nil && len(f) > 3 {
		return strings.Join(f[:3], " ")
	}
	return "unknown"
}
