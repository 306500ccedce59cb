package agent

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
)

// lookupQueue is the list of domains whose way the queue wants to know. put never blocks.
type lookupQueue struct {
	mu     sync.Mutex
	more   sync.Cond
	names  []string
	closed bool
}

func (q *lookupQueue) init() { q.more.L = &q.mu }

func (q *lookupQueue) put(name string) {
	q.mu.Lock()
	q.names = append(q.names, name)
	q.mu.Unlock()
	q.more.Signal()
}

func (q *lookupQueue) get() (string, bool) {
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

func (q *lookupQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}

// resolveLoop answers the queue's questions.
func (a *Agent) resolveLoop(ctx context.Context) {
	for {
		name, ok := a.lookupQueue.get()
		if !ok {
			return
		}
		set := a.settings.Now()
		limit, cancel := context.WithTimeout(ctx, longestLookup)
		way, err := set.Route(limit, name)
		cancel()
		switch {
		case err == nil:
			a.queue.Routed(name, way)
		case ctx.Err() != nil:
			a.queue.Unasked(name, err.Error(), time.Now().Add(retryRoute))
		case settings.Ours(err) || unasked(err):
			a.log.Warn("no way to domain for now", "domain", name, "err", err, "retry", retryRoute)
			a.queue.Unasked(name, err.Error(), time.Now().Add(retryRoute))
		default:
			a.unroutable(set, name, err)
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
func (a *Agent) unroutable(set *settings.Settings, name string, err error) {
	now := time.Now()
	fault := outcome.DNSFailed
	if e, ok := errors.AsType[*route.Error](err); ok {
		fault = faults[e.Reason]
	}
	p := set.QueueOf(name)
	attempt := outcome.Attempt{Stage: outcome.Route, Fault: fault, Text: err.Error(), Born: now}
	if set.RetryPolicy(p).Decide(now, attempt).Action == outcome.Retry {
		a.log.Warn("no way to domain for now", "domain", name, "err", err, "retry", retryRoute)
		a.queue.Unrouted(name, queue.ReasonOf(err), now.Add(retryRoute))
		return
	}
	for {
		job, ok := a.queue.Claim(name, p.MaxRecipientsPerMessage)
		if !ok {
			break
		}
		a.queue.Settle(a.settler.Fail(job, p, attempt))
	}
	a.queue.Unrouted(name, queue.ReasonOf(err), now.Add(retryRoute))
}

var faults = map[route.Reason]outcome.Fault{
	route.Temporary:      outcome.DNSFailed,
	route.NXDomain:       outcome.NXDomain,
	route.NullMX:         outcome.NullMX,
	route.NoAddress:      outcome.NoAddress,
	route.Loop:           outcome.Loop,
	route.RefusedAddress: outcome.RefusedAddress,
}
