package queue

import (
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// Entry is one waiting recipient, as listings show it.
type Entry struct {
	ID      spool.ID
	Ordinal uint32
	Born    time.Time
	Size    int64
	Stream  string
	Domain  string // RelayDomain's form for mail to a relay
	Queue   string // "" while the domain has no way
	Site    string
	State   string    // "active", "waiting", "deferred"
	Due     time.Time // of a deferred one
	Tries   int
	Reason  string // why it is not delivered yet; "" if it was not tried
}

// List calls yield with every recipient that is not done, some thousand under
// the mutex at a time, so that a listing of millions does not hold up the
// sessions. What changes meanwhile is listed in its old or its new state.
func (q *Queue) List(yield func([]Entry) bool) {
	var page []Entry
	for chunk := 0; ; chunk++ {
		page = page[:0]
		q.mu.Lock()
		if chunk >= len(q.recipients.chunks) {
			q.mu.Unlock()
			return
		}
		for i := range q.recipients.chunks[chunk] {
			if rec := &q.recipients.chunks[chunk][i]; rec.message != 0 {
				page = append(page, q.entry(rec))
			}
		}
		q.mu.Unlock()
		if len(page) > 0 && !yield(page) {
			return
		}
	}
}

func (q *Queue) entry(rec *recipient) Entry {
	m := q.messages.at(rec.message)
	l := *q.laneByNo.at(rec.lane)
	e := Entry{
		ID: m.id, Ordinal: rec.ordinal, Born: moment(m.born), Size: int64(m.size),
		Stream: q.streams.text(m.stream), Domain: l.key.domain,
		Tries: int(rec.tries), Reason: q.reasons.text(rec.reason),
	}
	d := l.domain.dest
	if d != nil {
		e.Queue, e.Site = d.way.Queue.Name, d.site.key
	}
	switch rec.state {
	case taken:
		e.State = "active"
	case inBucket:
		e.State, e.Due = "deferred", moment(rec.due)
	default:
		e.State = "waiting"
		if d == nil {
			e.Reason = l.domain.reason
		} else if d.reason != "" {
			e.Reason = d.reason
		}
	}
	return e
}

// Site is the state of one site, as listings show it.
type Site struct {
	Name     string
	Queue    string
	Hosts    int // addresses of its destinations
	Waiting  int
	Sessions int // up
	Opening  int
	Ready    int // of the sessions, those without work
	Target   elastic.Target
}

// Sites lists all sites that are known at the moment.
func (q *Queue) Sites() []Site {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]Site, 0, len(q.sites))
	at := make(map[*site]int, len(q.sites))
	for _, s := range q.sites {
		at[s] = len(list)
		list = append(list, Site{
			Name: s.key, Queue: s.policy.Name, Waiting: s.waiting,
			Sessions: s.live, Opening: s.opening, Target: s.control.Target(now, s.load()),
		})
	}
	for _, d := range q.dests {
		x := &list[at[d.site]]
		x.Ready += len(d.ready)
		if d.way.Plan != nil {
			for _, h := range d.way.Plan.Hosts {
				x.Hosts += len(h.Addrs)
			}
		} else {
			x.Hosts++
		}
	}
	return list
}

// Counts returns how many recipients wait in lanes, are deferred, and are
// taken by sessions, and how many sessions there are.
func (q *Queue) Counts() (waiting, deferred, active, sessions int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting, q.deferred, q.active, q.sessions
}

// Overdue takes out recipients that wait, but cannot be tried since their
// domain has no way or no session of their destination is up, and that are older than
// expire says for their domain. The owner settles each job.
func (q *Queue) Overdue(now time.Time, expire func(domain string) time.Duration, yield func(job Job, reason string)) {
	q.mu.Lock()
	lanes := make([]*lane, 0, len(q.lanes))
	for _, l := range q.lanes {
		lanes = append(lanes, l)
	}
	q.mu.Unlock()
	for _, l := range lanes {
		if l.key.domain == q.o.Relay {
			continue // the way home never expires
		}
		before := seconds(now.Add(-expire(l.key.domain)))
		for {
			job, reason, ok := q.overdue(l, before)
			if !ok {
				break
			}
			yield(job, reason)
		}
	}
}

// overdue takes the first overdue recipient of a lane.
func (q *Queue) overdue(l *lane, before uint32) (Job, string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := l.domain.dest
	if q.lanes[l.key] != l || d != nil && d.live > 0 {
		return Job{}, "", false
	}
	var last *recipient
	for r := l.head; r != 0; r = last.next {
		rec := q.recipients.at(r)
		m := q.messages.at(rec.message)
		if m.born > before {
			last = rec
			continue
		}
		q.unlink(l, r, last)
		reason := l.domain.reason
		if d != nil {
			reason = d.reason
		}
		return Job{ID: m.id, Domain: l.key.domain, Born: moment(m.born), Items: []Item{
			{Handle: Handle(r), Ordinal: rec.ordinal, Tries: int(rec.tries)},
		}}, reason, true
	}
	return Job{}, "", false
}

// unlink takes a recipient out of the middle of its lane; last stands before it.
func (q *Queue) unlink(l *lane, r uint32, last *recipient) {
	if last == nil {
		q.pop(l)
		return
	}
	// Bring it to the head, then take it as pop does.
	rec := q.recipients.at(r)
	last.next = rec.next
	if l.tail == r {
		for x := l.head; ; x = q.recipients.at(x).next {
			if q.recipients.at(x) == last {
				l.tail = x
				break
			}
		}
	}
	rec.next, l.head = l.head, r
	q.pop(l)
}
