package queue

import (
	"container/heap"
	"time"
)

// event is something that happens at a time: a bucket of retries comes due, a
// destination may be probed, a paced site has a token, a route expires.
type event interface {
	// happen is called under the mutex at or after its time.
	happen(q *Queue, now time.Time)
}

// entry is one event on the agenda. An event that was moved to an earlier time
// leaves its old entry behind; happen must tolerate coming too early or twice.
type entry struct {
	at time.Time
	event
}

type agenda []entry

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(entry)) }
func (a *agenda) Pop() any {
	old := *a
	x := old[len(old)-1]
	old[len(old)-1] = entry{}
	*a = old[:len(old)-1]
	return x
}

// plan puts an event on the agenda and wakes Run if it is now the first.
func (q *Queue) plan(at time.Time, e event) {
	heap.Push(&q.agenda, entry{at, e})
	if q.agenda[0].event == e {
		select {
		case q.kick <- struct{}{}:
		default:
		}
	}
}

// farthest is longer than anything is planned ahead. What is further away was
// planned by a clock that has been set back since: mail would wait for years.
const farthest = 30 * 24 * time.Hour

// runAgenda lets what is due happen and returns how long until the next event.
// What plans itself again for now comes in the next turn, so that the mutex is
// free in between.
func (q *Queue) runAgenda(now time.Time) time.Duration {
	for range len(q.agenda) {
		if wait := q.agenda[0].at.Sub(now); wait > 0 && wait < farthest {
			return wait
		}
		heap.Pop(&q.agenda).(entry).happen(q, now)
	}
	if len(q.agenda) > 0 {
		return max(0, q.agenda[0].at.Sub(now))
	}
	return time.Hour
}

// bucketSeconds is the grain of retries: few enough buckets that opening one is
// rare, fine enough that nobody sees it.
const bucketSeconds = 2

// bucket holds the recipients that come due in the same two seconds.
type bucket struct {
	no   uint32
	head uint32
}

// postpone defers a recipient until due.
func (q *Queue) postpone(r uint32, rec *recipient, due, now time.Time) {
	no := seconds(due)/bucketSeconds + 1 // never early
	b := q.due[no]
	if b == nil {
		b = &bucket{no: no}
		q.due[no] = b
		q.plan(moment(no*bucketSeconds), b)
	}
	rec.state, rec.due = inBucket, seconds(due)
	rec.next, b.head = b.head, r
	q.deferred++
}

// batch bounds how many recipients one turn under the mutex moves, so that a
// large bucket or domain never stalls the sessions for long.
const batch = 4096

// happen brings the bucket's recipients back to the tails of their lanes, where
// they mix with new mail.
func (b *bucket) happen(q *Queue, now time.Time) {
	if q.due[b.no] == b {
		delete(q.due, b.no)
	}
	defer q.serveTouched(now)
	for range batch {
		if b.head == 0 {
			return
		}
		r := b.head
		rec := q.recipients.at(r)
		b.head = rec.next
		if rec.message == 0 { // Take was here
			q.recipients.free(r)
			continue
		}
		q.deferred--
		l := *q.laneByNo.at(rec.lane)
		q.push(l, r, rec, now)
		q.touch(l)
	}
	q.plan(now, b)
}
