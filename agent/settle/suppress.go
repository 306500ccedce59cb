package settle

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
)

// learner has the suppression list learn from delivery attempts. Replies
// of the host MTA to mail that goes back to it, and outcomes of our own reports, say
// nothing about an address.
type learner struct {
	bounced *suppress.List
	log     *slog.Logger
	mail    *event.Log
}

// Learner returns a listener that has a suppression list learn.
func Learner(bounced *suppress.List, log *slog.Logger, mail *event.Log) event.Listener {
	return &learner{bounced: bounced, log: log, mail: mail}
}

// Delivery implements event.Listener.
func (l *learner) Delivery(d *event.Delivery) {
	e := d.Envelope
	if e == nil || e.Origin != spool.Diverted {
		return
	}
	switch d.Status {
	case event.Sent:
		l.bounced.Delivered(e.Stream, d.Recipient(), d.Time)
		if e.Formerly != "" {
			l.bounced.Delivered(e.Formerly, d.Recipient(), d.Time)
		}
	case event.Bounced:
		class := d.Class
		if !d.Hard {
			class = outcome.ClassUndefined // whatever it was, it says nothing of the address
		}
		if p := l.bounced.Policy(); l.bounced.Bounced(e.Stream, d.Recipient(), class, d.Time) {
			to, _ := l.mail.Shown(d)
			l.log.Info("address has bounced too often", "to", "<"+to+">", "stream", e.Stream,
				"class", d.Class, "suppressed", p.ModeOf(e.Stream) == suppress.Drop)
		}
	}
}

// SkipSuppressed settles those of a job's recipients that are suppressed, adds to done
// what the queue must know of them, and returns the others. Mail on its way back
// to the host is the host's.
func (s *Settler) SkipSuppressed(e *spool.Envelope, job queue.Job, rt queue.Route, done []queue.Settled) ([]queue.Item, []queue.Settled) {
	if rt.Handback || e.Origin != spool.Diverted {
		return job.Items, done
	}
	var r *Settlement
	var others []queue.Item
	now := time.Now()
	for i, item := range job.Items {
		entry, ok := s.bounced.Check(e.Stream, e.Recipients[item.Ordinal].Address, now)
		if !ok && e.Formerly != "" {
			entry, ok = s.bounced.Check(e.Formerly, e.Recipients[item.Ordinal].Address, now)
		}
		switch {
		case !ok && r == nil: // nearly always
		case !ok:
			others = append(others, item)
		default:
			if r == nil {
				part := s.Begin(e, job, rt)
				r = &part
				others = append(others, job.Items[:i]...)
			}
			r.Results = append(r.Results, Result{Item: item, Decision: s.withheld(&entry), suppressed: true})
		}
	}
	if r == nil {
		return job.Items, done
	}
	done, _ = r.Settle(done, nil)
	return others, done
}

// withheld is the decision on a suppressed recipient.
func (s *Settler) withheld(entry *suppress.Entry) outcome.Decision {
	d := outcome.Decision{Action: outcome.Bounce, Class: entry.Class, Hard: entry.Class.Hard(), Enhanced: "5.7.1", Reason: "suppressed: on the list of the admin"}
	if !s.settings.Now().Config.Suppression.Notify {
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
	if entry.Class == outcome.ClassComplaint {
		d.Reason = fmt.Sprintf("suppressed: the recipient has complained on %s", entry.Last.Format(time.DateOnly))
		return d
	}
	times := "once"
	if entry.Bounces > 1 {
		times = fmt.Sprintf("%d times in a row", entry.Bounces)
	}
	d.Reason = fmt.Sprintf("suppressed: has bounced %s, last on %s (%s)", times, entry.Last.Format(time.DateOnly), entry.Class)
	return d
}
