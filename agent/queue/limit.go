package queue

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
)

// Limit bounds the sites of a name, or those of a queue of that name, in place of
// their queue's policy. A site's own counts before its queue's.
type Limit struct {
	Name     string
	Sessions int     // 0: the policy's
	Rate     float64 // messages per second; 0: the policy's
	Reason   string  // for Why
}

// SetLimits replaces the limits that are in force.
func (q *Queue) SetLimits(list []Limit) {
	q.mu.Lock()
	q.limits = slices.Clone(list) // first, so that sites that come meanwhile have them
	q.mu.Unlock()
	walk(q, &q.siteByNo, func(s *site) {
		now := time.Now()
		if s.controller != nil {
			s.controller.SetLimits(now, q.limitsOf(s.key, s.policy))
		}
		q.bound(s, now)
	}, always)
}

// limitsOf are the policy's limits, or those that an admin has set for a time.
func (q *Queue) limitsOf(site string, policy *config.Queue) elastic.Limits {
	l := elastic.Limits{MaxSessions: policy.MaxSessions, MaxRate: float64(policy.MaxMessageRate), Why: "the configuration"}
	if n := policy.MaxSessionsTotal; n > 0 { // of all sources together: see receiver.go
		l.MaxSessions = min(l.MaxSessions, n)
	}
	for _, name := range [...]string{policy.Name, site} {
		for _, x := range q.limits {
			if x.Name != name {
				continue
			}
			l.Why = x.Reason
			if x.Sessions > 0 {
				l.MaxSessions = x.Sessions
			}
			if x.Rate > 0 {
				l.MaxRate = x.Rate
			}
		}
	}
	return l
}

// bound sends away sessions that stand ready above what a new bound allows.
func (q *Queue) bound(s *site, now time.Time) {
	for s.controller != nil && s.controller.Surplus(now) > s.retiring && q.retireIdle(func(x *Session) bool { return x.dest.site == s }) {
	}
	q.grow(s, now) // the controller says when to look again
}
