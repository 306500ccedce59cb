package queue

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/spool"
)

// An address that warms up may send so much to a provider for the first time (package warmup).
// Such mail passes a gate like that of streams with limits: it is the same one where a stream
// has any, and takes from the budgets what is at the head of a flow and was never tried. What was
// tried passes: it counted on the day it began. Where there is no room, mail waits as for
// a quota; or the message at the head leaves the flow, for the lane of the pool's warm
// addresses, or for the host MTA (Overflowed). That happens as soon as the flow could have a
// permit, so where a receiver is down mail waits for it, as without warm-up.
//
// Where mail overflows, a part of the room is kept for recipients who took mail before (Spared):
// others go elsewhere at once as well, and nothing waits. Where mail waits for room it goes as it came, since those whom
// nobody knows would wait as long as others come.
//
// A permit is good for whatever is first in its flow when it is used. Should that be mail
// that was never tried, where the permit was for mail that was, it is counted all the same.

// Budget is what may leave from an address for the first time. It is asked with the mutex held.
type Budget interface {
	// Room is how many recipients may be tried for the first time now, and next when there will be
	// more. If that is the zero time, QuotasGranted will tell, in a moment.
	Room(now time.Time) (n int, next time.Time)
	// Spared says whether n recipients of mail that overflows may have room, where there is any: it
	// is kept for those who are known to have taken mail before.
	Spared(now time.Time, n int, known bool) bool
	// Take counts up to n of them, and says how many those are.
	Take(now time.Time, n int) (int, quotas.Taken)
	// Add counts n of them for which there is no room.
	Add(now time.Time, n int)
	// Renew has n of those that were taken together count on the day of now.
	Renew(now time.Time, from quotas.Taken, n int) quotas.Taken
	// Return takes back n of those that were taken together: they were not tried.
	Return(from quotas.Taken, n int)
}

// Warmup bounds what leaves from the sources of a route.
type Warmup struct {
	Key       string   // of all that share a gate
	Pool      string   // of the sources
	Addresses []string // that warm up, as package warmup calls them
	Budgets   []Budget // of these: there must be room in all
	// Handback has what has no room go to the host MTA. Elsewhere says what a recipient
	// leaves from then; "" is nothing. With neither it waits.
	Handback  bool
	Elsewhere func(domain string, id spool.ID, recipient uint32) string
}

// key is the key; "" of none.
func (w *Warmup) key() string {
	if w == nil {
		return ""
	}
	return w.Key
}

// overflows says whether mail without room does not wait.
func (w *Warmup) overflows() bool { return w.Handback || w.Elsewhere != nil }

// overflowAtOnce is how many messages leave a gate in one turn under the mutex.
const overflowAtOnce = 256

// gateKey names a gate of a stream's limits.
type gateKey struct {
	queue  string // that has quotas of its own; else ""
	warmup string // Warmup.Key
}

// fresh is how many of the first n recipients at the head of a lane were never tried, and how
// many of the first come before there are more than room of those.
func (q *Queue) fresh(r uint32, n, room int) (fresh, within int) {
	for ; n > 0 && r != 0; n-- {
		rec := q.recipients.at(r)
		if rec.tries == 0 {
			if fresh++; fresh <= room {
				within++
			}
		} else if fresh <= room {
			within++
		}
		r = rec.next
	}
	return fresh, within
}

// seekTried brings a lane to the head of a flow whose mail was tried, if it finds one.
func (q *Queue) seekTried(f *flow) {
	for range min(f.lanes.n, gateLooks) {
		if q.recipients.at(f.lanes.head.head).tries > 0 {
			return
		}
		f.lanes.rotate()
	}
}

// warmRoom is how many recipients may be tried for the first time by all budgets of a gate, and
// if none may, when.
func (g *gate) warmRoom(now time.Time) (room int, next time.Time) {
	room = 1 << 30
	for _, b := range g.warmup.Budgets {
		n, at := b.Room(now)
		if n < room {
			room, next = n, at
		}
		if n == 0 {
			break
		}
	}
	return room, next
}

// askWarmup takes from the budgets what a permit for p.n recipients at the head of a flow needs.
// over says that the message at the head has no room and must leave the flow.
func (q *Queue) askWarmup(f *flow, p *permit, now time.Time) (next time.Time, ok, over bool) {
	g := f.gate
	head := f.lanes.head.head
	fresh, _ := q.fresh(head, p.n, 0)
	room, next := g.warmRoom(now)
	if fresh == 0 { // it is let go in any case
		p.warm(g, min(room, p.n), now)
		return next, true, false
	}
	if g.warmup.overflows() && !q.spared(f, fresh, now) {
		return now.Add(lookEvery), false, true
	}
	if room >= fresh {
		p.warm(g, fresh, now)
		return next, true, false
	}
	if !next.IsZero() && g.warmup.overflows() { // else there is more in a moment
		return next, false, true
	}
	_, within := q.fresh(head, p.n, room)
	if within == 0 {
		return next, false, false
	}
	fresh, _ = q.fresh(head, within, 0)
	p.n = within
	p.warm(g, fresh, now)
	return next, true, false
}

