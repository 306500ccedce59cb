package settings

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/sites"
)

// Rejected is why mail is refused by us: the queue of its hosts has a route that rejects.
type Rejected struct {
	Queue *config.Queue
	Reply string // "550 5.7.1 text"
}

func (r Rejected) Error() string { return r.Reply }

// Enhanced is the enhanced status code of the reply.
func (r Rejected) Enhanced() string { return strings.Fields(r.Reply)[1] }

// Route finds the route of a domain, and of what its mail leaves from (queue.RouteName): its
// queue, and the hosts or the relay. The error is Rejected where the queue says so. It asks the
// DNS, whose errors are *route.Error, and fetches the domain's MTA-STS policy if need be.
// Without fetch it does not: where there is none at hand the error is route.ErrFetch.
func (s *Settings) Route(ctx context.Context, name string, fetch bool) (queue.Route, error) {
	return s.route(ctx, name, fetch, s.Sites.Site)
}

// Ask is Route for a question alone, of which the Book of sites learns nothing. Where the
// domain would get a new site, Route.Site is a name that no site has.
func (s *Settings) Ask(ctx context.Context, name string) (queue.Route, error) {
	return s.route(ctx, name, true, s.Sites.Known)
}

// naming is how the Book names the site of an answer: Book.Site or Book.Known.
type naming func(time.Time, *sites.Answer) (site, hosts string)

func (s *Settings) route(ctx context.Context, name string, fetch bool, siteOf naming) (queue.Route, error) {
	if name == s.Relay {
		return relayed(ctx, s.handbackRoute())
	}
	domain, _ := queue.SplitRouteName(name)
	q := s.QueueOf(domain)
	if s.Config.Simulates(domain) {
		return simulatedRoute(domain, q), nil
	}
	if q.Route.Kind == config.RouteMX {
		lookup := s.Resolver.Ask
		if fetch {
			lookup = s.Resolver.Lookup
		}
		plan, err := lookup(ctx, domain)
		if err != nil {
			return queue.Route{}, err
		}
		if q == &s.Config.General {
			if m := s.Config.MatchMX(plan.Names()); m != nil {
				q = m
			}
		}
		if q.Route.Kind == config.RouteMX {
			return s.mxRoute(name, q, plan, siteOf), nil
		}
	}
	if q.Route.Kind == config.RouteReject {
		return queue.Route{}, Rejected{q, q.Route.Reject}
	}
	if q.Route.Kind == config.RouteHandback {
		return relayed(ctx, s.handbackRoute())
	}
	return relayed(ctx, queue.Route{
		Queue: q, Relay: q.Route.Relay,
		Site: queue.RelayDomain(q.Route.Relay),
		Key:  fmt.Sprintf("%s %s %s %v %v %s", queue.RelayDomain(q.Route.Relay), q.Name, q.TLS, q.RelayWrappermode, q.RelayAuth, q.RelayAuthTLS),
	})
}

// HandbackQueue is the name of the queue of what goes to the host MTA.
const HandbackQueue = "handback"

// HandbackSessions is how many sessions hand mail back at most: the host has its own mail
// to move.
const HandbackSessions = 4

// handbackRoute is the route to the host MTA. It takes the general queue's
// values, but few sessions and a pace of its own. The site is named by the relay in force:
// the lanes keep the name from the start of the agent, as mail is in them.
func (s *Settings) handbackRoute() queue.Route {
	q := s.Config.General
	q.Name = HandbackQueue
	q.Route = config.Route{Kind: config.RouteHandback}
	q.MaxSessions = min(q.MaxSessions, HandbackSessions)
	q.MaxMessageRate = s.Config.Handback.MaxMessageRate
	q.TLS = config.TLSNone // loopback, or the admin's own network
	q.RelayWrappermode, q.RelayAuth, q.RelayAuthRefused = false, nil, ""
	relay := s.Config.Handback.Relay
	return queue.Route{Queue: &q, Relay: relay, Site: queue.RelayDomain(relay), Key: queue.RelayDomain(relay), Handback: true}
}

// simulatedRoute is the route to the receiver inside the agent, by a queue's rules, whatever its
// route: no name is looked up, and nothing connected to.
func simulatedRoute(domain string, by *config.Queue) queue.Route {
	q := *by
	q.Route = config.Route{Kind: config.RouteRelay}
	q.TLS = config.TLSNone // there is no wire
	// A complaint counts for the only recipient of a transaction.
	q.MaxRecipientsPerMessage = 1
	q.RelayWrappermode, q.RelayAuth, q.RelayAuthRefused = false, nil, ""
	domain = strings.ToLower(domain)
	return queue.Route{Queue: &q, Simulated: true, Site: domain, Key: "simulated " + domain + " " + q.Name}
}

