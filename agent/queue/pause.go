package queue

import (
	"slices"
	"strings"
	"time"
)

// Pause keeps mail from being sent: all, or where each of the names that are given
// fits. What is in flight finishes; the rest waits, does not expire, and comes due as
// ever. The way home stays open, unless the pause names its queue or its site: what
// was handed back has the host MTA's pauses.
type Pause struct {
	Queue, Site, Stream, Domain string
	Reason                      string
}

// holds says whether a pause is on for a lane, which may have no route yet.
func (q *Queue) holds(b *Pause, l *lane) bool {
	if l.domain.name == q.o.Relay && b.Queue == "" && b.Site == "" {
		return false
	}
	queue, site := "", ""
	if d := l.domain.dest; d != nil {
		queue, site = d.route.Queue.Name, d.site.key
	}
	return (b.Queue == "" || b.Queue == queue) && (b.Site == "" || b.Site == site) &&
		(b.Stream == "" || q.mayBe(q.streams.text(l.key.stream), b.Stream)) && (b.Domain == "" || b.Domain == l.domain.domain())
}

// mayBe says whether a stream is, or has in it, the one of a name: past the number of distinct
// ones several share a name, by the limits of now or of before a reload.
func (q *Queue) mayBe(stream, name string) bool {
	return stream == name || strings.HasPrefix(stream, sharedPrefix) && (stream == shared(name) || stream == q.sharedStream(name))
}

// SetPauses replaces the pauses in force. It moves lanes, not messages. Streams
// past the limit of distinct ones are hashed together and cannot be told apart: a pause
// of one of them stops those that share its name too, as to send what somebody has
// paused is worse.
func (q *Queue) SetPauses(list []Pause) {
	q.mu.Lock()
	q.pauses = slices.Clone(list) // first, so that lanes that come meanwhile heed them
	q.mu.Unlock()
	walk(q, &q.laneByNo, func(l *lane) { q.reconsider(l, time.Now()) }, always)
}

// reconsider lets a lane be served where its domain has its route, or not, as the
// pauses now say.
func (q *Queue) reconsider(l *lane, now time.Time) {
	dest, paused := l.domain.dest, q.lanePaused(l)
	if paused == l.paused {
		return
	}
	if dest == nil {
		l.paused, l.since = paused, seconds(now)
		return
	}
	q.detach(l)
	q.attach(l, dest, now)
	if l.flow != nil {
		q.serveAll(dest, now)
	}
}

// lanePaused reports whether a pause is on for a lane.
func (q *Queue) lanePaused(l *lane) bool { return q.pauseOf(l) != nil }

// pauseOf is the first that is on for a lane, or nil.
func (q *Queue) pauseOf(l *lane) *Pause {
	for i := range q.pauses {
		if b := &q.pauses[i]; q.holds(b, l) {
			return b
		}
	}
	return nil
}

// Pause stops the messages of recipients that List showed: what waits is parked,
// what is in a transaction once it comes back. It does not expire. What is on its
// way home goes on. Messages that have changed hands since are left out.
func (q *Queue) Pause(entries []Entry) { q.setPaused(entries, true) }

// Resume ends Pause.
func (q *Queue) Resume(entries []Entry) { q.setPaused(entries, false) }

func (q *Queue) setPaused(entries []Entry, paused bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range entries {
		rec := q.listed(&entries[i])
		if rec == nil {
			continue
		}
		r := uint32(entries[i].Handle)
		q.messages.at(rec.message).paused = paused
		if rec.state == taken || rec.state == onHold || paused == (rec.state == parked) || paused && !q.isPaused(rec) {
			continue // settle sees to it, or Release, or it is where it belongs
		}
		due := moment(rec.due)
		h := uint32(q.takeOut(r).Handle)
		rec = q.recipients.at(h)
		q.active--
		q.put(h, rec, due, now)
	}
	q.serveChanged(now)
}

// isPaused says whether a recipient stays parked while its message is paused.
func (q *Queue) isPaused(rec *recipient) bool {
	return q.messages.at(rec.message).paused && (*q.laneByNo.at(rec.lane)).domain.name != q.o.Relay
}