// spared says whether the n fresh recipients at the head of a flow may have room as those at an
// address do who took mail before, or who do not and cannot go elsewhere.
func (q *Queue) spared(f *flow, n int, now time.Time) bool {
	known := q.messages.at(q.recipients.at(f.lanes.head.head).message).known
	for _, b := range f.gate.warmup.Budgets {
		if !b.Spared(now, n, known) {
			return !q.canOverflow(f)
		}
	}
	return true
}

// canOverflow says whether what is at the head of a flow can go elsewhere.
func (q *Queue) canOverflow(f *flow) bool {
	w, l := f.gate.warmup, f.lanes.head
	rec := q.recipients.at(l.head)
	return w.Handback || w.Elsewhere(l.domain.domain(), q.messages.at(rec.message).id, rec.ordinal) != ""
}

// warm counts n recipients of a permit as being tried for the first time.
func (p *permit) warm(g *gate, n int, now time.Time) {
	p.fresh, p.budgets, p.shares = n, g.warmup.Budgets, p.shares[:0]
	for _, b := range p.budgets {
		_, from := b.Take(now, n)
		p.shares = append(p.shares, from)
	}
}

// unwarm gives n of them back.
func (p *permit) unwarm(n int) {
	if n <= 0 {
		return
	}
	for i, b := range p.budgets {
		b.Return(p.shares[i], n)
	}
	p.fresh -= n
}

// useWarmup counts what a transaction really tries for the first time.
func (p *permit) useWarmup(items []Item, now time.Time) {
	if p.budgets == nil {
		return
	}
	n := untried(items, nil)
	p.unwarm(p.fresh - n)
	for i, b := range p.budgets {
		p.shares[i] = b.Renew(now, p.shares[i], min(n, p.fresh))
	}
	if more := n - p.fresh; more > 0 {
		for _, b := range p.budgets {
			b.Add(now, more)
		}
	}
}

// untried is how many items were never tried, but for those that were by now.
func untried(items []Item, done []Settled) (n int) {
	for _, item := range items {
		if item.Tries == 0 && !slices.ContainsFunc(done, func(x Settled) bool {
			return x.Handle == item.Handle && x.How != Untried && x.How != FromElsewhere
		}) {
			n++
		}
	}
	return n
}

// overflow has those at the head of a flow leave it that belong to one message and were never
// tried, and says whether they could.
func (q *Queue) overflow(f *flow, now time.Time) bool {
	if !q.canOverflow(f) {
		return false
	}
	w, l := f.gate.warmup, f.lanes.head
	job := q.fill(l, q.headCount(f), nil)
	left := Job{ID: job.ID, Domain: job.Domain, From: job.From, Born: job.Born}
	var stay []Item
	var to *lane
	for _, item := range job.Items {
		from := ""
		if item.Tries == 0 && !w.Handback {
			from = w.Elsewhere(job.Domain, job.ID, item.Ordinal)
		}
		switch {
		case item.Tries == 0 && w.Handback:
			left.Items = append(left.Items, item)
		case from == "":
			stay = append(stay, item)
		default:
			q.settle(Settled{Handle: item.Handle, How: FromElsewhere, State: spool.State{From: from}}, now)
			if x := *q.laneByNo.at(q.recipients.at(uint32(item.Handle)).lane); x != to {
				q.serveLane(to, now)
				to = x
			}
		}
	}
	for i := len(stay) - 1; i >= 0; i-- {
		q.settle(Settled{Handle: stay[i].Handle, How: Untried}, now)
	}
	if left.Items != nil {
		q.overflowed = append(q.overflowed, left)
	}
	q.serveLane(to, now)
	return true
}

// promised is how many recipients of a flow have permits.
func (f *flow) promised() (n int) {
	for i := range f.permits {
		n += max(1, f.permits[i].n)
	}
	return n
}

// serveLane serves what has come to a lane, if it has a route.
func (q *Queue) serveLane(l *lane, now time.Time) {
	if l != nil && l.flow != nil {
		q.serveAll(l.flow.dest, now)
	}
}

// Overflowed takes out what has no room at its address and is to go to the host MTA. The owner
// settles the jobs.
func (q *Queue) Overflowed() []Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	jobs := q.overflowed
	q.overflowed = nil
	return jobs
}

// WarmingUp is how many recipients wait for room at addresses that warm up.
func (q *Queue) WarmingUp() (n int) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachGate(func(g *gate) {
		if g.warmup != nil && g.forWarmup && g.until.After(now) {
			n += g.mail
		}
	})
	return n
}

// warmingUp is the same of a destination. The caller holds mu.
func (d *destination) warmingUp(now time.Time) (n int) {
	for _, f := range d.flows {
		if g := f.gate; g != nil && g.forWarmup && g.until.After(now) {
			n += f.mail
		}
	}
	return n
}

func (q *Queue) eachGate(f func(*gate)) {
	for _, g := range q.coldGates.gates {
		f(g)
	}
	for _, l := range q.limited {
		for _, g := range l.gates {
			f(g)
		}
	}
}

// inWords says what mail waits for at addresses that warm up.
func (w *Warmup) inWords() string {
	return "the warm-up of " + strings.Join(w.Addresses, " and ") + " has no room"
}
