package queue

import (
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// grow opens sessions while the site wants more. The gates to a connect, in this order:
//
//  1. the queue is not closing, and a destination of the site has more mail waiting than
//     sessions that are opening or idle (wanting);
//  2. the site is not suspended for trouble, but for a probe (trouble.go);
//  3. the destination is not held off after a failure, and no probe of it is under way
//     (holdoff, failures);
//  4. beside others that work, one that has taken nothing yet has a part of the site (trials);
//  5. max_sessions_total of the queue, over all source addresses (receiver.go);
//  6. what this node may use of a limit that it shares with others of a fleet (loan.go);
//  7. the budget of connects to sites where nothing is up (overBudget, probing.go);
//  8. max_sessions of the agent, for which only a site stands in line that 10 lets pass;
//  9. max_connection_rate of the queue (connects);
//  10. at an address with a limit, where its mail is not accepted, a destination comes after
//     those of others (strangers.go);
//  11. the controller has a place, in the site and at an address of the destination
//     (elastic.Site.Open): limits and clamps, lag, refusals, breakers.
//
// At 5, 6, 8, 10 and 11 an idle session elsewhere makes room if there is one. A lane that is paused
// is not among those that wait, and what is behind a gate (gate.go) only as far as it has
// permits. Once a session is up, each transaction waits for the pace (elastic.Site.MayBegin).
func (q *Queue) grow(s *site, now time.Time) {
	if q.closed {
		return
	}
	if s.withholds(nil) && !s.mayProbe(now) {
		q.lookAgain(s, s.trouble.until, now)
		return
	}
	for tries := min(s.wanting.n, looks); tries > 0 && s.wanting.n > 0; tries-- {
		d := q.first(s, now)
		if d.waiting <= d.opening+d.idleSinceUp+len(d.ready) {
			s.wanting.remove(d)
			continue
		}
		// Before any budget: for one that would not connect now nobody makes room.
		if d.holdoff.After(now) || d.failures > 0 && d.opening > 0 || q.onTrial(d) && s.trying >= q.trials(s) {
			s.wanting.last(d) // its probe is among the timers, or under way
			continue
		}
		if s.totalReached() {
			q.waitForTotal(s, now)
			break
		}
		if q.lentOut(s) {
			q.waitForLoan(s, now)
			break
		}
		if q.overBudget(d) {
			q.waitForSlot(d)
			break
		}
		// A site whose controller has no place now must not stand in line: sessions of
		// others would go for it in vain, and not for those that have too few.
		full := q.sessions >= q.o.MaxSessions
		if full && q.control(s).Wants(now, q.callable(d, now)) {
			if q.sessions-q.retiring >= q.o.MaxSessions {
				q.retireIdle(func(*Session) bool { return true })
			}
			q.waitForSlot(d)
			break
		}
		if wait := s.connectWait(now, q.portion(s)); wait > 0 {
			q.lookAgain(s, now.Add(wait), now)
			break
		}
		s.wanting.last(d)
		if !full && q.launch(d, now) {
			if s.connects != nil {
				s.connects.take()
			}
			if s.withholds(nil) {
				break // one is the probe
			}
			tries = min(s.wanting.n, looks) + 1 // it may want another one
			continue
		}
		q.lookAgain(s, q.control(s).Next(), now)
		if q.control(s).Full() {
			// A session that stands idle at another destination makes room; its Leave
			// brings us back here.
			if s.retiring == 0 && d.live+d.opening == 0 {
				q.retireIdle(func(x *Session) bool { return x.dest.site == s && x.dest.waiting == 0 })
			}
			break
		}
		q.crowd(d, now)
	}
}

// first is the destination that is looked at next. They take turns; while nothing of a site
// is known to work, one that has taken mail comes first, then one whose last connect did not hang,
// and of these the one with the most mail: others may have joined a provider by the names of
// their hosts, and never answer.
func (q *Queue) first(s *site, now time.Time) *destination {
	best := s.wanting.head
	if s.reachable {
		return best
	}
	d, is := best, q.free(best, now)
	for range min(s.wanting.n, pageSize) {
		if (!is || d.hopeful(best)) && q.free(d, now) {
			best, is = d, true
		}
		if d = d.next; d == nil {
			break
		}
	}
	return best
}

// free says whether a first connect of a destination may be made now.
func (q *Queue) free(d *destination, now time.Time) bool {
	return d.opening == 0 && !d.holdoff.After(now) && d.another(now) && !q.keptAway(d, now)
}

// hopeful says whether a connect of one destination promises more than one of another.
func (d *destination) hopeful(than *destination) bool {
	switch {
	case d.proven != than.proven:
		return d.proven
	case d.slow != than.slow:
		return than.slow
	}
	return d.waiting > than.waiting
}

// looks bounds how many destinations of a site are looked at in one turn under the mutex.
const looks = 16

// launch opens one session, if the controller has a place for it.
func (q *Queue) launch(d *destination, now time.Time) bool {
	if q.spare == nil {
		q.spare = &Session{}
	}
	s := q.spare
	a, ok := q.control(d.site).Open(now, &s.slot, q.callable(d, now))
	if !ok {
		return false
	}
	q.spare = nil
	s.dest, s.route, s.wake, s.holds = d, d.route, make(chan wake, 1), true
	s.place = d.placeOf(a)
	d.places[s.place].open++
	q.estrange(s, d.places[s.place].stranger())
	q.heldBy(a, d.site)
	q.leaveCrowd(d.site)
	q.freed(a, now) // there may be room for the next one
	if s.onTrial = q.onTrial(d); s.onTrial {
		d.site.trying++
	}
	q.launched(s, now)
	d.opening++
	d.site.opening++
	q.sessions++
	if !d.site.reachable {
		q.attempt(s, q.budgetOf(d))
	}
	q.o.Launch(s)
	return true
}

// onTrial says whether a destination has yet to show that it takes mail, beside others of
// its site that do.
func (q *Queue) onTrial(d *destination) bool { return !d.proven && d.site.reachable && d.site.live > 0 }

// mayJoin says whether a destination may be a stranger's who has joined a provider by the names of his hosts,
// as it has not shown yet that it takes mail.
func (d *destination) mayJoin() bool {
	return !d.proven && (d.site.dests > 1 || len(d.route.Queue.MX) > 0)
}

// isForeign says whether a refusal of the session is foreign to its site: it is of one who may have joined, at
// an address where nothing was ever taken, be it of a connect or of the first message, for its rate too. A
// connect that is refused beside a session that is up may be one too many.
func (s *Session) isForeign() bool {
	a := s.slot.Address
	return s.dest.mayJoin() && a.Accepted == 0 && a.Proven == 0 && (a.Live == 0 || s.up)
}

// trials is how many sessions of a site may be on trial at once, so that those who join a
// provider by the names of their hosts, and never answer, cost it little.
func (q *Queue) trials(s *site) int { return max(1, q.control(s).Want()/16) }

// endTrial counts a session no more among those on trial.
func (s *Session) endTrial() {
	if s.onTrial {
		s.onTrial = false
		s.dest.site.trying--
	}
}

// inTurn takes the token of one ready session and returns it, or says how long it is until
// there is one. The last used one goes first, so that those not needed time out; but
// under a pace they take turns, or one host would get more than its part of the rate.
func (q *Queue) inTurn(d *destination, now time.Time) (*Session, time.Duration) {
	control := q.control(d.site)
	n := len(d.ready)
	if !control.Paced(now) {
		s := d.ready[n-1]
		if control.MayBegin(&s.slot, now) == 0 {
			return s, 0
		}
	}
	soonest := time.Hour
	var tried [8]*slots.Address // each address waits for itself
	at := 0
	for _, s := range d.ready {
		seen := false
		for _, a := range tried[:at] {
			seen = seen || a == s.slot.Address
		}
		if seen {
			continue
		}
		wait := control.MayBegin(&s.slot, now)
		if wait == 0 {
			return s, 0
		}
		soonest = min(soonest, wait)
		if tried[at] = s.slot.Address; at == len(tried)-1 {
			break
		}
		at++
	}
	return nil, soonest
}

// hold notes that the pace holds a destination back until then.
func (q *Queue) hold(d *destination, until, now time.Time) {
	if !d.paced {
		d.paced = true
		d.site.paced = append(d.site.paced, d)
	}
	q.lookAgain(d.site, until, now)
}

// servePaced hands mail to sessions that the pace held back, by turns.
func (q *Queue) servePaced(s *site, now time.Time) {
	for range len(s.paced) {
		d := s.paced[0]
		s.paced = append(s.paced[:0], s.paced[1:]...)
		d.paced = false
		if d.waiting > 0 && len(d.ready) > 0 {
			q.serveAll(d, now)
		}
	}
}

// retireIdle sends away the session that has been ready longest of those that
// fit, if there is one.
func (q *Queue) retireIdle(fits func(*Session) bool) bool {
	for s, ok := q.idle.first(); ok; s, ok = s.next, s.next != nil {
		if fits(s) {
			q.unready(s)
			q.retire(s)
			s.wake <- wakeRetire
			return true
		}
	}
	return false
}
