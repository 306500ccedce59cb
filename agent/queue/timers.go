package queue

import (
	"container/heap"
	"time"
)

// timer is something that happens at a time: a bucket of retries comes due, a
// destination may be probed, a paced site has a token, a route expires.
type timer interface {
	// fire is called under the mutex at or after its time.
	fire(q *Queue, now time.Time)
}

// timerEntry is one timer. An event that was moved to an earlier time
// leaves its old timerEntry behind; happen must tolerate coming too early or twice.
type timerEntry struct {
	at time.Time
	timer
}

type timers []timerEntry

func (a timers) Len() int           { return len(a) }
func (a timers) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a timers) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *timers) Push(x any)        { *a = append(*a, x.(timerEntry)) }
func (a *timers) Pop() any {
	old := *a
	x := old[len(old)-1]
	old[len(old)-1] = timerEntry{}
	*a = old[:len(old)-1]
	return x
}

// schedule puts an timer and wakes Run if it is now the first.
func (q *Queue) schedule(at time.Time, e timer) {
	heap.Push(&q.timers, timerEntry{at, e})
	if q.timers[0].timer == e {
		select {
		case q.kick <- struct{}{}:
		default:
		}
	}
}

// farthest is longer than anything is planned ahead. What is further away was
// planned by a clock that has been set back since: mail would wait for years.
const farthest = 30 * 24 * time.Hour

// runTimers lets what is due happen and returns how long until the next event.
// What plans itself again for now comes in the next turn, and so do all but the first
// pageSize where many are due at once, so that the mutex is free in between.
func (q *Queue) runTimers(now time.Time) time.Duration {
	for range min(len(q.timers), pageSize) {
		if wait := q.timers[0].at.Sub(now); wait > 0 && wait < farthest {
			return wait
		}
		heap.Pop(&q.timers).(timerEntry).fire(q, now)
	}
	if len(q.timers) > 0 {
		return max(0, q.timers[0].at.Sub(now))
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
		q.schedule(moment(no*bucketSeconds), b)
	}
	rec.state, rec.due = inBucket, seconds(due)
	rec.next, b.head = b.head, r
	q.deferred++
}

// batch bounds how many recipients one turn under the mutex moves, so that a
// large bucket or domain never stalls the sessions for long.
const batch = 4096

// fire brings the bucket's recipients back to the tails of their lanes, where
// they mix with new mail.
func (b *bucket) fire(q *Queue, now time.Time) {
	if q.due[b.no] == b {
		delete(q.due, b.no)
	}
	defer q.serveChanged(now)
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
		q.markChanged(l)
	}
	q.schedule(now, b)
}
