package queue

import (
	"strings"
	"time"
)

// Mail for one domain may leave from several addresses: recipients of one pool or another, or
// spread over the addresses of one. Each (domain, from) is routed by itself, has lanes, a
// destination and a site of its own, and so limits, a pace and suspensions. From is the text of
// a pools.From, opaque here: "" is what nothing was said of. What mail without a choice leaves
// from is known with its route (Route.From); the first try puts the recipient into the lane of
// that, as the journal has it, and no later route moves it. Who takes a job looks whether what was
// never tried is in the right lane still: a reload may have changed that (FromElsewhere).

// fromMark stands in the name of a route between a domain and what its mail leaves from. No
// domain has a blank.
const fromMark = " from "

// RouteName is what Options.Resolve is asked for: a domain, and what its mail leaves from.
func RouteName(domain, from string) string {
	if from == "" {
		return domain
	}
	return domain + fromMark + from
}

// SplitRouteName undoes RouteName.
func SplitRouteName(name string) (domain, from string) {
	domain, from, _ = strings.Cut(name, fromMark)
	return domain, from
}

// noteFrom keeps the domains of one name together that leave from several addresses.
func (q *Queue) noteFrom(d *domain) {
	if d.from() != "" {
		q.froms[d.domain()] = append(q.froms[d.domain()], d)
	}
}

func (q *Queue) forgetFrom(d *domain) {
	if d.from() == "" {
		return
	}
	rest := q.froms[d.domain()]
	for i := range rest {
		if rest[i] == d {
			rest = append(rest[:i], rest[i+1:]...)
			break
		}
	}
	if len(rest) == 0 {
		delete(q.froms, d.domain())
	} else {
		q.froms[d.domain()] = rest
	}
}

// eachFrom calls f for a domain as it is routed: once for each of what its mail leaves from.
func (q *Queue) eachFrom(name string, f func(*domain)) {
	if d := q.domains[name]; d != nil {
		f(d)
	}
	for _, d := range q.froms[name] {
		f(d)
	}
}

// leaveFrom puts a taken recipient into the lane of what its mail leaves from.
func (q *Queue) leaveFrom(rec *recipient, from string, now time.Time) {
	l := *q.laneByNo.at(rec.lane)
	if from == "" || from == l.domain.from() || l.domain.name == q.o.Relay {
		return
	}
	q.moveLane(rec, RouteName(l.domain.domain(), from), now)
}
