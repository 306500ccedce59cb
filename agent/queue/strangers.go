package queue

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// Anybody's domain may list the addresses of others among its own, and these refuse its mail
// message by message, for as long as there is any. So a destination is a stranger at an address
// where a row of its transactions came to nothing, until one is accepted there. Where an
// address has a limit and others work there, or wait, all strangers together have next to
// nothing of it: a sixty-fourth of its slots, or one of them for turns so short and rare that
// it comes to the same. All others take turns as equals (places.go).

const (
	// strangersPart is the part of an address that strangers have together.
	strangersPart = 64
	// vainRow is how many transactions in a row, of which nothing was accepted, make a
	// destination a stranger; a stranger's turn is as long.
	vainRow = 5
	// knownRow is how many make one of whom something was accepted there before, since lists
	// with many dead recipients have rows of their own: of 50, where one in twenty is alive,
	// one after a thousand transactions.
	knownRow = 50
	// mostAgain bounds how long they are kept away; those who work there may have gone.
	mostAgain = time.Minute
)

// strangers are those at one address.
type strangers struct {
	n     int       // sessions
	again time.Time // none of them before: it is the others' turn
}

// stranger says whether a destination is one there.
func (p *placeState) stranger() bool { return p.vain >= vainRow && (!p.took || p.vain >= knownRow) }

// most is how many sessions strangers may have at an address.
func (x *strangers) most(a *slots.Address) int { return max(1, a.Room()/strangersPart) }

// admits says whether one more session of a site's stranger may go to an address.
func (q *Queue) admits(a *slots.Address, s *site, now time.Time) bool {
	x := q.strangers[a]
	return x == nil || !now.Before(x.again) && (x.n < x.most(a) || !q.contested(a, x, s))
}

// contested says whether others than strangers hold some of an address's slots, or wait for
// one; of those who wait for another session of their own site, a few are looked at.
func (q *Queue) contested(a *slots.Address, x *strangers, s *site) bool {
	if !a.Limited {
		return false
	}
	if a.Live+a.Opening > x.n || slices.ContainsFunc(q.crowds[a], func(s *site) bool { return !s.stranger }) {
		return true
	}
	d := s.wanting.head
	for range min(s.wanting.n, looks) {
		if p := &d.places[d.placeOf(a)]; p.Address == a && !p.stranger() {
			return true
		}
		d = d.next
	}
	return false
}

// estrange counts a session among those of strangers, or no more.
func (q *Queue) estrange(s *Session, stranger bool) {
	if s.stranger == stranger {
		return
	}
	s.stranger = stranger
	x := q.strangers[s.slot.Address]
	switch {
	case !stranger:
		x.n--
		return
	case x == nil:
		x = new(strangers)
		q.strangers[s.slot.Address] = x
	}
	x.n++
}

// outstays says whether a stranger's session must go: it is idle, or its turn is over.
func (q *Queue) outstays(s *Session, idle bool) bool {
	if !s.stranger {
		return false
	}
	a := s.slot.Address
	x := q.strangers[a]
	return (idle || s.tried >= vainRow || x.n > x.most(a)) && q.contested(a, x, s.dest.site)
}

// farewell notes the end of a session. As long as a stranger has had a slot, and longer the
// fewer there are, it is the others' turn.
func (q *Queue) farewell(s *Session, now time.Time) {
	if !s.stranger {
		return
	}
	a := s.slot.Address
	x := q.strangers[a]
	contested := q.contested(a, x, s.dest.site) // as long as it counts itself: who is alone there keeps nobody away
	q.estrange(s, false)
	if contested {
		x.again = now.Add(min(mostAgain, now.Sub(s.slot.Began)*time.Duration(max(0, strangersPart/a.Room()-1))))
	} else if x.n == 0 {
		delete(q.strangers, a)
	}
}
