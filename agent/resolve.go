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

// lookups are the domains whose routes the queue has asked for. A look-up may hang, and it
// is not known before it does: whoever sends to thousands of domains whose name servers
// are silent must not keep the others waiting. So each has a short time first. One that
// takes longer begins anew among the slow ones, which have all the time they need and a
// part of the workers. put never blocks.
type lookups struct {
	mu     sync.Mutex
	more   sync.Cond
	names  []string
	slow   []string // their first look-up took too long
	busy   int      // slow ones under way
	most   int      // of these at a time
	closed bool
}

func newLookups(workers int) *lookups {
	q := &lookups{most: max(1, workers/4)}
	q.more.L = &q.mu
	return q
}

func (q *lookups) put(name string) {
	q.mu.Lock()
	q.names = append(q.names, name)
	q.mu.Unlock()
	q.more.Signal()
}

// get waits for a domain to look up. Of a slow one done is to be called in the end.
func (q *lookups) get() (name string, slow, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		switch {
		case len(q.slow) > 0 && q.busy < q.most:
			name, q.slow = q.slow[0], q.slow[1:]
			q.busy++
			return name, true, true
		case len(q.names) > 0:
			name, q.names = q.names[0], q.names[1:]
			return name, false, true
		}
		q.more.Wait()
	}
	return "", false, false
}

// tooSlow puts a domain among the slow ones.
func (q *lookups) tooSlow(name string) {
	q.mu.Lock()
	q.slow = append(q.slow, name)
	q.mu.Unlock()
	q.more.Signal()
}

// done ends the look-up of a slow one.
func (q *lookups) done() {
	q.mu.Lock()
	q.busy--
	q.mu.Unlock()
	q.more.Signal()
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
	orders   *orders.Orders
	settler  *settle.Settler
	lookups  *lookups
}

// loop looks domains up, one after the other, until there are no more to come.
func (r *resolver) loop(ctx context.Context) {
	for {
		name, slow, ok := r.lookups.get()
		if !ok {
			return
		}
		patience := firstLookup
		if slow {
			patience = longestLookup
		}
		set := r.settings.Now()
		// No deadline, which a socket would notice before the context does: what failed
		// for want of our patience would be kept as the domain's failure.
		limit, cancel := context.WithCancel(ctx)
		timer := time.AfterFunc(patience, cancel)
		rt, err := set.Route(limit, name)
		timer.Stop()
		late := limit.Err() != nil
		cancel()
		if slow {
			r.lookups.done()
		}
		switch {
		case late && !slow && ctx.Err() == nil:
			// What was found by now may lack hosts or a policy: it is not used.
			r.lookups.tooSlow(name)
		case err == nil:
			r.queue.Routed(name, rt)
			r.orders.Routed(rt.Site)
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

const (
	// firstLookup is how long one domain keeps others waiting to be looked up: a
	// datagram that was lost is not sent again before that, but the answers so far are
	// in the cache when the domain's turn comes among the slow ones.
	firstLookup = 2 * time.Second
	// longestLookup is how long a slow one may take. Where descriptors are few, a domain
	// of many exchangers that do not answer would take longer; what was found by then is used.
	longestLookup = 2 * time.Minute
)

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
