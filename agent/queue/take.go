package queue

import "time"

// Take takes recipients that List showed out of the queue, so that the owner can
// settle them: an admin cancels them, hands them back, lets them expire. Those
// that are in a transaction now, or gone, are left out. Recipients of one message
// in one domain that stand together make one job.
func (q *Queue) Take(entries []Entry) []Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	var jobs []Job
	for i := range entries {
		e := &entries[i]
		rec := q.listed(e)
		if rec == nil || rec.state == taken {
			continue
		}
		job := q.job(*q.laneByNo.at(rec.lane), rec)
		item := q.takeOut(uint32(e.Handle))
		if n := len(jobs); n > 0 && jobs[n-1].ID == job.ID && jobs[n-1].Domain == job.Domain {
			jobs[n-1].Items = append(jobs[n-1].Items, item)
			continue
		}
		job.Items = []Item{item}
		jobs = append(jobs, job)
	}
	return jobs
}

// listed is the recipient of an entry, nil if it is not there any more.
func (q *Queue) listed(e *Entry) *recipient {
	rec := q.recipients.at(uint32(e.Handle))
	if rec.message == 0 || rec.ordinal != e.Ordinal || q.messages.at(rec.message).id != e.ID {
		return nil
	}
	return rec
}

// Hasten makes recipients that List showed due now, if nothing else keeps them, and
// has what keeps them from a connect looked at again: a domain without a route, a
// destination or an address of it that was down. What a receiver has asked for stays, and so do pauses.
// It returns how many will be tried.
func (q *Queue) Hasten(entries []Entry) (n int) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	var last *destination // entries of one stand together mostly
	for i := range entries {
		rec := q.listed(&entries[i])
		if rec == nil || rec.state != inLane && rec.state != inBucket {
			continue
		}
		n++
		l := *q.laneByNo.at(rec.lane)
		if rec.state == inBucket {
			h := uint32(q.takeOut(uint32(entries[i].Handle)).Handle)
			rec = q.recipients.at(h)
			rec.due = seconds(now)
			q.active--
			q.put(h, rec, now, now)
		}
		if d := l.domain; d.dest == nil {
			q.resolve(d)
		} else if d.dest != last {
			last = d.dest
			q.retry(last, now)
		}
		q.markChanged(l)
	}
	q.serveChanged(now)
	return n
}

// retry has a destination that was down called again, and each of its addresses. Others that
// share an address find it to be called again, too, which does them no harm.
func (q *Queue) retry(d *destination, now time.Time) {
	if d.holdoff.After(now) {
		d.holdoff = now
	}
	passed := false
	for i := range d.places {
		p := &d.places[i]
		passed = p.Retry(now) || now.Before(p.until) || passed
		p.until = time.Time{}
	}
	if passed {
		q.control(d.site).Hasten(now)
	}
}

// Reroute asks for the route to a domain again, if it has mail.
func (q *Queue) Reroute(domain string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachFrom(domain, q.resolve)
}

// job is a job, without items, for a recipient of a lane.
func (q *Queue) job(l *lane, rec *recipient) Job {
	m := q.messages.at(rec.message)
	return Job{ID: m.id, Domain: l.domain.domain(), From: l.domain.from(), Born: moment(m.born)}
}

// takeOut takes a recipient from wherever it is in a lane or bucket. These lists
// are linked one way, so its place stays behind, empty, until the list comes by
// it, and the recipient gets a new one.
func (q *Queue) takeOut(r uint32) Item {
	if rec := q.recipients.at(r); rec.state == onHold || rec.state == parked { // on no list
		rec.state = taken
		q.held--
		q.active++
		return Item{Handle: Handle(r), Ordinal: rec.ordinal, Tries: int(rec.tries)}
	}
	h, moved := q.recipients.take()
	rec := q.recipients.at(r)
	*moved = *rec
	*rec = recipient{next: rec.next}
	deferred := moved.state == inBucket
	moved.state, moved.next = taken, 0
	if deferred {
		q.deferred--
		q.active++
	} else {
		q.departed(*q.laneByNo.at(moved.lane))
	}
	return Item{Handle: Handle(h), Ordinal: moved.ordinal, Tries: int(moved.tries)}
}
