package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// The lease time of a grant, and the longest that a recovery of the store takes: what failures
// are held against.
const (
	lease    = 30 * time.Second
	recovery = 75 * time.Second
)

// ready has mail flow from all nodes at the limits.
func (w *world) ready(ctx context.Context) error {
	if err := w.startNodes(ctx); err != nil {
		return err
	}
	w.feed(ctx, w.nodes, steady...)
	w.grow(ctx, steady)
	return ctx.Err()
}

// floors are what nodes may have together of a limit while each has but its floor.
func floors(r receiver) int { return r.limit / fleetSize * fleetSize }

// loseStore shows what becomes of the limits and of the mail while the store is not there, or
// has forgotten what it granted.
func (w *world) loseStore(ctx context.Context) error {
	if err := w.ready(ctx); err != nil {
		return err
	}
	// The copy that the store will fail over to is of a time when a had all that is lent of one receiver.
	a, c := w.nodes[0], w.nodes[2]
	if n := a.waiting(w.traffic, moving.name); n < 300 {
		if err := a.give(ctx, &w.sent, moving.name, 300-n); err != nil {
			return err
		}
	}
	w.await(ctx, rampUp, func() bool { return w.traffic.connections(a.name, moving.name) > moving.limit/2 })
	if err := w.store.copy(); err != nil {
		return err
	}
	w.say("A copy of the store is kept. Then: %s.", w.shares(moving))

	w.say("The store is killed.")
	began := w.traffic.now()
	w.store.kill()
	if err := w.watch(ctx, lease+10*time.Second, ten, forty); err != nil {
		return err
	}
	w.limits("store killed", began, w.traffic.now(), steady...)
	for _, r := range []receiver{ten, forty} {
		now := w.traffic.now()
		got, may := w.traffic.goodput(r.name, now-10*time.Second, now), float64(floors(r))/pace
		w.claim("store killed", got >= 0.9*may, fmt.Sprintf("limit %d: each node goes on with its floor", r.limit), "%.2f/s, three floors make %.2f/s", got, may)
	}

	w.say("The store comes back empty.")
	began = w.traffic.now()
	if err := w.store.empty(); err != nil {
		return err
	}
	if err := w.store.start(ctx); err != nil {
		return err
	}
	if err := w.recovered(ctx, "store empty", began, steady...); err != nil {
		return err
	}

	w.say("The store stands still for 40 s.")
	began = w.traffic.now()
	if err := w.store.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if err := w.watch(ctx, 40*time.Second, ten, forty); err != nil {
		return err
	}
	if err := w.store.signal(syscall.SIGCONT); err != nil {
		return err
	}
	if err := w.recovered(ctx, "store paused", began, steady...); err != nil {
		return err
	}

	// Now a has no mail for the receiver of the copy, and c has what is lent of it. Then a wants what
	// it had by the copy.
	w.await(ctx, rampUp, func() bool { return a.waiting(w.traffic, moving.name) == 0 })
	if err := c.give(ctx, &w.sent, moving.name, 500); err != nil {
		return err
	}
	w.await(ctx, rampUp, func() bool { return w.traffic.connections(c.name, moving.name) > moving.limit/2 })
	if err := a.give(ctx, &w.sent, moving.name, 100); err != nil {
		return err
	}
	w.say("The store fails over to the copy of before. Now: %s.", w.shares(moving))
	began = w.traffic.now()
	w.store.kill()
	if err := w.store.restore(); err != nil {
		return err
	}
	if err := w.store.start(ctx); err != nil {
		return err
	}
	return w.recovered(ctx, "old copy", began, receivers...)
}

// pace is how long a message takes at a receiver, about, in seconds: its own time, and the flights of
// commands.
const pace = 1.04

// recovered waits until all of the limits that all nodes want is used again, and claims that, and that
// limits were kept since began.
func (w *world) recovered(ctx context.Context, part string, began time.Duration, list ...receiver) error {
	return w.usedAgain(ctx, part, began, steady, list)
}

