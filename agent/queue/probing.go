package queue

import "time"

// A connect to a site where nothing is known to be up may hang, and it is not known
// before it does; nor is it known of a receiver that answers EHLO whether it takes mail.
// These connects, and the sessions that come of them until the receiver has dealt with a
// transaction, have half of max_sessions, so that they never hinder the sites that are
// well; among them it is time that is scarce, since a
// dead site would hold its place until it times out (30 s without an answer to
// the SYN, 5 min without a greeting). So a first connect has HangAfter. If it hangs
// then, it is taken over into the smaller part of that half, kept for those that take
// long; when that is full, it is abandoned for the sites that wait for their
// first connect, and the site stands in line for the smaller part. There a connect
// has patience, and more while no other site waits. It has none where it has a place that another
// destination of its site waits for, whose connect did not hang: domains of strangers may have
// joined a provider by the names of their hosts.
//
// With max_sessions = 2000 a new site has its first connect at most HangAfter later
// for each 750 sites before it, even if these are dead: after 100,000 of them in less
// than five minutes. One that greets after half a minute needs a place in the
// smaller part, 250 in half a minute where all the others wait for a SYN's answer.

// HangAfter is how long a connect may take until it counts as one that hangs. A SYN
// that was lost is sent again after 1 s.
const HangAfter = 2 * time.Second

// longConnect is how long a connect that hangs may go on though others wait for its
// place: longer than a connect's timeout, and than receivers make clients wait for
// a greeting to tell those who do not.
const longConnect = time.Minute

// trialsTold is how many connects on trial, each given up for want of a place, show that a
// destination does not answer: the last of them comes two minutes after the first.
const trialsTold = 4

// connectBudget are connects under way to sites where nothing is up, and the sites that
// wait until they may make one.
type connectBudget struct {
	n    int
	line ring[*site]
}

// budgetOf are those among which a destination's next connect counts.
func (q *Queue) budgetOf(d *destination) *connectBudget {
	if d.slow {
		return &q.slow
	}
	return &q.quick
}

// most is how many attempts there may be.
func (q *Queue) most(a *connectBudget) int {
	if a == &q.slow {
		return max(1, q.o.MaxSessions/8)
	}
	return max(1, q.o.MaxSessions/2-q.slow.n)
}

// overBudget says that a destination would have to wait for a place among the attempts,
// whoever made room for it. A second one at the same site must leave half to others.
func (q *Queue) overBudget(d *destination) bool {
	if d.site.reachable {
		return false
	}
	a := q.budgetOf(d)
	most := q.most(a)
	if d.site.opening > 0 {
		most /= 2
	}
	return a.n >= most
}

// attempt counts a connect among some attempts; nil: among none.
func (q *Queue) attempt(s *Session, a *connectBudget) {
	if s.among != nil {
		s.among.n--
	}
	if s.among = a; a != nil {
		a.n++
	}
}

// waitForSlot makes a destination's site wait for what it lacks. One that has a connect under way
// needs no place in line: it is looked at again when that ends or hangs.
func (q *Queue) waitForSlot(d *destination) {
	s, line := d.site, &q.waitingForSlot
	if !s.reachable {
		if s.opening > 0 {
			return
		}
		line = &q.budgetOf(d).line
	}
	if s.line != line {
		s.leaveLine()
		s.line = line
		line.push(s)
	}
}

// leaveLine ends the site's waiting.
func (s *site) leaveLine() {
	if s.line != nil {
		s.line.remove(s)
		s.line = nil
	}
}

// nextUnproven finds a site that has nothing, and may make an attempt.
func (q *Queue) nextUnproven() *site {
	for _, a := range [...]*connectBudget{&q.quick, &q.slow} {
		if a.n >= q.most(a) {
			continue
		}
		for range min(a.line.n, 16) {
			if s := a.line.head; s.held() == 0 {
				return s
			}
			a.line.rotate()
		}
	}
	return nil
}

// grantSlots gives the places that have become free to those who wait longest.
func (q *Queue) grantSlots(now time.Time) {
	for _, a := range [...]*connectBudget{&q.quick, &q.slow} {
		for n := a.line.n; n > 0 && a.n < q.most(a) && q.sessions < q.o.MaxSessions; n-- {
			q.serveLine(a.line.head, now)
		}
	}
	for n := q.waitingForSlot.n; n > 0 && q.sessions < q.o.MaxSessions; n-- {
		q.serveLine(q.waitingForSlot.head, now)
	}
}

// serveLine lets a site go on for which there is room.
func (q *Queue) serveLine(s *site, now time.Time) {
	s.leaveLine()
	q.grow(s, now)
}

// MayKeepConnecting is called by a session whose connect has been under way for HangAfter, and
// again after each time that it returns: for so long the connect may go on. 0 means
// that it is to be abandoned, since others need its place, maybe of its own site: the session
// leaves, as after any connect that failed.
func (q *Queue) MayKeepConnecting(s *Session) time.Duration {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	site := s.dest.site
	s.hangs = true
	if s.silent = q.control(site).Hangs(&s.slot, now); s.silent {
		return 0
	}
	wait := q.keepConnecting(s, now)
	q.grow(site, now) // another connect in its stead
	q.grantSlots(now)
	return wait
}

// promising says whether another destination waits at a site where nothing is up, whose connect
// may be made at once and has not hung.
func (q *Queue) promising(s *site, now time.Time) bool {
	if s.wanting.n == 0 {
		return false
	}
	d := q.first(s, now)
	return !d.slow && q.free(d, now)
}

func (q *Queue) keepConnecting(s *Session, now time.Time) time.Duration {
	site := s.dest.site
	if site.live > 0 && site.reachable {
		q.attempt(s, nil) // it is one host that hangs: what to do about that is up to the controller
		if q.onTrial(s.dest) && q.control(site).Held() >= q.control(site).Want() {
			// It has the place of one that works. Where it was so again and again, its
			// silence is its destination's.
			s.untried = s.dest.failures < trialsTold
			return 0
		}
		if !s.onTrial { // it was there before those that work, and is not the only one
			return HangAfter
		}
		return longConnect
	}
	site.reachable, s.dest.slow = false, true
	needed := q.sessions >= q.o.MaxSessions && q.quick.line.n+q.waitingForSlot.n > 0
	switch {
	case q.control(site).Held() >= site.policy.MaxSessions && q.promising(site, now):
		s.untried = now.Before(s.patience)
		return 0
	case now.Before(s.patience):
	case !s.patience.IsZero() && (needed || q.slow.line.n > 0):
		return 0
	case s.among == &q.slow || q.slow.n < q.most(&q.slow) && !needed:
		q.attempt(s, &q.slow)
		s.patience = now.Add(longConnect)
	case needed || q.quick.line.n > 0:
		s.untried = true // it had no patience: it may have been about to answer
		return 0
	}
	return HangAfter
}