// MXRoute is the route to the mail exchangers of a domain, and of what its mail leaves from
// (queue.RouteName). The key of a destination, whose sessions its domains share, holds all
// that a session was opened under: the site, the hosts, the queue's policy with its TLS level,
// what the domain's own policies need (route.Plan.Needs), the sources. Where no name is verified
// the hosts are their sets of addresses (sites.Book), so that domains with names of their own
// on one host share its sessions; else they are the names. When a policy of the
// domain changes, so does the key: the mail moves on, and the sessions opened
// under the old one end when nobody needs them any more. The site has the favoured
// source alone in its identity, as most of its connections come from there.
func (s *Settings) MXRoute(name string, q *config.Queue, plan *route.Plan) queue.Route {
	return s.mxRoute(name, q, plan, s.Sites.Site)
}

func (s *Settings) mxRoute(name string, q *config.Queue, plan *route.Plan, siteOf naming) queue.Route {
	domain, text := queue.SplitRouteName(name)
	settled, narrow := s.settle(text, domain, q)
	sources, all := sources(settled.Choice, plan), s.SourceAddresses()
	answer := sites.Answer{Domain: domain, Groups: groups(plan), Sources: all, Queue: s.IsQueue}
	answer.Several = len(all) > 1 || len(s.Config.Pools) > 0 // beside one the system chooses
	answer.Alike = q.MaxSessionsTotal > 0
	from, first := "", ""
	for _, a := range sources {
		from += " from " + a.String()
		first = cmp.Or(first, from)
	}
	if len(sources) > 0 {
		answer.Source = sources[0]
	}
	answer.Old = plan.Key() + first
	if len(q.MX) > 0 { // a provider: its limits hold for all its hosts together
		answer.Provider = q.Name
		answer.Old = q.Name + first
	}
	site, hosts := siteOf(time.Now(), &answer)
	if site == "" { // a question about a new one; or no host has an address, which no Resolver answers
		site = answer.Old
	}
	receiver := ""
	if answer.Several { // one that was known before there were several has no source in its name
		receiver = strings.TrimSuffix(site, ":"+answer.Source.String())
	}
	needs := ""
	if q.TLS != config.TLSNone {
		needs = plan.Needs()
	}
	if q.TLS == config.TLSVerify || needs != "" {
		hosts = plan.Key()
	}
	rt := queue.Route{
		Queue: q, Plan: plan, Sources: sources, Expires: plan.Expires,
		Site: site, Receiver: receiver,
		Key: site + " " + hosts + " " + q.Name + " " + string(q.TLS) + " " + needs + from,
	}
	if len(s.Config.Pools) > 0 && settled.Choice != (pools.Choice{}) {
		rt.From = settled.String()
	}
	rt.Places = s.places(rt)
	if narrow {
		rt.Places = slices.DeleteFunc(rt.Places, func(p queue.Place) bool { return !p.Source.IsValid() })
	}
	rt.Warmup = s.warmupOf(settled, sources, plan, q)
	return rt
}

// SharedLimit names the limit of sessions that the site of a route shares with other nodes of the
// fleet; "": it is this node's own. It does not go by the site's name, which depends on what
// else a node has seen, but by what that begins with: two sites of which other nodes cannot say
// which is which have one limit.
func (s *Settings) SharedLimit(w *queue.Route) string {
	if w.Handback || w.Simulated || !s.Config.SharedQueue(w.Queue) {
		return ""
	}
	name := w.Relay
	switch {
	case w.Plan == nil:
	case len(w.Queue.MX) > 0:
		name = w.Queue.Name
	default:
		if list := groups(w.Plan); len(list) > 0 {
			name = sites.Base(list[0].Hosts)
		}
	}
	return "queue/" + w.Queue.Name + "/" + name
}

// groups are the hosts of a plan, those of equal preference together. Those without an
// address at the moment are among them by name, so that a set is known again.
func groups(plan *route.Plan) []sites.Group {
	var list []sites.Group
	last := -1
	for _, m := range plan.Published() {
		if int(m.Preference) != last {
			list = append(list, sites.Group{})
			last = int(m.Preference)
		}
		g := &list[len(list)-1]
		g.Hosts = append(g.Hosts, m.Name)
		for i := range plan.Hosts {
			if h := &plan.Hosts[i]; h.Name == m.Name {
				g.Addrs = append(g.Addrs, h.Addrs...)
			}
		}
	}
	if list == nil { // an address literal
		for _, h := range plan.Hosts {
			for _, a := range h.Addrs {
				list = append(list, sites.Group{Hosts: []string{a.String()}, Addrs: h.Addrs})
			}
		}
	}
	return list
}

// IsQueue says whether a queue has the name.
func (s *Settings) IsQueue(name string) bool {
	if name == s.Config.General.Name || name == HandbackQueue {
		return true
	}
	for i := range s.Config.Queues {
		if s.Config.Queues[i].Name == name {
			return true
		}
	}
	return false
}
