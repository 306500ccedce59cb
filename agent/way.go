package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
)

// asked is the list of domains whose way the queue wants to know. put never blocks.
type asked struct {
	mu     sync.Mutex
	more   sync.Cond
	names  []string
	closed bool
}

func (q *asked) init() { q.more.L = &q.mu }

func (q *asked) put(name string) {
	q.mu.Lock()
	q.names = append(q.names, name)
	q.mu.Unlock()
	q.more.Signal()
}

func (q *asked) get() (string, bool) {
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

func (q *asked) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}

// domains names the domain of each recipient; "" is mail that only the host can route.
func domains(e *spool.Envelope) []string {
	list := make([]string, len(e.Recipients))
	for i, r := range e.Recipients {
		list[i] = domain(r.Address)
	}
	return list
}

// domain is the domain of an address, "" if it has none.
func domain(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(address[at+1:], "."))
}

// findWays answers the queue's questions.
func (a *Agent) findWays(ctx context.Context) {
	for {
		name, ok := a.asked.get()
		if !ok {
			return
		}
		set := a.now.Load()
		limit, cancel := context.WithTimeout(ctx, longestLookup)
		way, err := set.way(limit, name)
		cancel()
		switch {
		case err == nil:
			a.queue.Routed(name, way)
		case ctx.Err() != nil:
			a.queue.Unasked(name, err.Error(), time.Now().Add(retryRoute))
		case ours(err) || unasked(err):
			a.log.Warn("no way to domain for now", "domain", name, "err", err, "retry", retryRoute)
			a.queue.Unasked(name, err.Error(), time.Now().Add(retryRoute))
		default:
			a.noWay(set, name, err)
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

// noWay settles the mail of a domain that cannot be routed.
func (a *Agent) noWay(set *settings, name string, err error) {
	now := time.Now()
	fault := outcome.DNSFailed
	if e, ok := errors.AsType[*route.Error](err); ok {
		fault = faults[e.Reason]
	}
	p := set.policy(name)
	attempt := outcome.Attempt{Stage: outcome.Route, Fault: fault, Text: err.Error(), Born: now}
	if set.retries(p).Decide(now, attempt).Action == outcome.Retry {
		a.log.Warn("no way to domain for now", "domain", name, "err", err, "retry", retryRoute)
		a.queue.Unrouted(name, inWords(err), now.Add(retryRoute))
		return
	}
	for {
		job, ok := a.queue.Claim(name, p.MaxRecipientsPerMessage)
		if !ok {
			break
		}
		a.queue.Settle(a.fail(job, p, attempt))
	}
	a.queue.Unrouted(name, inWords(err), now.Add(retryRoute))
}

var faults = map[route.Reason]outcome.Fault{
	route.Temporary:      outcome.DNSFailed,
	route.NXDomain:       outcome.NXDomain,
	route.NullMX:         outcome.NullMX,
	route.NoAddress:      outcome.NoAddress,
	route.Loop:           outcome.Loop,
	route.RefusedAddress: outcome.RefusedAddress,
}

// retries is what a queue says about retries, and what receivers' replies mean.
func (s *settings) retries(q *config.Queue) outcome.Policy {
	return outcome.Policy{Retry: q.Retry, Expire: q.Expire, Return: time.Duration(q.HandbackAfter), Rules: s.replies}
}

// policy is that of the configuration in force.
func (a *Agent) policy(q *config.Queue) outcome.Policy { return a.now.Load().retries(q) }

// policy returns the queue of a domain as far as its name tells.
func (s *settings) policy(name string) *config.Queue {
	if q := s.config.Match(name); q != nil {
		return q
	}
	return &s.config.General
}

// way finds where a domain's mail goes.
func (s *settings) way(ctx context.Context, name string) (queue.Way, error) {
	q := s.policy(name)
	if name == s.relay {
		return s.handback(), nil
	}
	if q.Route.Kind == config.RouteMX {
		plan, err := s.resolver.Lookup(ctx, name)
		if err != nil {
			return queue.Way{}, err
		}
		if q == &s.config.General {
			if m := s.config.MatchMX(plan.Names()); m != nil {
				q = m
			}
		}
		if q.Route.Kind == config.RouteMX {
			return s.direct(name, q, plan), nil
		}
	}
	if q.Route.Kind == config.RouteHandback {
		return s.handback(), nil
	}
	return queue.Way{
		Queue: q, Relay: q.Route.Relay,
		Site: queue.RelayDomain(q.Route.Relay),
		Key:  fmt.Sprintf("%s %s %s %v %v %s", queue.RelayDomain(q.Route.Relay), q.Name, q.TLS, q.RelayWrappermode, q.RelayAuth, q.RelayAuthTLS),
	}, nil
}

// handbackQueue is the name of the queue of what goes to the host MTA.
const handbackQueue = "handback"

// handbackSessions keeps the way home gentle: the host has its own mail to move.
const handbackSessions = 4

// handback is the way back to the host MTA. It takes the general queue's
// values, but few sessions and a pace of its own.
func (s *settings) handback() queue.Way {
	q := s.config.General
	q.Name = handbackQueue
	q.Route = config.Route{Kind: config.RouteHandback}
	q.MaxSessions = min(q.MaxSessions, handbackSessions)
	q.MaxMessageRate = s.config.Handback.MaxMessageRate
	q.TLS = config.TLSNone // loopback, or the admin's own network
	q.RelayWrappermode, q.RelayAuth, q.RelayAuthRefused = false, nil, ""
	relay := s.config.Handback.Relay
	return queue.Way{Queue: &q, Relay: relay, Site: s.relay, Key: queue.RelayDomain(relay), Handback: true}
}

// direct is the way to the mail exchangers of a domain. The key of a
// destination, whose sessions its domains share, holds all that a session was
// opened under: the hosts, the queue's policy with its TLS level, what the
// domain's own policies need (route.Plan.Needs), the sources. When a policy of the
// domain changes, so does the key: the mail moves on, and the sessions opened
// under the old one end when nobody needs them any more. The site has the favoured
// source alone in its name, as most of its connections come from there.
func (s *settings) direct(name string, q *config.Queue, plan *route.Plan) queue.Way {
	sources := sources(s.config.Agent.SourceAddresses, name, plan)
	from, first := "", ""
	for _, a := range sources {
		from += " from " + a.String()
		first = cmp.Or(first, from)
	}
	site := plan.Key()
	if len(q.MX) > 0 {
		site = q.Name // a provider: its limits hold for all its hosts together
	}
	needs := ""
	if q.TLS != config.TLSNone {
		needs = plan.Needs()
	}
	return queue.Way{
		Queue: q, Plan: plan, Sources: sources, Expires: plan.Expires,
		Site: site + first,
		Key:  plan.Key() + " " + q.Name + " " + string(q.TLS) + " " + needs + from,
	}
}
