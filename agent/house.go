package agent

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
)

// heartbeat tells the milter once a second that the agent lives, and how much
// is queued. It goes on while transactions finish after a stop was asked for.
func (a *Agent) heartbeat(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failing, tight, damaged := false, false, 0
	for {
		damaged = a.settler.SettleDamaged(damaged)
		a.orders.Expire(time.Now())
		a.settings.Now().Resolver.Forget()
		a.orders.SaveRulePauses(time.Now(), false)
		if huge := a.queue.Queued() > hugeBacklog; huge != tight {
			tight = huge
			debug.SetGCPercent(gcPercent(huge))
		}
		err := a.beat()
		if err != nil && !failing {
			a.log.Error("no sign of life is given; the milter will soon leave mail with the host", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
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
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() == nil { // else connects and look-ups are ended that tell nothing
			a.expireOverdue()
		}
	}
}

// expireOverdue fails mail that was too old already when its destination was last seen
// to be down, or its domain without a way; or gives it back to the host.
func (a *Agent) expireOverdue() {
	set := a.settings.Now()
	a.queue.Overdue(set.QueueOf, func(job queue.Job, by *config.Queue, reason string) {
		a.queue.Settle(a.settler.Fail(job, by, outcome.Attempt{Stage: outcome.Connect, Fault: outcome.Unreachable, Text: reason}))
	})
}
