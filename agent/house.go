package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// keepHouse tells the milter once a second that the agent lives, and how much
// is queued. It goes on while transactions finish after a stop was asked for.
func (a *Agent) keepHouse(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failing, tight, damaged := false, false, 0
	for {
		damaged = a.noteDamage(damaged)
		a.lift(time.Now())
		a.now.Load().resolver.Forget()
		a.keepPauses(time.Now(), false)
		if huge := a.queue.Queued() > hugeBacklog; huge != tight {
			tight = huge
			debug.SetGCPercent(gcPercent(huge))
		}
		err := a.beat()
		if err != nil && !failing {
			a.log.Error("no sign of life is given; the milter will soon leave mail with the host", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hugeBacklog is how many queued recipients make the collector's slack matter.
// Their records have no pointers, so a collection costs no more for them; but at
// Go's default the heap may grow by as much again as they take before there is one. A quarter
// of them is still tens of megabytes of garbage between two collections.
const hugeBacklog = 500_000

func gcPercent(huge bool) int {
	if huge {
		return 25
	}
	return 100
}

// noteDamage gives records that turned out unreadable their outcome: nobody else
// can, as the queue never sees them. It returns how many it has seen.
func (a *Agent) noteDamage(seen int) int {
	list := a.store.Damaged()
	for _, d := range list[min(seen, len(list)):] {
		a.log.Error("damaged record in the spool; its segment is kept for you to look at",
			"segment", fmt.Sprintf("%08X", d.Segment), "offset", d.Offset, "id", d.ID.String(), "nrcpt", d.Recipients, "reason", d.Reason)
		if d.ID == 0 || d.Recorded {
			continue
		}
		var events []spool.Event
		for i := range d.Recipients {
			events = append(events, spool.Event{ID: d.ID, Recipient: i, State: spool.State{Status: spool.Damaged, Reply: d.Reason}})
		}
		if a.record(events) {
			for _, e := range events {
				a.events.Delivery(&event.Delivery{
					Time: time.Now(), ID: e.ID, Ordinal: e.Recipient, Status: event.Damaged,
					Class: outcome.ClassSystem, Reason: e.Reply,
				})
			}
		}
	}
	return len(list)
}

// expireEvery is how often mail that cannot be tried is looked at for expiry.
const expireEvery = time.Minute

// expire looks every minute for mail that grew too old.
func (a *Agent) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() == nil { // else connects and look-ups are ended that tell nothing
			a.expireOverdue()
		}
	}
}

// expireOverdue fails mail that was too old already when its destination was last seen
// to be down, or its domain without a way; or gives it back to the host.
func (a *Agent) expireOverdue() {
	set := a.now.Load()
	a.queue.Overdue(set.policy, func(job queue.Job, by *config.Queue, reason string) {
		a.queue.Settle(a.fail(job, by, outcome.Attempt{Stage: outcome.Connect, Fault: outcome.Unreachable, Text: reason}))
	})
}

var _ control.Backend = (*Agent)(nil)

// Status implements control.Backend.
func (a *Agent) Status() control.Status {
	st := control.Status{Version: a.version, Loading: !a.loaded.Load()}
	st.Waiting, st.Deferred, st.Active, st.Sessions = a.queue.Counts()
	st.Held = a.queue.Held()
	rates := a.history.SiteRates(time.Now())
	for _, s := range a.queue.Sites() {
		st.Sites = append(st.Sites, control.Site{
			Name: s.Name, Queue: s.Queue, Hosts: s.Hosts, Waiting: s.Waiting,
			Sessions: s.Sessions, Opening: s.Opening, Ready: s.Ready,
			Target: s.Target.Sessions, Pace: s.Target.Pace, Cause: s.Target.Cause,
			Rate: rates[s.Name], Latency: s.Latency.Seconds(), Refused: s.Refused,
		})
	}
	return st
}

// Totals implements control.Backend.
func (a *Agent) Totals() control.Totals { return a.metrics.Totals() }

// Messages implements control.Backend. Recipients of one message that stand
// side by side in the queue make one entry.
func (a *Agent) Messages(ctx context.Context, f control.Filter, yield func(*control.Message) error) error {
	var result error
	sel := a.selection(f)
	a.queue.List(func(page []queue.Entry) bool {
		page = slices.DeleteFunc(page, func(e queue.Entry) bool { return !sel.selects(&e) })
		for len(page) > 0 {
			n := 1
			for n < len(page) && page[n].ID == page[0].ID {
				n++
			}
			m, err := a.message(page[:n])
			page = page[n:]
			if errors.Is(err, spool.ErrNotFound) {
				continue // done since the page was read
			}
			if err == nil {
				err = yield(m)
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				result = err
				return false
			}
		}
		result = ctx.Err()
		return result == nil
	})
	return result
}

func (a *Agent) message(entries []queue.Entry) (*control.Message, error) {
	first := entries[0]
	e, err := a.store.Envelope(first.ID)
	if err != nil {
		return nil, err
	}
	m := &control.Message{
		QueueName: first.Queue, ID: first.ID.String(), HostID: e.QueueID,
		ArrivalTime: e.Arrived.Unix(), Size: e.Size, Stream: e.Stream, Sender: e.Sender,
	}
	for _, x := range entries {
		reason := x.Reason
		if b := a.halting(e); b != nil && x.Halted && x.State == "held" {
			reason = b.Reason
		} else if x.OnHold {
			reason = cmp.Or(reason, "on hold")
		}
		m.Recipients = append(m.Recipients, control.Recipient{
			Address: e.Recipients[x.Ordinal].Address, Reason: reason, State: x.State,
			Domain: x.Domain, Site: x.Site, Tries: x.Tries, Due: x.Due,
		})
	}
	return m, nil
}
