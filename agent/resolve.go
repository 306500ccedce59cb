package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
)

// lookups are the domains whose routes the queue has asked for. put never blocks.
type lookups struct {
	mu     sync.Mutex
	more   sync.Cond
	names  []string
	closed bool
}

func newLookups() *lookups {
	q := &lookups{}
	q.more.L = &q.mu
	return q
}

func (q *lookups) put(name string) {
	q.mu.Lock()
	q.names = append(q.names, name)
	q.mu.Unlock()
	q.more.Signal()
}

func (q *lookups) get() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.names) == 0 && !q.closed {
		q.more.Wait()
	}
	if q.closed {
		return "", false
	}
	name := q.names[0]
	q.names = q.names[1:]
	return name, true
}

func (q *lookups) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}

// resolver finds routes for the queue, and settles mail that has none.
type resolver struct {
	log      *slog.Logger
	settings *settings.Source
	queue    *queue.Queue
	settler  *settle.Settler
	lookups  *lookups
}

// loop looks domains up, one after the other, until there are no more to come.
func (r *resolver) loop(ctx context.Context) {
	for {
		name, ok := r.lookups.get()
		if !ok {
			return
		}
		set := r.settings.Now()
		limit, cancel := context.WithTimeout(ctx, longestLookup)
		rt, err := set.Route(limit, name)
		cancel()
		switch {
		case err == nil:
			r.queue.Routed(name, rt)
		case ctx.Err() != nil:
			r.queue.Unasked(name, err.Error(), time.Now().Add(retryRoute))
		case settings.Ours(err) || unasked(err):
			r.log.Warn("no way to domain for now", "domain", name, "err", err, "retry", retryRoute)
			r.queue.Unasked(name, err.Error(), time.Now().Add(retryRoute))
		default:
			r.unroutable(set, name, err)
		}
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

// longestLookup is how long one domain keeps others waiting to be looked up. Where
// descriptors are few, a domain of many exchangers that do not answer would take longer;
// what was found by then is used.
const longestLookup = 2 * time.Minute

// retryRoute is how long a domain waits after a DNS failure.
const retryRoute = 2 * time.Minute

// unroutable settles the mail of a domain that cannot be routed.
func (r *resolver) unroutable(set *settings.Settings, name string, err error) {
	now := time.Now()
	fault := outcome.DNSFailed
	if e, ok := errors.AsType[*route.Error](err); ok {
		fault = faults[e.Reason]
	}
	p := set.QueueOf(name)
	attempt := outcome.Attempt{Stage: outcome.Route, Fault: fault, Text: err.Error(), Born: now}
	if set.RetryPolicy(p).Decide(now, attempt).Action == outcome.Retry {
		r.log.Warn("no way to domain for now", "domain", name, "err", err, "retry", retryRoute)
		r.queue.Unrouted(name, queue.ReasonOf(err), now.Add(retryRoute))
		return
	}
	for {
		job, ok := r.queue.Claim(name, p.MaxRecipientsPerMessage)
		if !ok {
			break
		}
		r.queue.Settle(r.settler.Fail(job, p, attempt))
	}
	r.queue.Unrouted(name, queue.ReasonOf(err), now.Add(retryRoute))
}

var faults = map[route.Reason]outcome.Fault{
	route.Temporary:      outcome.DNSFailed,
	route.NXDomain:       outcome.NXDomain,
	route.NullMX:         outcome.NullMX,
	route.NoAddress:      outcome.NoAddress,
	route.Loop:           outcome.Loop,
	route.RefusedAddress: outcome.RefusedAddress,
}