// usedAgain is recovered, which waits for the receivers that are named first.
func (w *world) usedAgain(ctx context.Context, part string, began time.Duration, used, list []receiver) error {
	held := time.Duration(0) // since when all of it is used
	ok := false
	for from := w.traffic.now(); !ok && w.traffic.now()-from < recovery; {
		if err := w.watch(ctx, 5*time.Second); err != nil {
			return err
		}
		full := true
		for _, r := range used {
			full = full && w.traffic.connections("", r.name) >= r.limit-r.limit/20
		}
		switch now := w.traffic.now(); {
		case !full:
			held = 0
		case held == 0:
			held = now
		default:
			ok = now-held >= 5*time.Second
		}
	}
	now := w.traffic.now()
	w.limits(part, began, now, list...)
	var shares []string
	for _, r := range steady {
		shares = append(shares, w.shares(r))
	}
	after := "never"
	if ok {
		after = fmt.Sprintf("%.0f s after it began", (held - began).Seconds())
	}
	what := "all of the limits is used again"
	if len(used) < len(steady) {
		what = "all of the limits is used again, but for limit 2"
	}
	w.claim(part, ok, what, "%s; %s", after, strings.Join(shares, "; "))
	return nil
}

// stopNode has one node stand still for two minutes, and cuts another one off from the store
// meanwhile.
func (w *world) stopNode(ctx context.Context) error {
	if err := w.ready(ctx); err != nil {
		return err
	}
	b, c := w.nodes[1], w.nodes[2]
	w.say("Node c stands still (SIGSTOP) for two minutes. %s; %s.", w.shares(ten), w.shares(forty))
	if err := c.millrace.Agent.Freeze(ctx); err != nil {
		return err
	}
	began := w.traffic.now()
	const still = 2 * time.Minute
	// What it had under way stays open, as the receivers see it, until it goes on and ends it.
	w.traffic.excuse(excuse{node: c.name, at: began, until: began + still + 10*time.Second})
	if err := w.watch(ctx, lease+10*time.Second, ten, forty); err != nil {
		return err
	}
	// The receiver has turned away who came while c's were open, and is treated with care for a while.
	now := w.traffic.now()
	got, may := w.traffic.goodput(forty.name, now-8*time.Second, now), float64(forty.limit-w.traffic.connections(c.name, forty.name))/pace
	w.claim("stop", got >= 0.8*may, "the others go on with what the stopped node does not hold", "limit 40: %.2f/s of %.2f/s", got, may)

	w.say("Meanwhile node b and the store do not reach each other, for 45 s.")
	if err := b.machine.Cut(ctx, w.store.machine); err != nil {
		return err
	}
	cut := w.traffic.now()
	w.traffic.excuse(excuse{node: b.name, at: cut + lease, until: cut + lease + 10*time.Second})
	if err := w.watch(ctx, 45*time.Second, ten, forty); err != nil {
		return err
	}
	for _, r := range []receiver{ten, forty} {
		k := w.traffic.connections(b.name, r.name)
		w.claim("stop", k > 0 && k <= r.limit/fleetSize, fmt.Sprintf("limit %d: who cannot reach the store has its floor", r.limit), "b has %d, its floor is %d", k, r.limit/fleetSize)
	}
	if err := b.machine.Mend(ctx, w.store.machine); err != nil {
		return err
	}
	w.say("They reach each other again.")
	if err := w.watch(ctx, began+still-w.traffic.now(), ten, forty); err != nil {
		return err
	}
	w.say("Node c goes on.")
	if err := c.millrace.Agent.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	// At limit 2 the one connection that c held was half of the receiver: who was lent it was turned
	// away again and again, and treats the receiver with care for minutes, as a node of no fleet does.
	return w.usedAgain(ctx, "stop", began, []receiver{ten, forty}, steady)
}
