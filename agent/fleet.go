package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/warmup"
)

// joinFleet reads what this host knows of its fleet; a host of none has no Lender.
func (a *Agent) joinFleet(c *config.Config) (queue.Lender, error) {
	if !c.Fleet.On() {
		return nil, nil
	}
	f, err := fleet.Open(fleet.Options{Config: c.Fleet, Directory: c.Agent.StateDirectory, Log: a.log})
	if err != nil {
		return nil, fmt.Errorf("the fleet: %w", err)
	}
	a.fleet = f
	return f, nil
}

// runFleet renews the leases until ctx ends: while transactions finish after a stop was asked for,
// too, as they are of what is lent.
func (a *Agent) runFleet(ctx context.Context) {
	if a.fleet == nil {
		return
	}
	a.fleet.Run(ctx, fleet.Work{
		Wanted: a.queue.Wanted, Lent: a.queue.Lent, Granted: a.queue.QuotasGranted,
		Counted: func(now time.Time, yield func(fleet.Count)) {
			a.quotas.Counted(now, func(k quotas.Key, day string, limit, counted int) {
				yield(fleet.Count{Key: quotaLimit(k), Day: day, Limit: limit, Counted: counted})
			})
			set := a.settings.Now()
			a.warmup.Counted(now, func(k warmup.Key, day string, share, counted int) {
				if set.SharesWarmup(k.Address) {
					yield(fleet.Count{Key: warmupLimit(k), Day: day, Limit: share, Counted: counted})
				}
			})
		},
	})
}

// The names by which the nodes of a fleet know the limits of counts. Names of streams and queues
// have no blanks.
func quotaLimit(k quotas.Key) string {
	period := "h"
	if k.Day {
		period = "d"
	}
	return strings.Join([]string{"quota", k.Stream, k.Provider, period}, "/")
}

func warmupLimit(k warmup.Key) string { return "warmup/" + k.Address + "/" + k.Provider }

// quotaBound is how much of a stream's quota this node may count; nil: all of it.
func (a *Agent) quotaBound() func(quotas.Key, string, int) int {
	if a.fleet == nil {
		return nil
	}
	return func(k quotas.Key, day string, limit int) int { return a.fleet.Bound(quotaLimit(k), day, limit) }
}

// warmupBound is the same of an address that warms up.
func (a *Agent) warmupBound() func(warmup.Key, string, int) int {
	if a.fleet == nil {
		return nil
	}
	return func(k warmup.Key, day string, share int) int {
		if !a.settings.Now().SharesWarmup(k.Address) {
			return share
		}
		return a.fleet.Bound(warmupLimit(k), day, share)
	}
}
