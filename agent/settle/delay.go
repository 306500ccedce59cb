package settle

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/dsn"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// delayWarnings remember when senders are to be told that their mail is late: those that
// asked for it (NOTIFY=DELAY), once for each recipient, at delay_warning_time, tried
// or not. A message takes 16 octets here, until then.
//
// Warnings are not in the journal. A warning that comes due while an agent lives is sent
// by it; one that came due after the last sign of life of an agent is sent by the next
// one. So a crash can lose the reports of a moment or repeat them, and no more than
// a warning is lost by it. A changed delay_warning_time counts for mail that comes
// after it, for other mail from the next start on.
type delayWarnings struct {
	mu   sync.Mutex
	list warningHeap
}

// warning is a message and when the next of its recipients are late.
type warning struct {
	at int64 // nanoseconds since 1970
	id spool.ID
}

// warningHeap is a heap by time.
type warningHeap []warning

func (l warningHeap) Len() int           { return len(l) }
func (l warningHeap) Less(i, j int) bool { return l[i].at < l[j].at }
func (l warningHeap) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *warningHeap) Push(x any)        { *l = append(*l, x.(warning)) }
func (l *warningHeap) Pop() any {
	old := *l
	x := old[len(old)-1]
	*l = old[:len(old)-1]
	return x
}

// ScheduleWarning remembers a message for the first time after the given one at which a
// recipient of it is late.
func (s *Settler) ScheduleWarning(id spool.ID, e *spool.Envelope, after time.Time) {
	var first time.Time
	for _, at := range s.settings.Now().WarnAt(e) {
		if at.After(after) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if first.IsZero() {
		return
	}
	s.delayWarnings.mu.Lock()
	defer s.delayWarnings.mu.Unlock()
	heap.Push(&s.delayWarnings.list, warning{first.UnixNano(), id})
}

// next takes out a message that is late now.
func (d *delayWarnings) next(now time.Time) (warning, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 || d.list[0].at > now.UnixNano() {
		return warning{}, false
	}
	return heap.Pop(&d.list).(warning), true
}

// WarnLoop reports late mail until ctx ends.
func (s *Settler) WarnLoop(ctx context.Context) {
	loop.Every(ctx, time.Second, func(time.Time) {
		for ctx.Err() == nil {
			now := time.Now()
			l, ok := s.delayWarnings.next(now)
			if !ok {
				break
			}
			if err := s.warnOf(l, now); err != nil && !errors.Is(err, spool.ErrNotFound) {
				s.log.Warn("late mail is not reported to its sender", "id", l.id, "err", err)
			}
		}
	})
}

// Pending is what has yet to be reported: recipients whose failure waits for others of
// its message, and when the next delay warning of each message is due.
func (s *Settler) Pending() (failures int, warnings map[spool.ID]time.Time) {
	s.pendingBounces.mu.Lock()
	failures = s.pendingBounces.held
	s.pendingBounces.mu.Unlock()
	s.delayWarnings.mu.Lock()
	defer s.delayWarnings.mu.Unlock()
	warnings = make(map[spool.ID]time.Time, len(s.delayWarnings.list))
	for _, w := range s.delayWarnings.list {
		warnings[w.id] = time.Unix(0, w.at)
	}
	return failures, warnings
}

// warnOf reports the recipients of a message that are late by now and are told
// for the first time.
func (s *Settler) warnOf(l warning, now time.Time) error {
	states, err := s.store.States(l.id)
	if err != nil {
		return err
	}
	e, err := s.store.Envelope(l.id)
	if err != nil {
		return err
	}
	s.ScheduleWarning(l.id, e, now)
	set := s.settings.Now()
	var list []dsn.Recipient
	for i, at := range set.WarnAt(e) {
		st := states[i]
		// A recipient that goes back to the host is late there, if it is.
		if at.IsZero() || at.UnixNano() < l.at || at.After(now) || st.Status.Final() || st.Handback {
			continue
		}
		r := e.Recipients[i]
		x := dsn.Recipient{Recipient: r, Action: dsn.Delayed, Diagnostic: st.Reply}
		if x.Diagnostic == "" {
			x.Diagnostic = cmp.Or(s.queue.Reason(settings.Domain(r.Address)), "it waits for its turn")
		}
		if c := outcome.Class(st.Class); c != outcome.ClassNone {
			x.Class = c.String()
		}
		if p := set.QueueOf(settings.Domain(r.Address)); p.Expire > 0 {
			x.WillRetryUntil = e.Arrived.Add(p.Expire)
		}
		list = append(list, x)
	}
	if len(list) == 0 {
		return nil
	}
	return s.notify(e, l.id, "sender delay notification", list)
}
