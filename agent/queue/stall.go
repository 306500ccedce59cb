package queue

import "time"

// A destination joins a provider by the names of its hosts. One that answers EHLO, and then
// nothing to its first transaction, would hold the slots of the provider for as long as
// replies are waited for (RFC 5321 section 4.5.3.2: ten minutes after the final dot),
// and where nothing has shown yet how many there may be, two such have them all. So a session
// that has had no answer to its first transaction for stallAfter gives its slot back, if other
// mail of the site waits for one. The transaction goes on; after it the session
// ends.

// stallAfter is how long a first transaction may take that keeps others waiting: longer than
// nearly all receivers think about a message.
const stallAfter = 10 * time.Second

// watchFirst has the session looked at when its first transaction has taken long, if there
// may be others who wait for its slot.
func (q *Queue) watchFirst(s *Session) {
	if d := s.dest; s.jobs == 1 && d.mayJoin() {
		q.schedule(time.Now().Add(stallAfter), s)
	}
}

// fire gives the slot back of a session that stalls.
func (s *Session) fire(q *Queue, now time.Time) {
	site := s.dest.site
	switch {
	case !s.holds || s.tried > 0 || s.dest.proven:
		return // it has ended, or its destination takes mail
	case site.wanting.n == 0 || !q.control(site).Full():
		q.schedule(now.Add(stallAfter), s) // nobody waits for it yet
		return
	}
	s.holds, s.stalls = false, true
	q.control(site).Ended(&s.slot, now)
	q.grow(site, now)
	q.lookAgain(site, q.control(site).Next(), now)
	q.freed(s.slot.Address, now)
}
