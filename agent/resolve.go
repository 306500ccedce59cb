package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
)

// resolver finds routes for the queue, and settles mail that has none.
type resolver struct {
	log      *slog.Logger
	settings *settings.Source
	queue    *queue.Queue
	orders   *orders.Orders
	settler  *settle.Settler
	lookups  *lookups

	// reloads is held to read while an answer reaches the queue, so that none that was found
	// under settings of before comes after the queue was told to ask again.
	reloads sync.RWMutex
}

// use puts settings into force. What is being looked up under the old ones is looked up
// once more.
func (r *resolver) use(set *settings.Settings) {
	r.reloads.Lock()
	defer r.reloads.Unlock()
	r.settings.Use(set)
}

// tell passes an answer on, if the settings that it was found under are in force. Else
// the domain is looked up again.
func (r *resolver) tell(set *settings.Settings, name string, answer func()) {
	r.reloads.RLock()
	defer r.reloads.RUnlock()
	if r.settings.Now() != set {
		r.lookups.put(name)
		return
	}
	answer()
}

// loop looks domains up, one after the other, until there are no more to come.
func (r *resolver) loop(ctx context.Context) {
	for {
		name, k, ok := r.lookups.get()
		if !ok {
			return
		}
		r.lookup(ctx, name, k)
	}
}

// lookup looks one domain up.
func (r *resolver) lookup(ctx context.Context, name string, k lookupKind) {
	patience := firstLookup
	if k != quick {
		patience = longestLookup
	}
	r.queue.Asking(name) // before anything is looked at that may change
	set := r.settings.Now()
	domain, _ := queue.SplitRouteName(name)
	// No deadline, which a socket would notice before the context does: what failed
	// for want of our patience would be kept as the domain's failure.
	limit, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(patience, cancel)
	rt, err := set.Route(limit, name, k == fetching)
	timer.Stop()
	late := limit.Err() != nil
	cancel()
	r.lookups.done(k)
	switch {
	case late && k == quick && ctx.Err() == nil:
		// What was found by now may lack hosts or a policy: it is not used.
		r.lookups.again(name, slow)
	case errors.Is(err, route.ErrFetch):
		r.lookups.again(name, fetching)
	case err == nil:
		r.lookups.answered(name)
		r.tell(set, name, func() { r.queue.Routed(name, rt) })
		if rt.Plan != nil && rt.Plan.Refetch {
			r.lookups.again(name, fetching) // the policy at hand serves until then
		}
	case ctx.Err() != nil:
		r.queue.Unasked(name, err.Error(), time.Now().Add(leastRetry))
	case settings.Ours(err) || unasked(err):
		retry := r.lookups.failed(name, k, time.Now(), leastOwnRetry, longestOwnRetry)
		r.log.Warn("no way to domain for now", "domain", domain, "err", err, "retry", time.Until(retry).Round(time.Second))
		r.tell(set, name, func() { r.queue.Unasked(name, err.Error(), retry) })
	default:
		r.unroutable(set, name, k, err)
	}
}

// unasked says whether a look-up failed since our own resolver does not run, or the
// network is not up, as when both start with us. That tells nothing of the domain.
func unasked(err error) bool {
	for _, down := range [...]error{syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN} {
		if errors.Is(err, down) {
			return true
		}
	}
	return false
}

const (
	// firstLookup is how long one domain keeps others waiting to be looked up: a
	// datagram that was lost is not sent again before that, but the answers so far are
	// in the cache when the domain's turn comes among the slow ones.
	firstLookup = 2 * time.Second
	// longestLookup is how long a slow one may take. Where descriptors are few, a domain
	// of many exchangers that do not answer would take longer; what was found by then is used.
	longestLookup = 2 * time.Minute
)

const (
	// leastRetry is how long a domain waits after a look-up that had no answer, twice as
	// long after the second one, and so on up to longestRetry. A name server that has been
	// silent for an hour is no more likely to answer in the next two minutes than in the
	// next half hour, and thousands of them share few workers.
	leastRetry   = 30 * time.Second
	longestRetry = 30 * time.Minute
	// leastOwnRetry and longestOwnRetry are the same where our own resolver or network is
	// down: all domains come back with it.
	leastOwnRetry   = 5 * time.Second
	longestOwnRetry = 2 * time.Minute
	// retryUnroutable is how long it is known of a domain that it takes no mail.
	retryUnroutable = 2 * time.Minute
)

// unroutable settles the mail of a domain that cannot be routed.
func (r *resolver) unroutable(set *settings.Settings, name string, k lookupKind, err error) {
	now := time.Now()
	fault := outcome.DNSFailed
	if e, ok := errors.AsType[*route.Error](err); ok {
		fault = faults[e.Reason]
	}
	domain, _ := queue.SplitRouteName(name)
	p := set.QueueOf(domain)
	attempt := outcome.Attempt{Stage: outcome.Route, Fault: fault, Text: err.Error(), Born: now}
	if e, ok := errors.AsType[settings.Rejected](err); ok {
		p, attempt.Fault, attempt.Enhanced = e.Queue, outcome.Rejected, e.Enhanced()
	}
	if set.RetryPolicy(p).Decide(now, attempt).Action == outcome.Retry {
		retry := r.lookups.failed(name, k, now, leastRetry, longestRetry)
		r.log.Warn("no way to domain for now", "domain", domain, "err", err, "retry", retry.Sub(now).Round(time.Second))
		r.tell(set, name, func() { r.queue.Unrouted(name, queue.ReasonOf(err), retry) })
		return
	}
	r.lookups.answered(name)
	for r.settings.Now() == set {
		job, ok := r.queue.Claim(name, p.MaxRecipientsPerMessage)
		if !ok {
			break
		}
		r.queue.Settle(r.settler.Fail(job, p, attempt))
	}
	r.tell(set, name, func() { r.queue.Unrouted(name, queue.ReasonOf(err), now.Add(retryUnroutable)) })
}

var faults = map[route.Reason]outcome.Fault{
	route.Temporary:      outcome.DNSFailed,
	route.NXDomain:       outcome.NXDomain,
	route.NullMX:         outcome.NullMX,
	route.NoAddress:      outcome.NoAddress,
	route.Loop:           outcome.Loop,
	route.RefusedAddress: outcome.RefusedAddress,
}
