package queue

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// A receiver may count the connections of all our sources together; its slots are then had by whichever
// came first. So a site that was refused as one too many may have the place of a session of another
// source's that ends at the same host, if that has two more in all, or no more mail. (Hosts that take
// one connection each show no difference host by host.) Whether the limit is that of all sources is not
// known. It seems so while such places are accepted, and more are passed on then, without a further
// refusal. Where one is refused, or has shown nothing yet, none is passed on until a connect of the
// site's own has been refused again. So a wrong one costs a source one slot at a time, which its probes
// win back. A source with mail keeps its last slot: where there are fewer than sources, some have none.

// claim is what a site may have of the slots of other sources.
type claim uint8

const (
	noClaim    claim = iota // it was not refused, or the last place that it had of them was
	claimsOne               // it was refused as one too many
	claimGiven              // it was given one, which has shown nothing yet
	claimsAll               // one that it was given was accepted
)

// heldBy notes that a site's connections go to an address from a source of a pool, or may.
func (q *Queue) heldBy(a *slots.Address, s *site) {
	if from := a.Key.Source; from.IsValid() {
		q.holders[a] = s
		if !slices.Contains(q.sources, from) {
			q.sources = append(q.sources, from)
		}
	}
}

// claims notes that a session was refused as one too many. An early replacement tells nothing of their
// number, and another refusal while a place is under way tells something only if it is a probe's.
func (s *Session) claims() {
	site := s.dest.site
	switch {
	case s.slot.Given:
		site.claim = noClaim
	case site.claim == noClaim && s.slot.Why != slots.Early, site.claim == claimGiven && s.slot.Why == slots.Probe:
		site.claim = claimsOne
	}
}

// pass gives the place of a session that has ended to another source's site that may have it, of
// several to the one that has fewest.
func (q *Queue) pass(s *Session, now time.Time) {
	a, rich := s.slot.Address, s.dest.site
	if !a.Key.Source.IsValid() {
		return
	}
	most := q.places(rich) - 1
	if rich.waiting == 0 {
		most = 1 << 20
	} else if most < 1 {
		return
	}
	var poor *site
	var at *slots.Address
	for _, from := range q.sources {
		x := q.table.Known(slots.Key{Source: from, Host: a.Key.Host})
		if x == nil || x == a {
			continue
		}
		h := q.holders[x]
		if h == nil || h == rich || h.claim != claimsOne && h.claim != claimsAll || h.wanting.n == 0 || h.withholds(nil) {
			continue
		}
		if n := q.places(h); n < most {
			most, poor, at = n, h, x
		}
	}
	if poor == nil || !q.control(rich).Give(now, &s.slot, q.control(poor), at) {
		return
	}
	if poor.claim == claimsOne {
		poor.claim = claimGiven
	}
	q.grow(poor, now)
}

// places is how many slots a site has of those that it wants, with those that are between two sessions.
func (q *Queue) places(s *site) int {
	c := q.control(s)
	return min(c.Want(), c.Held()-c.Hanging+c.Vacant+c.Waiting)
}
