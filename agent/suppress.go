package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
)

// suppressFile, in the state directory, holds the suppression list.
const suppressFile = "suppressed"

// learn has the suppression list learn from a delivery attempt. What the host MTA
// says of mail that goes back to it, and what becomes of our own reports, says
// nothing about an address.
func (a *Agent) learn(d *event.Delivery) {
	e := d.Envelope
	if e == nil || e.Origin != spool.Diverted {
		return
	}
	switch d.Status {
	case event.Sent:
		a.bounced.Delivered(e.Stream, d.Recipient())
	case event.Bounced:
		if p := a.bounced.Policy(); a.bounced.Bounced(e.Stream, d.Recipient(), d.Class, d.Time) {
			to, _ := a.mail.Shown(d)
			a.log.Info("address has bounced too often", "to", "<"+to+">", "stream", e.Stream,
				"class", d.Class, "suppressed", p.ModeOf(e.Stream) == suppress.Drop)
		}
	}
}

// skipSuppressed settles those of a job's recipients that are suppressed, adds to done
// what the queue must know of them, and returns the others. Mail on its way back
// to the host is the host's.
func (a *Agent) skipSuppressed(e *spool.Envelope, job queue.Job, way queue.Route, done []queue.Settled) ([]queue.Item, []queue.Settled) {
	if way.Handback || e.Origin != spool.Diverted {
		return job.Items, done
	}
	var r *settlement
	var others []queue.Item
	now := time.Now()
	for i, item := range job.Items {
		entry, ok := a.bounced.Check(e.Stream, e.Recipients[item.Ordinal].Address, now)
		switch {
		case !ok && r == nil: // nearly always
		case !ok:
			others = append(others, item)
		default:
			if r == nil {
				r = &settlement{agent: a, envelope: e, job: job, route: way}
				others = append(others, job.Items[:i]...)
			}
			r.results = append(r.results, result{item: item, decision: a.withheld(&entry), suppressed: true})
		}
	}
	if r == nil {
		return job.Items, done
	}
	done, _ = r.settle(done, nil)
	return others, done
}

// withheld is the decision on a suppressed recipient.
func (a *Agent) withheld(entry *suppress.Entry) outcome.Decision {
	d := outcome.Decision{Action: outcome.Bounce, Class: entry.Class, Enhanced: "5.7.1", Reason: "suppressed: on the list of the admin"}
	if !a.settings.Now().Config.Suppression.Notify {
		d.Action = outcome.Cancel
	}
	switch entry.Class { // as RFC 3463 section 3.2 and the receiver would say it
	case outcome.ClassNone:
		return d
	case outcome.ClassUserUnknown:
		d.Enhanced = "5.1.1"
	case outcome.ClassHostUnknown:
		d.Enhanced = "5.1.2"
	case outcome.ClassHasMoved:
		d.Enhanced = "5.1.6"
	}
	times := "once"
	if entry.Bounces > 1 {
		times = fmt.Sprintf("%d times in a row", entry.Bounces)
	}
	d.Reason = fmt.Sprintf("suppressed: has bounced %s, last on %s (%s)", times, entry.Last.Format(time.DateOnly), entry.Class)
	return d
}

// Suppressions implements control.Backend.
func (a *Agent) Suppressions(ctx context.Context, yield func(*control.Suppression) error) error {
	now, p := time.Now(), a.bounced.Policy()
	return a.bounced.Each(ctx, now, func(e *suppress.Entry) error {
		return yield(&control.Suppression{
			Address: e.Address, Stream: e.Stream, Last: e.Last, Bounces: e.Bounces,
			Class: e.Class.String(), Suppressed: e.Suppressed(&p, now),
		})
	})
}

// Suppress implements control.Backend.
func (a *Agent) Suppress(next func(*control.Suppression) error) (n int, err error) {
	now := time.Now()
	var x control.Suppression
	for {
		if err = next(&x); err != nil {
			break
		}
		e := suppress.Entry{Address: x.Address, Stream: x.Stream, Last: x.Last, Bounces: x.Bounces}
		if e.Last.IsZero() {
			e.Last = now
		}
		if x.Class != "" {
			var ok bool
			if e.Class, ok = outcome.ParseClass(x.Class); !ok || e.Class != outcome.ClassNone && !e.Class.Hard() {
				err = fmt.Errorf("%s: class %q suppresses no address", x.Address, x.Class)
				break
			}
		}
		a.bounced.Put(e)
		if n++; n%1000 == 0 {
			// A long list waits for the disk here, and not in memory.
			if err = a.bounced.Flush(); err != nil {
				break
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	a.log.Info("suppression list: added", "entries", n)
	return n, errors.Join(err, a.bounced.Sync())
}

// Unsuppress implements control.Backend.
func (a *Agent) Unsuppress(x control.Release) (int, error) {
	n, err := a.bounced.Remove(x.Stream, x.Addresses...)
	a.log.Info("suppression list: removed", "entries", n)
	return n, err
}

// SuppressionStats implements control.Backend.
func (a *Agent) SuppressionStats() control.SuppressionStats {
	st := a.bounced.Stats(time.Now())
	return control.SuppressionStats{
		Mode: string(a.settings.Now().Config.Suppression.Mode), Suppressed: st.Suppressed, Admin: st.Admin, Counted: st.Counted, Octets: st.Octets,
	}
}
