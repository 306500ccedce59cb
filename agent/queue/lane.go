package queue

import (
	"cmp"
	"slices"
	"time"
)

// laneKey names a lane.
type laneKey struct {
	stream uint32
	name   string // of the route: a domain, and what its mail leaves from
}

// lane is a first-in-first-out list of recipients of one (stream, domain, from).
type lane struct {
	linked[*lane]
	no         uint32 // in Queue.laneByNo
	key        laneKey
	domain     *domain
	flow       *flow  // where it is served; nil while the domain has no route, or a pause is on
	paused     bool   // a pause is on, as was last looked at
	since      uint32 // unix seconds: since when no pause is on, and its route is this one
	head, tail uint32 // recipients
	cursor     uint32 // recipient, or place left behind, where Overdue goes on; 0: it is not under way here
	n          int    // recipients waiting here
	refs       int    // recipients anywhere that belong to this lane
}

func (l *lane) link() *linked[*lane] { return &l.linked }

// flow is a stream's share of a destination: the lanes of that stream with mail
// waiting, and its credit in the deficit round robin.
type flow struct {
	linked[*flow]
	dest   *destination
	stream uint32
	lanes  ring[*lane]
	refs   int // lanes attached, with mail or without
	credit int // octets it may send before the next stream's turn
	mail   int // recipients in the lanes

	priority int   // of its [[stream]]; 0: none
	gate     *gate // that it passes; nil: none
	sleeper  sleeper
	warm     bool     // the line at the gate where it waits is that of those with sessions up
	permits  []permit // to pass it
	out      bool     // it is among limited.out
}

func (f *flow) link() *linked[*flow] { return &f.linked }

const (
	// quantum is what a stream of priority 1 may send in one turn, in octets of content.
	quantum = 64 << 10
	// recipientCost and maxCost shape a transaction's price: each recipient has a
	// price beside the octets, and one huge message does not hold its stream back
	// for a thousand turns.
	recipientCost = 4 << 10
	maxCost       = 1 << 20
)

// domain is a recipient domain (or a relay's pseudo domain) with mail that leaves from one
// place.
type domain struct {
	name      string // RouteName
	lanes     []*lane
	dest      *destination // nil: not routed yet
	resolving bool
	outdated  bool      // what its route depends on may have changed since the search began: the answer is not used
	stale     bool      // its route expired while it had no mail waiting
	no        uint32    // in Queue.domainByNo
	failed    uint32    // unix seconds: when there was last no route; zero: never yet
	reason    string    // why there is no route at present
	expires   time.Time // when the way should be asked for again
}

// domain is the domain in the name, without what its mail leaves from.
func (d *domain) domain() string {
	domain, _ := SplitRouteName(d.name)
	return domain
}

// from is what its mail leaves from.
func (d *domain) from() string {
	_, from := SplitRouteName(d.name)
	return from
}

// lane returns the lane for a stream and the name of a route, and asks for the route if
// that is new.
func (q *Queue) lane(stream uint32, name string, now time.Time) *lane {
	key := laneKey{stream, name}
	if l := q.lanes[key]; l != nil {
		return l
	}
	d := q.domains[name]
	if d == nil {
		d = &domain{name: name}
		q.domains[name] = d
		q.noteFrom(d)
		d.no = q.domainByNo.add(d)
		q.resolve(d)
	}
	l := &lane{key: key, domain: d}
	l.no = q.laneByNo.add(l)
	q.lanes[key] = l
	d.lanes = append(d.lanes, l)
	q.streams.share(stream)
	if d.dest != nil {
		q.attach(l, d.dest, now)
	} else {
		l.paused, l.since = q.lanePaused(l), seconds(now)
	}
	return l
}

// unref counts a recipient out of its lane; an unused lane goes.
func (q *Queue) unref(l *lane) {
	if l.refs--; l.refs > 0 {
		return
	}
	q.detach(l)
	delete(q.lanes, l.key)
	d := l.domain
	for i, x := range d.lanes {
		if x == l {
			last := len(d.lanes) - 1
			d.lanes[i] = d.lanes[last]
			d.lanes[last] = nil
			d.lanes = d.lanes[:last]
			break
		}
	}
	if len(d.lanes) == 0 && d.expires.IsZero() {
		q.forgetDomain(d) // nothing is known of it; else its route is kept until it expires
	}
	q.laneByNo.free(l.no)
	q.streams.unref(l.key.stream)
}

// forgetDomain drops a domain without lanes.
func (q *Queue) forgetDomain(d *domain) {
	delete(q.domains, d.name)
	q.forgetFrom(d)
	q.domainByNo.free(d.no)
	q.abandon(d.dest)
}

// resolve asks the owner for the route to a domain.
func (q *Queue) resolve(d *domain) {
	d.stale = false
	if !d.resolving {
		d.resolving = true
		q.o.Resolve(d.name)
	}
}

// attach lets a lane be served at a destination, unless a pause is on.
func (q *Queue) attach(l *lane, dest *destination, now time.Time) {
	l.since = seconds(now)
	if l.paused = q.lanePaused(l); l.paused {
		return
	}
	at, known := dest.flowAt(l.key.stream)
	if !known {
		f := &flow{dest: dest, stream: l.key.stream}
		dest.flows = slices.Insert(dest.flows, at, f)
		q.setGate(f)
	}
	f := dest.flows[at]
	f.refs++
	l.flow = f
	if l.n > 0 {
		f.lanes.push(l)
	}
	q.offer(f, l.n)
	if l.n > 0 && f.served() {
		dest.active.push(f)
	}
}

