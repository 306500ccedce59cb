package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// pause has an admin pause a user on one node, and then let him send again.
func (w *world) pause(ctx context.Context) error {
	if err := w.ready(ctx); err != nil {
		return err
	}
	a := w.nodes[0]
	w.say("millrace pause --user %s, on node a alone. A quarter of all mail is his.", mallory)
	told := w.traffic.now()
	said, err := a.command(ctx, "pause", "--user", mallory, "--reason", "his password was stolen")
	if err != nil {
		return err
	}
	w.say("  a, after %.1f s: %s", (w.traffic.now() - told).Seconds(), said)
	const (
		within = 2 * time.Second
		after  = 12 * time.Second
	)
	if err := sleep(ctx, after); err != nil {
		return err
	}
	// What was begun in time ends by itself: a receiver takes so long for a message.
	begun := time.Duration(pace*float64(time.Second)) + 100*time.Millisecond
	for _, n := range w.nodes {
		late := w.traffic.count(told+within+begun, told+after, func(x *arrival) bool { return x.user == mallory && x.by == n.name })
		last := w.traffic.last(func(x *arrival) bool { return x.user == mallory && x.by == n.name }) - told - begun
		others := w.traffic.count(told+within+begun, told+after, func(x *arrival) bool { return x.user == alice && x.by == n.name })
		w.claim("pause", late == 0 && others > 0, fmt.Sprintf("node %s begins nothing of his 2 s later", n.name), "%d messages of his later, the last begun %.1f s after the order; %d of others", late, max(0, last.Seconds()), others)
	}
	resumed := w.traffic.now()
	if _, err := w.nodes[1].command(ctx, "resume", "--user", mallory); err != nil {
		return err
	}
	w.say("millrace resume --user %s, on node b.", mallory)
	if err := sleep(ctx, 6*time.Second); err != nil {
		return err
	}
	for _, n := range w.nodes {
		came := w.traffic.count(resumed, w.traffic.now(), func(x *arrival) bool { return x.user == mallory && x.by == n.name })
		w.claim("pause", came > 0, fmt.Sprintf("node %s sends his mail again", n.name), "%d in 6 s", came)
	}
	return nil
}

// loseNode kills a node and takes its machine off the network; its part is lent to nobody until
// an admin says that it does not come back. Then the mail of another one moves. At last the lost
// machine comes back with the spool that it had.
func (w *world) loseNode(ctx context.Context) error {
	if err := w.ready(ctx); err != nil {
		return err
	}
	a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
	w.crashed += w.traffic.connections(c.name, "")
	w.say("Node c's machine dies: kill -9, and then its cable is out. %s.", w.shares(forty))
	began := w.traffic.now()
	c.millrace.Agent.Kill()
	// The receivers hear the end of its connections: how long they would keep dead ones is their own affair.
	if _, ok := w.await(ctx, 10*time.Second, func() bool { return w.traffic.connections(c.name, "") == 0 }); !ok {
		return fmt.Errorf("%d connections of a killed node are open", w.traffic.connections(c.name, ""))
	}
	if err := c.machine.Unplug(ctx); err != nil {
		return err
	}
	w.feed(ctx, []*node{a, b}, steady...)
	if err := w.watch(ctx, lease+5*time.Second, ten, forty); err != nil {
		return err
	}
	for _, r := range []receiver{ten, forty} {
		k := w.traffic.connections(a.name, r.name) + w.traffic.connections(b.name, r.name)
		most := r.limit - r.limit/fleetSize
		w.claim("lose", k <= most && k >= most*9/10, fmt.Sprintf("limit %d: a lost node's floor is lent to nobody", r.limit), "a and b have %d of %d", k, most)
	}
	failed := w.replaceNode(ctx, a, b, c)
	w.limits("lose", began, w.traffic.now(), steady...)

	w.say("Node c's machine comes back, with its disk; as a node that was forgotten, without its fleet.json.")
	known := filepath.Join(filepath.Dir(c.millrace.Config()), "state", "fleet.json")
	if err := os.Remove(known); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := w.wire.Replug(ctx, c.machine); err != nil {
		return err
	}
	if err := c.millrace.Agent.Start(ctx); err != nil {
		return err
	}
	return errors.Join(failed, sleep(ctx, 5*time.Second))
}

// replaceNode has a told that c does not come back, and b's mail moved to a.
func (w *world) replaceNode(ctx context.Context, a, b, c *node) error {
	forgot, err := a.command(ctx, "fleet", "forget", c.name)
	if err != nil {
		return err
	}
	w.say("millrace fleet forget c: %s", forgot)
	took, ok := w.await(ctx, lease+15*time.Second, func() bool {
		return w.traffic.connections(a.name, forty.name)+w.traffic.connections(b.name, forty.name) >= forty.limit*9/10
	})
	members, _ := a.command(ctx, "fleet")
	members, _, _ = strings.Cut(members, "\n")
	w.claim("lose", ok, "then the others have all of it", "%s after %.0f s; a says: %s", w.shares(forty), took.Seconds(), members)

	before, err := b.queued(ctx)
	if err != nil {
		return err
	}
	w.halt()
	w.say("Node b is to be taken out of service: millrace move --to a --all. It has %d recipients.", before)
	said, err := b.command(ctx, "move", "--to", a.name, "--all", "--yes")
	if err != nil {
		return err
	}
	w.say("  b: %s", said)
	empty := func() bool { n, err := b.queued(ctx); return err == nil && n == 0 }
	_, ok = w.await(ctx, 10*time.Second, empty)
	for range 3 { // what was in a transaction then, and was put off
		if ok {
			break
		}
		said, err := b.command(ctx, "move", "--to", a.name, "--all", "--yes")
		w.say("  b, once more: %s (%v)", said, err)
		_, ok = w.await(ctx, 5*time.Second, empty)
	}
	left, err := b.queued(ctx)
	if err != nil {
		return err
	}
	// It waits its turn behind the mail that a had already, which may be a minute of it.
	moved := w.traffic.now()
	came := func() int {
		return w.traffic.count(moved, w.traffic.now(), func(x *arrival) bool { return x.of == b.name && x.by == a.name })
	}
	took, sends := w.await(ctx, 2*time.Minute, func() bool { return came() > 0 })
	w.claim("lose", ok && before > 0 && sends, "millrace move brings b's mail to a, which sends it", "%d recipients moved, %d left at b; a sent the first of them %.0f s later", before-left, left, took.Seconds())
	return nil
}

// wake has whatever stands still go on.
func (w *world) wake() {
	for _, n := range w.nodes {
		_ = n.millrace.Agent.Signal(syscall.SIGCONT)
	}
}
