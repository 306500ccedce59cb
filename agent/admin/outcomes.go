package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcomes"
	"github.com/millrace/millrace/agent/spool"
)

// Outcomes implements control.Backend.
func (b *Backend) Outcomes(ctx context.Context, q control.OutcomeQuestion, yield func(*control.Outcome) error) error {
	ask := outcomes.Question{Recipient: q.Recipient, QueueID: q.QueueID, Stream: q.Stream, Since: q.Since}
	if q.ID != "" {
		id, err := spool.ParseID(q.ID)
		if err != nil {
			return err
		}
		ask.Message = id
	}
	return b.outcomes.History(ctx, ask, func(e *outcomes.Entry) error {
		o := control.Outcome{
			Time: e.Time, Event: e.Event, ID: e.ID.String(), Ordinal: e.Ordinal, QueueID: e.QueueID, Origin: "diverted", Stream: e.Stream,
			Recipient: e.Recipient, Domain: e.Domain, Queue: e.Queue, Site: e.Site, Relay: e.Relay, Source: e.Source, Tries: e.Tries, Class: e.Class, Hard: e.Hard,
			Rule: e.Rule, Code: e.Code, Enhanced: e.Enhanced, Reply: e.Reply, Due: e.Due,
		}
		if e.Report {
			o.Origin = "report"
		}
		if e.Event == event.HandedBack.Event() {
			o.HostID = queuedAs(e.Reply)
		}
		return yield(&o)
	})
}

// queuedAs is the queue id in the reply of Postfix, "250 2.0.0 Ok: queued as ID", or of
// Sendmail, "250 2.0.0 ID Message accepted for delivery".
func queuedAs(reply string) string {
	if _, id, ok := strings.Cut(reply, "queued as "); ok {
		id, _, _ = strings.Cut(id, " ")
		return id
	}
	if before, _, ok := strings.Cut(reply, " Message accepted for delivery"); ok {
		return before[strings.LastIndexByte(before, ' ')+1:]
	}
	return ""
}

// Erase implements control.Backend.
func (b *Backend) Erase(ctx context.Context, e control.Erasure) (control.Erased, error) {
	if !strings.Contains(e.Address, "@") {
		return control.Erased{}, fmt.Errorf("%q is not an address", e.Address)
	}
	f, err := b.outcomes.Forget(ctx, e.Address)
	n, failed := b.webhooks.Forget(ctx, e.Address)
	return control.Erased{Rows: f.Rows, Events: f.Events + n, Files: f.Files}, errors.Join(err, failed)
}

// Day implements control.Backend.
func (b *Backend) Day(ctx context.Context, day time.Time) (d control.DayTotals, err error) {
	x, err := b.outcomes.Day(ctx, day)
	if err != nil {
		return d, err
	}
	d = control.DayTotals{From: x.From, Until: x.Until, Totals: []control.DayTotal{}, Trouble: b.outcomes.Trouble()}
	for _, t := range x.Totals {
		d.Totals = append(d.Totals, control.DayTotal(t))
	}
	for _, x := range x.Examples {
		d.Examples = append(d.Examples, control.DayExample(x))
	}
	return d, nil
}
