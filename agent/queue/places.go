package queue

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/slots"
)

// placeState is what a destination knows of one of its places. One that answers, and then takes
// no mail, it passes by for its equals: what is wrong may be an affair of this destination alone
// (its TLS policy), so the address's own breaker does not know of it.
type placeState struct {
	elastic.Candidate
	until time.Time // it is passed by until then
	times int32     // in a row that it was
	open  int32     // sessions of the destination there
	row   int32     // transactions in a row that met trouble of the host
	vain  int32     // transactions in a row of which nothing was accepted (strangers.go)
	took  bool      // it has taken mail
}

const (
	// MaxCalls is how many addresses are called in a row for one destination that has
	// nothing up, as Postfix's smtp_mx_address_limit; then it is held off.
	MaxCalls = 5
	// passMoment is how long a host is passed by whose first mail went elsewhere: until that is
	// taken there.
	passMoment = time.Second
	// crowdTime is how long a session works before it makes room for those who wait.
	crowdTime = 10 * time.Second
)

// aim gives a destination the rows of its route's places, and lets go of those before.
func (q *Queue) aim(d *destination, w *Route, now time.Time) {
	if d.route != nil && w.Key != "" && slices.Equal(d.route.Places, w.Places) {
		return
	}
	old := d.places
	d.places, d.calls = nil, 0
	if w.Key != "" {
		d.places = make([]placeState, max(1, len(w.Places)))
		for i, p := range w.Places {
			row := q.table.Row(slots.Key{Source: p.Source, Host: p.Addr}, now)
			row.Users++
			for k := range old {
				if old[k].Address == row {
					d.places[i] = old[k]
				}
			}
			d.places[i].Candidate = elastic.Candidate{Address: row, Tier: p.Tier}
			q.heldBy(row, d.site)
		}
		if len(w.Places) == 0 {
			d.places[0].Address = &slots.Address{Users: 1}
		}
	}
	for _, p := range old {
		if p.Users--; p.Users == 0 {
			delete(q.holders, p.Address)
			if x := q.strangers[p.Address]; x != nil && x.n == 0 {
				delete(q.strangers, p.Address)
			}
		}
	}
}

// well says whether nothing is known that speaks against a connect there.
func (p *placeState) well(now time.Time) bool {
	return !p.Down(now) && !now.Before(p.Opens) && !now.Before(p.until)
}

// placeOf is the number of an address among the places.
func (d *destination) placeOf(a *slots.Address) int {
	for i := range d.places {
		if d.places[i].Address == a {
			return i
		}
	}
	return 0
}

// Place is where the session's connection goes: one of its route's places, the zero
// value if that has none.
func (s *Session) Place() Place {
	if s.place < len(s.route.Places) {
		return s.route.Places[s.place]
	}
	return Place{}
}

// callable are the places where a destination is admitted and which it does not pass by; those
// too, when there are no others.
func (q *Queue) callable(d *destination, now time.Time) []elastic.Candidate {
	for _, all := range [...]bool{false, true} {
		q.scratch = q.scratch[:0]
		for i := range d.places {
			p := &d.places[i]
			if (all || !now.Before(p.until)) && (!p.stranger() || q.admits(p.Address, d.site, now)) {
				q.scratch = append(q.scratch, p.Candidate)
			}
		}
		if len(q.scratch) > 0 {
			break
		}
	}
	return q.scratch
}

// keptAway says whether there is no place where a destination is admitted: it is a stranger
// at all of them, and it is the others' turn.
func (q *Queue) keptAway(d *destination, now time.Time) bool {
	for i := range d.places {
		if p := &d.places[i]; !p.stranger() || q.admits(p.Address, d.site, now) {
			return false
		}
	}
	return len(d.places) > 0
}

// pass makes a destination pass by the place of a session for a while: only for a moment where no
// more than a message or two went elsewhere, which shows little of a host.
func (d *destination) pass(s *Session, now time.Time) {
	p := &d.places[d.placeOf(s.slot.Address)]
	switch {
	case p.Address != s.slot.Address:
	case s.moves && !p.took && p.row < troubleRow:
		p.until = now.Add(passMoment)
	default:
		p.times++
		p.until = now.Add(slots.OffFor(int(p.times)))
	}
}