// detach takes a lane away from where it is served.
func (q *Queue) detach(l *lane) {
	f := l.flow
	if f == nil {
		return
	}
	l.flow = nil
	f.lanes.remove(l)
	if f.lanes.n == 0 {
		f.dest.active.remove(f)
	}
	q.offer(f, -l.n)
	if f.refs--; f.refs == 0 {
		at, _ := f.dest.flowAt(f.stream)
		if f.dest.flows = slices.Delete(f.dest.flows, at, at+1); len(f.dest.flows) == 0 {
			f.dest.flows = nil // most destinations have no mail most of the time
		}
	}
}

// flowAt is where a stream's flow is among a destination's, or would be.
func (d *destination) flowAt(stream uint32) (at int, known bool) {
	return slices.BinarySearchFunc(d.flows, stream, func(f *flow, stream uint32) int { return cmp.Compare(f.stream, stream) })
}

// push puts a recipient at the tail of its lane.
func (q *Queue) push(l *lane, r uint32, rec *recipient, now time.Time) {
	rec.state, rec.next, rec.due = inLane, 0, seconds(now)
	if l.head == 0 {
		l.head = r
	} else {
		q.recipients.at(l.tail).next = r
	}
	l.tail = r
	q.arrived(l)
}

// pushFront puts a recipient that was taken and not offered back where it was.
func (q *Queue) pushFront(l *lane, r uint32, rec *recipient) {
	rec.state, rec.next = inLane, l.head
	if l.head == 0 {
		l.tail = r
	}
	l.head = r
	q.arrived(l)
}

func (q *Queue) arrived(l *lane) {
	l.n++
	q.waiting++
	if l.domain.stale {
		q.resolve(l.domain)
	}
	f := l.flow
	if f == nil {
		return
	}
	if l.n == 1 {
		f.lanes.push(l)
	}
	q.offer(f, 1)
	if l.n == 1 && f.served() {
		f.dest.active.push(f)
	}
}

// pop takes the head of a lane.
func (q *Queue) pop(l *lane) (uint32, *recipient) {
	r := l.head
	rec := q.recipients.at(r)
	l.leave(r, rec.next)
	l.head = rec.next
	rec.state, rec.next = taken, 0
	q.departed(l)
	return r, rec
}

// departed counts a recipient that was taken out of its lane, and frees the
// places left behind by Take at its head: the head of a lane is always mail.
func (q *Queue) departed(l *lane) {
	for l.head != 0 && q.recipients.at(l.head).message == 0 {
		left := l.head
		l.head = q.recipients.at(left).next
		l.leave(left, l.head)
		q.recipients.free(left)
	}
	l.n--
	q.waiting--
	q.active++
	if f := l.flow; f != nil {
		if l.n == 0 {
			f.lanes.remove(l)
			if f.lanes.n == 0 {
				f.dest.active.remove(f)
			}
		}
		q.offer(f, -1)
	}
}

// leave moves Overdue on from a place that the lane gives up.
func (l *lane) leave(r, next uint32) {
	if l.cursor == r {
		l.cursor = next
	}
}

// fill takes one transaction from a lane: the recipients at its head that
// belong to one message, up to limit. They stand together because Add brought
// them together.
func (q *Queue) fill(l *lane, limit int, items []Item) Job {
	first := q.recipients.at(l.head).message
	m := q.messages.at(first)
	items = items[:0]
	for l.n > 0 && len(items) < limit {
		if q.recipients.at(l.head).message != first {
			break
		}
		r, rec := q.pop(l)
		items = append(items, Item{Handle: Handle(r), Ordinal: rec.ordinal, Tries: int(rec.tries)})
	}
	return Job{ID: m.id, Domain: l.domain.domain(), From: l.domain.from(), Born: moment(m.born), Items: items}
}

// next takes the destination's next transaction, of up to limit recipients, by deficit round robin over
// its streams and round robin over a stream's domains. There must be mail.
func (q *Queue) next(d *destination, limit int, items []Item) (Job, *flow, *permit) {
	f := d.active.head
	for d.active.n > 1 && f.credit <= 0 {
		f.credit += quantum * q.priority(f)
		d.active.rotate()
		f = d.active.head
	}
	alone := d.active.n == 1
	p := q.use(f)
	if p != nil && p.budgets != nil && p.fresh == 0 {
		q.seekTried(f)
	}
	l := f.lanes.head
	size := int(q.messages.at(q.recipients.at(l.head).message).size)
	f.lanes.rotate()
	if p != nil && p.n > 0 {
		limit = min(limit, p.n)
	}
	job := q.fill(l, limit, items)
	if alone {
		f.credit = 0 // no turns to count
	} else {
		f.credit -= min(size+recipientCost*len(job.Items), maxCost)
	}
	return job, f, p
}

// share counts one more holder of a number.
func (t *names) share(no uint32) {
	if no != 0 {
		t.texts.at(no).refs++
	}
}
