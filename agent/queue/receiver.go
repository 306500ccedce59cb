package queue

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A receiver that is called from several addresses is a site for each of them, with
// max_sessions of its own. max_sessions_total bounds what all of them have together; within it
// they are equals: one that has more makes room, after a turn, for one that waits with less.

// receiverSites are the sites of one receiver, one for each source.
type receiverSites struct {
	name  string
	sites []*site
}

// called is the name of a site's receiver; "" if it is alone.
func (r *receiverSites) called() string {
	if r == nil {
		return ""
	}
	return r.name
}

// ofReceiver are all sites of a site's receiver, itself among them.
func (s *site) ofReceiver() []*site {
	if s.receiver == nil {
		return []*site{s}
	}
	return s.receiver.sites
}

// inAll is how many sessions the receiver's sites have, and will have.
func (s *site) inAll() (n int) {
	for _, x := range s.ofReceiver() {
		n += x.held()
	}
	return n
}

// join makes a site one of a receiver's, by the name that Route gives; "": it is alone.
func (q *Queue) join(s *site, name string) {
	if name == "" {
		return
	}
	r := q.receivers[name]
	if r == nil {
		r = &receiverSites{name: name}
		q.receivers[name] = r
	}
	s.receiver = r
	r.sites = append(r.sites, s)
}

// part ends that, when the site is forgotten.
func (q *Queue) part(s *site) {
	r := s.receiver
	if r == nil {
		return
	}
	r.sites = slices.DeleteFunc(r.sites, func(x *site) bool { return x == s })
	if len(r.sites) == 0 {
		delete(q.receivers, r.name)
	}
	s.receiver = nil
}

// totalReached says whether all sites of a site's receiver together have what its queue allows.
func (s *site) totalReached() bool {
	total := s.policy.MaxSessionsTotal
	return total > 0 && s.inAll() >= total
}

// waitForTotal has an idle session of another source make room for a site that may have no
// more, and looks again when one of them ends, or in a while.
func (q *Queue) waitForTotal(s *site, now time.Time) {
	q.retireIdle(func(x *Session) bool {
		o := x.dest.site
		return o != s && s.receiver != nil && o.receiver == s.receiver && x.dest.waiting == 0 && o.held() > s.held()
	})
	q.lookAgain(s, now.Add(time.Second), now)
}

// heirOfTotal is the site of the same receiver, or of one limit of a fleet's, that a session makes
// room for.
func (q *Queue) heirOfTotal(s *Session) *site {
	site := s.dest.site
	sites := site.ofReceiver()
	switch {
	case q.lentOut(site):
		sites = site.loan.sites
	case !site.totalReached():
		return nil
	}
	for _, x := range sites {
		if x != site && x.wanting.n > 0 && x.held()+1 < site.held() {
			return x
		}
	}
	return nil
}

// overTotal says whether a site has to give up a session, as its queue allows fewer by now: the
// one that has most does.
func (s *site) overTotal() bool {
	total := s.policy.MaxSessionsTotal
	return total > 0 && s.inAll() > total && !slices.ContainsFunc(s.ofReceiver(), func(x *site) bool { return x.held() > s.held() })
}

// roomInTotal lets the other sites of a receiver go on, when a session of one has ended.
func (q *Queue) roomInTotal(s *site, now time.Time) {
	if s.policy.MaxSessionsTotal == 0 {
		return
	}
	for _, x := range s.ofReceiver() {
		if x != s && x.wanting.n > 0 && !x.totalReached() {
			q.grow(x, now)
		}
	}
}

// inTotal tells of max_sessions_total.
func (e *evidence) inTotal() HeldBack {
	h := HeldBack{Reason: QueueLimit, How: "max_sessions_total is " + strconv.Itoa(e.total), Reply: "the configuration"}
	if e.sources > 1 {
		h.How += fmt.Sprintf(", for all of %d source addresses", e.sources)
	}
	return h
}
