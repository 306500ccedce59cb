package settings

import (
	"cmp"
	"context"
	"fmt"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
)

// Route finds the route of a domain: its queue, and the hosts or the relay. It asks the
// DNS, whose errors are *route.Error, and fetches the domain's MTA-STS policy if need be.
// Without fetch it does not: where there is none at hand the error is route.ErrFetch.
func (s *Settings) Route(ctx context.Context, name string, fetch bool) (queue.Route, error) {
	q := s.QueueOf(name)
	if name == s.Relay {
		return s.handbackRoute(), nil
	}
	if q.Route.Kind == config.RouteMX {
		lookup := s.Resolver.Ask
		if fetch {
			lookup = s.Resolver.Lookup
		}
		plan, err := lookup(ctx, name)
		if err != nil {
			return queue.Route{}, err
		}
		if q == &s.Config.General {
			if m := s.Config.MatchMX(plan.Names()); m != nil {
				q = m
			}
		}
		if q.Route.Kind == config.RouteMX {
			return s.MXRoute(name, q, plan), nil
		}
	}
	if q.Route.Kind == config.RouteHandback {
		return s.handbackRoute(), nil
	}
	return queue.Route{
		Queue: q, Relay: q.Route.Relay,
		Site: queue.RelayDomain(q.Route.Relay),
		Key:  fmt.Sprintf("%s %s %s %v %v %s", queue.RelayDomain(q.Route.Relay), q.Name, q.TLS, q.RelayWrappermode, q.RelayAuth, q.RelayAuthTLS),
	}, nil
}

// HandbackQueue is the name of the queue of what goes to the host MTA.
const HandbackQueue = "handback"

// HandbackSessions is how many sessions hand mail back at most: the host has its own mail
// to move.
const HandbackSessions = 4

// handbackRoute is the route to the host MTA. It takes the general queue's
// values, but few sessions and a pace of its own.
func (s *Settings) handbackRoute() queue.Route {
	q := s.Config.General
	q.Name = HandbackQueue
	q.Route = config.Route{Kind: config.RouteHandback}
	q.MaxSessions = min(q.MaxSessions, HandbackSessions)
	q.MaxMessageRate = s.Config.Handback.MaxMessageRate
	q.TLS = config.TLSNone // loopback, or the admin's own network
	q.RelayWrappermode, q.RelayAuth, q.RelayAuthRefused = false, nil, ""
	relay := s.Config.Handback.Relay
	return queue.Route{Queue: &q, Relay: relay, Site: s.Relay, Key: queue.RelayDomain(relay), Handback: true}
}

// MXRoute is the route to the mail exchangers of a domain. The key of a
// destination, whose sessions its domains share, holds all that a session was
// opened under: the hosts, the queue's policy with its TLS level, what the
// domain's own policies need (route.Plan.Needs), the sources. When a policy of the
// domain changes, so does the key: the mail moves on, and the sessions opened
// under the old one end when nobody needs them any more. The site has the favoured
// source alone in its name, as most of its connections come from there.
func (s *Settings) MXRoute(name string, q *config.Queue, plan *route.Plan) queue.Route {
	sources := sources(s.Config.Agent.SourceAddresses, name, plan)
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
	return queue.Route{
		Queue: q, Plan: plan, Sources: sources, Expires: plan.Expires,
		Site: site + first,
		Key:  plan.Key() + " " + q.Name + " " + string(q.TLS) + " " + needs + from,
	}
}
