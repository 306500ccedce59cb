package queue

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
		rec := q.recipients.at(uint32(e.Handle))
		if rec.message == 0 || rec.state == taken || rec.ordinal != e.Ordinal || q.messages.at(rec.message).id != e.ID {
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

// job is a job, without items, for a recipient of a lane.
func (q *Queue) job(l *lane, rec *recipient) Job {
	m := q.messages.at(rec.message)
	return Job{ID: m.id, Domain: l.key.domain, Born: moment(m.born)}
}

// takeOut takes a recipient from wherever it is in a lane or bucket. These lists
// are linked one way, so its place stays behind, empty, until the list comes by
// it, and the recipient gets a new one.
func (q *Queue) takeOut(r uint32) Item {
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