// another says whether a connect may go to an address that is not known to be in trouble.
func (d *destination) another(now time.Time) bool {
	return slices.ContainsFunc(d.places, func(p placeState) bool { return p.well(now) })
}

// crowd makes the site of a destination that is turned away wait for a slot that another
// site holds, at the address where fewest wait. One that has nothing up, and nothing under
// way, hears of no end of a session: it is looked at again all the same.
func (q *Queue) crowd(d *destination, now time.Time) {
	if d.site.live+d.site.opening == 0 {
		q.lookAgain(d.site, now.Add(time.Second), now)
	}
	if at := d.site.crowd; at != nil {
		if p := &d.places[d.placeOf(at)]; p.Address == at && !p.stranger() {
			d.site.stranger = false // another destination of the site came first, or it was accepted since
		}
		return
	}
	tier := 0
	for i := range d.places {
		if p := &d.places[i]; !p.Down(now) {
			tier = p.Tier
			break // they are in the order of their tiers
		}
	}
	var at *slots.Address
	stranger := false
	for i := range d.places {
		p := &d.places[i]
		if p.Down(now) || p.Tier != tier {
			continue
		}
		full := p.Held() >= p.Room()
		if !full && (!p.stranger() || q.admits(p.Address, d.site, now)) {
			return // it is not for want of a slot
		}
		if full && p.Held() <= int(p.open) {
			continue // all are its own
		}
		if at == nil || len(q.crowds[p.Address]) < len(q.crowds[at]) {
			at, stranger = p.Address, p.stranger()
		}
	}
	if at == nil {
		return
	}
	d.site.crowd, d.site.stranger = at, stranger
	q.crowds[at] = append(q.crowds[at], d.site)
	q.retireIdle(func(s *Session) bool {
		return s.slot.Address == at && s.dest.waiting == 0 && q.heirAt(s, s.dest.site.held(), now) != nil
	})
	q.freed(at, now)
}

// freed has the site looked at that has waited longest for a slot at an address, of those that
// may have one: now, or when the receiver has noticed that the first session there has ended.
func (q *Queue) freed(a *slots.Address, now time.Time) {
	crowd := q.crowds[a]
	if len(crowd) == 0 {
		return
	}
	i := slices.IndexFunc(crowd, func(s *site) bool { return !s.stranger || q.admits(a, s, now) })
	if k := slices.IndexFunc(crowd, func(s *site) bool { return s.stranger && !q.admits(a, s, now) }); k >= 0 {
		q.lookAgain(crowd[k], q.strangers[a].again, now)
	}
	if i < 0 {
		return
	}
	at := now.Add(soonest)
	if _, free := a.Oldest(now); a.Held() >= a.Room() {
		if free.IsZero() {
			return // all are up, or about to be
		}
		at = free
	}
	q.lookAgain(crowd[i], at, now)
}

// leaveCrowd ends the site's waiting at an address.
func (q *Queue) leaveCrowd(s *site) {
	if s.crowd == nil {
		return
	}
	rest := slices.DeleteFunc(q.crowds[s.crowd], func(x *site) bool { return x == s })
	if len(rest) == 0 {
		delete(q.crowds, s.crowd)
	} else {
		q.crowds[s.crowd] = rest
	}
	s.crowd = nil
}

// heirAt finds the site that has waited longest for a slot at the session's address, if
// that is not as well off as the session's own, which has so many. Sites that have none take
// turns with those that have one.
func (q *Queue) heirAt(s *Session, held int, now time.Time) *site {
	for _, x := range q.crowds[s.slot.Address] {
		if n := x.held(); x != s.dest.site && (n == 0 || n+1 < held) && (!x.stranger || q.admits(s.slot.Address, x, now)) {
			return x
		}
	}
	return nil
}

// hadTurn says whether a session has worked for so long that it makes room for others.
func (s *Session) hadTurn(now time.Time) bool {
	if s.jobs > 0 && (s.jobs-s.turnJobs >= turn || now.Sub(s.turnAt) >= crowdTime) {
		s.turnJobs, s.turnAt = s.jobs, now
		return true
	}
	return false
}
