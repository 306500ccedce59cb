package admin

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// Status implements control.Backend.
func (b *Backend) Status() control.Status {
	st := control.Status{Version: b.version, Loading: !b.watch.Loaded(), Sources: b.watch.Sources(), Limits: b.watch.StreamLimits(), Warmups: b.watch.Warmups()}
	st.Waiting, st.Deferred, st.Active, st.Sessions = b.queue.Counts()
	st.Held = b.queue.Held()
	rates := b.history.SiteRates(time.Now())
	b.queue.EachSite(func(page []queue.Site) bool {
		for i := range page {
			st.Sites = append(st.Sites, siteOf(&page[i], rates[page[i].Name]))
		}
		return true
	})
	return st
}

// Totals implements control.Backend.
func (b *Backend) Totals() control.Totals {
	t, unknown := b.metrics.Totals(), b.orders.Unknown()
	t.Unknown = unknown.Total()
	for _, x := range unknown.List() {
		t.UnknownReplies = append(t.UnknownReplies, control.UnknownReply{Count: x.Count, Example: x.Example, Site: x.Site, First: x.First, Last: x.Last})
	}
	return t
}

// Messages implements control.Backend. Recipients of one message that stand
// side by side in the queue make one entry.
func (b *Backend) Messages(ctx context.Context, f control.Filter, yield func(*control.Message) error) error {
	sel, result := b.selection(ctx, f)
	if result != nil {
		return result
	}
	b.queue.List(func(page []queue.Entry) bool {
		page = slices.DeleteFunc(page, func(e queue.Entry) bool { return !sel.Selects(&e) })
		for len(page) > 0 {
			n := 1
			for n < len(page) && page[n].ID == page[0].ID {
				n++
			}
			m, err := b.message(page[:n])
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

func (b *Backend) message(entries []queue.Entry) (*control.Message, error) {
	first := entries[0]
	e, err := b.store.Envelope(first.ID)
	if err != nil {
		return nil, err
	}
	m := &control.Message{
		QueueName: first.Queue, ID: first.ID.String(), HostID: e.QueueID,
		ArrivalTime: e.Arrived.Unix(), Size: e.Size, Stream: e.Stream, Sender: e.Sender,
	}
	for _, x := range entries {
		reason := x.Reason
		if b := b.orders.PauseOf(e); b != nil && x.Paused && x.State == "held" {
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
