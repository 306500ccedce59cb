package agent

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/dsn"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// delayWarnings remember when senders are to be told that their mail is late: those that
// asked for it (NOTIFY=DELAY), once for each recipient, at delay_warning_time, tried
// or not. A message takes 16 octets here, until then.
//
// Nothing of this is in the journal. What came due while an agent lived is told;
// what came due after the last sign of life of the last agent is told by the next
// one. So a crash can lose the reports of a moment or repeat them, and no more than
// a warning is lost by it. A changed delay_warning_time counts for mail that comes
// after it, for other mail from the next start on.
type delayWarnings struct {
	mu   sync.Mutex
	list warningHeap
}

// warning is a message and when the next of its recipients are warning.
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

// scheduleWarning remembers a message for the first time after the given one at which a
// recipient of it is late.
func (a *Agent) scheduleWarning(id spool.ID, e *spool.Envelope, after time.Time) {
	var first time.Time
	for _, at := range a.settings.Now().WarnAt(e) {
		if at.After(after) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if first.IsZero() {
		return
	}
	a.delayWarnings.mu.Lock()
	defer a.delayWarnings.mu.Unlock()
	heap.Push(&a.delayWarnings.list, warning{first.UnixNano(), id})
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

// warnLoop reports late mail until ctx ends.
func (a *Agent) warnLoop(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ctx.Err() == nil {
			now := time.Now()
			l, ok := a.delayWarnings.next(now)
			if !ok {
				break
			}
			if err := a.warnOf(l, now); err != nil && !errors.Is(err, spool.ErrNotFound) {
				a.log.Warn("late mail is not reported to its sender", "id", l.id, "err", err)
			}
		}
	}
}

// warnOf reports the recipients of a message that are late by now and are told
// for the first time.
func (a *Agent) warnOf(l warning, now time.Time) error {
	states, err := a.store.States(l.id)
	if err != nil {
		return err
	}
	e, err := a.store.Envelope(l.id)
	if err != nil {
		return err
	}
	a.scheduleWarning(l.id, e, now)
	set := a.settings.Now()
	var list []dsn.Recipient
	for i, at := range set.WarnAt(e) {
		st := states[i]
		// What goes back to the host is late there, if it is.
		if at.IsZero() || at.UnixNano() < l.at || at.After(now) || st.Status.Final() || st.Handback {
			continue
		}
		r := e.Recipients[i]
		x := dsn.Recipient{Recipient: r, Action: dsn.Delayed, Diagnostic: st.Reply}
		if x.Diagnostic == "" {
			x.Diagnostic = cmp.Or(a.queue.Reason(settings.Domain(r.Address)), "it waits for its turn")
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
	return a.notify(e, l.id, "sender delay notification", list)
}
