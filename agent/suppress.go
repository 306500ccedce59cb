package agent

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
)

// suppressFile, in the state directory, holds the suppression list.
const suppressFile = "suppressed"

func suppressPolicy(c *config.Config) suppress.Policy {
	s := &c.Suppression
	return suppress.Policy{
		Count: s.Mode == config.SuppressAdvise || s.Mode == config.SuppressDrop, Drop: s.Mode == config.SuppressDrop,
		After: s.After, Within: s.Within, Expire: s.Expire, Global: s.Scope == config.SuppressGlobal,
	}
}

// count has the suppression list learn from a delivery attempt. What the host MTA
// says of mail that goes back to it, and what becomes of our own reports, says
// nothing about an address.
func (a *Agent) count(d *event.Delivery) {
	e := d.Envelope
	if e == nil || e.Origin != spool.Diverted {
		return
	}
	switch d.Status {
	case event.Sent:
		a.bounced.Delivered(e.Stream, d.Recipient())
	case event.Bounced:
		if a.bounced.Bounced(e.Stream, d.Recipient(), d.Class, d.Time) {
			a.log.Info("address has bounced too often", "to", "<"+d.Recipient()+">", "stream", e.Stream,
				"class", d.Class, "suppressed", a.bounced.Policy().Drop)
		}
	}
}

// withhold settles those of a job's recipients that are suppressed, adds to done
// what the queue must know of them, and returns the others. Mail on its way back
// to the host is the host's.
func (a *Agent) withhold(e *spool.Envelope, job queue.Job, way queue.Way, done []queue.Settled) ([]queue.Item, []queue.Settled) {
	if way.Handback || e.Origin != spool.Diverted {
		return job.Items, done
	}
	var r *report
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
				r = &report{agent: a, envelope: e, job: job, way: way}
				others = append(others, job.Items[:i]...)
			}
			r.fates = append(r.fates, fate{item: item, decision: a.withheld(&entry), suppressed: true})
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
	if !a.now.Load().config.Suppression.Notify {
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
