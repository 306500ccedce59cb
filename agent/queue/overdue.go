package queue

import (
	"cmp"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// Mail that has reached its age ends by a failed try. Mostly that is a transaction, and
// its outcome says so. Where no session comes up there is none: then what ends it
// is the failure of its domain's look-up, of its destination's connect, or the
// receiver's word that it wants no connection at all, for the second time without a
// message taken in between. The mail must have been there for it: old enough, due, and with
// no pause on. All else that keeps mail waiting is our own doing, ends nothing, and is
// followed by a try: a look-up or connect that is under way or has no place yet
// (max_sessions, a pace, a suspension), a pause, the window or a quota of its stream, a start
// after a week.

// Overdue takes out recipients that ended so: a failure came when they were older than
// handback_after or expire of their queue; policy is that of a domain without a route.
// What goes to the host MTA never ends so, however long it is away. The owner settles
// each job, by the queue and the reason that come with it.
func (q *Queue) Overdue(policy func(domain string) *config.Queue, yield func(job Job, by *config.Queue, reason string)) {
	for _, l := range q.failing() {
		without := policy(l.domain.domain())
		for begun, more := false, true; more; begun = true {
			var jobs []Job
			var by *config.Queue
			var reason string
			jobs, by, reason, more = q.overdue(l, without, begun)
			for _, job := range jobs {
				yield(job, by, reason)
			}
		}
	}
}

// failing are the lanes whose mail cannot be tried, some thousand looked at in one turn
// under the mutex.
func (q *Queue) failing() (lanes []*lane) {
	walk(q, &q.laneByNo, func(l *lane) {
		if q.failed(l) != 0 {
			lanes = append(lanes, l)
		}
	}, always)
	return lanes
}

// failed is when a lane's mail was last shown that it cannot be tried, in Unix seconds; zero: it
// was not.
func (q *Queue) failed(l *lane) uint32 {
	d := l.domain.dest
	switch {
	case l.domain.name == q.o.Relay || l.paused || l.n == 0 || l.flow != nil && l.flow.gate.shut(time.Now()):
	case d == nil:
		return l.domain.failed
	case d.route.Handback || d.live > 0:
	default:
		return max(d.failed, d.site.shut)
	}
	return 0
}

// lived is how long mail has lived, as far as that counts for its age.
func (l *limited) lived(born, now time.Time) time.Duration {
	if l == nil || l.ExpireAlways {
		return now.Sub(born)
	}
	return l.Window.Within(born, now)
}

// overdueAtOnce is how many recipients are taken out in one turn under the mutex.
const overdueAtOnce = 256

// overdue takes some of a lane's overdue recipients, and says whether there may be more. One
// turn looks at batch places at most; the next, for which begun is true, goes on behind
// them, wherever the lane's head is by then. So a long lane of young mail is gone by once,
// and not for each part of the old mail behind it.
func (q *Queue) overdue(l *lane, policy *config.Queue, begun bool) (jobs []Job, by *config.Queue, reason string, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lanes[l.key] != l {
		return nil, nil, "", false
	}
	failed := q.failed(l)
	by, reason = policy, l.domain.reason
	if d := l.domain.dest; d != nil {
		by, reason = d.route.Queue, d.reason
		if reason == "" {
			c, _ := q.control(d.site).Clamped(moment(failed))
			reason = c.Reason
		}
	}
	limits := q.limitsFor(l.key.stream)
	expire := by.Expire
	if limits != nil && limits.Expire > 0 {
		expire = limits.Expire
	}
	age := cmp.Or(time.Duration(by.HandbackAfter), expire)
	if failed == 0 || age <= 0 || failed <= l.since {
		l.cursor = 0
		return nil, nil, "", false
	}
	if !begun {
		l.cursor = l.head
	}
	born := seconds(moment(failed).Add(-age))
	for range batch {
		r := l.cursor
		if r == 0 || len(jobs) == overdueAtOnce {
			break
		}
		rec := q.recipients.at(r)
		l.cursor = rec.next // before it is taken out: the places behind it may go with it
		if rec.message != 0 && rec.due < failed && q.messages.at(rec.message).born <= born && limits.lived(moment(q.messages.at(rec.message).born), moment(failed)) >= age {
			job := q.job(l, rec)
			job.Items = append(job.Items, q.takeOut(r))
			jobs = append(jobs, job)
		}
	}
	return jobs, by, reason, l.cursor != 0
}
