package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// heartbeat tells the milter once a second that the agent lives, and how much
// is queued. It goes on while transactions finish after a stop was asked for. Nothing
// else is done here: what waits, for the disk or for a pass over the queue, would have the
// milter take the agent for silent.
func (a *Agent) heartbeat(ctx context.Context) {
	failing := false
	beat := func(time.Time) {
		err := a.beat()
		if err != nil && !failing {
			a.log.Error("no sign of life is given; the milter will soon leave mail with the host", "err", err)
		}
		failing = err != nil
	}
	beat(time.Now())
	loop.Every(ctx, time.Second, beat)
}

// upkeep does once a second what has its time. It may wait for the disk.
func (a *Agent) upkeep(ctx context.Context) {
	tight, unsaved, damaged := false, false, 0
	loop.Every(ctx, time.Second, func(now time.Time) {
		damaged = a.settler.SettleDamaged(damaged)
		a.handBackOverflow()
		a.orders.Expire(time.Now())
		a.settings.Now().Resolver.Forget()
		a.orders.SaveRulePauses(time.Now(), false)
		lost := a.settings.Now().Sites.Save(now, false)
		if lost != nil && !unsaved {
			a.log.Error("not saved; a restart would give some sites other names", "err", lost)
		}
		unsaved = lost != nil
		if huge := a.queue.Queued() > hugeBacklog; huge != tight {
			tight = huge
			debug.SetGCPercent(gcPercent(huge))
		}
	})
}

// handBackOverflow gives the host what has no room at addresses that warm up, where a pool says
// so.
func (a *Agent) handBackOverflow() {
	jobs := a.queue.Overflowed()
	if len(jobs) == 0 {
		return
	}
	a.settler.Decide(jobs, func(id spool.ID) *spool.Envelope {
		e, _ := a.store.Envelope(id)
		return e
	}, func(string) outcome.Decision {
		return outcome.Decision{Action: outcome.HandBack, Enhanced: "4.3.0", Reason: "handed back: the address that it would leave from warms up, and has no room for more"}
	})
}

// presenceEvery is how often it is looked which source addresses are on this host.
const presenceEvery = 5 * time.Second

// lookAround looks which source addresses can be bound. When that has changed all routes are
// asked for again: mail whose address is gone leaves from another one of its pool, and what was
// not tried meanwhile leaves from its own when that is back. That of source_addresses without a
// [[pool]] waits, as ever.
func (a *Agent) lookAround() {
	set := a.settings.Now()
	come, gone := set.Presence.Look(set.SourceAddresses())
	for _, x := range gone {
		a.log.Error("a source address cannot be bound: its mail leaves from others of its [[pool]], or waits where there are none", "address", x)
	}
	for _, x := range come {
		a.log.Info("a source address can be bound again", "address", x)
	}
	if len(come)+len(gone) > 0 && len(set.Config.Pools) > 0 {
		a.queue.RerouteAll()
	}
}

// hugeBacklog is how many queued recipients make the collector's slack matter.
// Their records have no pointers, so a collection costs no more for them; but at
// Go's default the heap may grow by as much again as they take before there is one. A quarter
// of them is still tens of megabytes of garbage between two collections.
const hugeBacklog = 500_000

func gcPercent(huge bool) int {
	if huge {
		return 25
	}
	return 100
}

// expireEvery is how often mail that cannot be tried is looked at for expiry.
const expireEvery = time.Minute

// expire looks every minute for mail that grew too old.
func (a *Agent) expire(ctx context.Context) {
	loop.Every(ctx, expireEvery, func(time.Time) {
		if ctx.Err() == nil { // else connects and look-ups are ended that tell nothing
			a.expireOverdue()
		}
	})
}

// expireOverdue fails mail that was too old already when its destination was last seen
// to be down, or its domain without a route; or gives it back to the host.
func (a *Agent) expireOverdue() {
	set := a.settings.Now()
	a.queue.Overdue(set.QueueOf, func(job queue.Job, by *config.Queue, reason string) {
		a.queue.Settle(a.settler.Fail(job, by, outcome.Attempt{Stage: outcome.Connect, Fault: outcome.Unreachable, Text: reason}))
	})
}

// stillAfter is how long the follower of the spool may do nothing. It looks at the
// directory every five seconds.
const stillAfter = 20 * time.Second

// Probe implements program.Prober. The timers of the queue and the follower of the spool
// must come round for mail to move: a process whose own ticker runs while one of them
// stands still is not alive.
func (a *Agent) Probe(ctx context.Context) error {
	if err := a.queue.Pulse(ctx); err != nil {
		return fmt.Errorf("the queue stands still: %w", err)
	}
	if turned, _ := a.store.Progress(); turned > stillAfter {
		return fmt.Errorf("the spool has not been looked at for %s", turned.Round(time.Second))
	}
	return nil
}

// beat tells the milter that we live. An agent that does not see new mail does not live,
// as far as the milter is concerned.
func (a *Agent) beat() error {
	if err := a.watch.Unseen(); err != nil {
		return err
	}
	return a.store.Beat(a.queue.Queued())
}
