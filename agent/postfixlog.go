package agent

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
)

// qid is the name of a message in Postfix's form: see package maillog.
func qid(e *spool.Envelope, id spool.ID) string {
	if e == nil || e.QueueID == "" {
		return id.String()
	}
	return e.QueueID
}

// logActive says, in Postfix's form only, that a message was taken up.
func (a *Agent) logActive(e *spool.Envelope, id spool.ID, nrcpt int) {
	if a.postfix() {
		maillog.Line(a.stop, a.log, slog.LevelInfo, maillog.Qmgr, qid(e, id),
			fmt.Sprintf("from=<%s>, size=%d, nrcpt=%d (queue active)", a.shownSender(e.Sender), e.Size, nrcpt))
	}
}

// logTaken says again that a message is taken up if it was deferred, or came before
// this start of the agent: as Postfix does, so that the log of a day has the size
// of what was delivered on it.
func (a *Agent) logTaken(r *settlement) {
	if !a.postfix() || r.envelope == nil || r.route.Site == "" { // settled without a try
		return
	}
	again := r.envelope.Arrived.Before(a.began)
	for _, f := range r.results {
		again = again || f.item.Tries > 0
	}
	if again {
		a.logActive(r.envelope, r.job.ID, len(r.results))
	}
}

// logRemoved says, in Postfix's form only, that nothing of a message is left.
func (a *Agent) logRemoved(e *spool.Envelope, id spool.ID) {
	if a.postfix() {
		maillog.Line(a.stop, a.log, slog.LevelInfo, maillog.Qmgr, qid(e, id), "removed")
	}
}

// logPostfix writes the line of a delivery attempt in Postfix's form. A recipient
// that was not offered gives none there, and an expired one two: of its last try, and
// of its return.
func (a *Agent) logPostfix(d *event.Delivery) {
	if d.Status == event.Returned {
		return
	}
	to, reason := a.shown(d)
	status := string(d.Status)
	expired := d.Status == event.Bounced && d.Class == outcome.ClassExpired
	switch {
	case d.Status == event.HandedBack:
		status = "sent"
		if id := forwardedAs(reason); id != "" {
			reason = id + ": " + reason
		}
		reason = "forwarded as " + reason
	case d.Status == event.Returning:
		status, reason = "deferred", "returning to the host: "+reason
	case d.Status == event.Stuck:
		status, reason = "deferred", "stuck: "+reason
	case expired:
		status = "deferred"
	case d.Status == event.Suppressed:
		status = "bounced" // in Postfix's eyes
	}
	var b strings.Builder
	fmt.Fprintf(&b, "to=<%s>, relay=%s, ", to, d.Relay)
	if d.Reuse > 1 {
		fmt.Fprintf(&b, "conn_use=%d, ", d.Reuse)
	}
	total, parts := delayFields(d)
	fmt.Fprintf(&b, "delay=%s, delays=%s, dsn=%s, status=%s (%s)", total, parts, d.Enhanced, status, reason)
	id := qid(d.Envelope, d.ID)
	maillog.Line(a.stop, a.log, severity(d.Status), maillog.SMTP, id, b.String())
	if expired {
		from := ""
		if d.Envelope != nil {
			from = a.shownSender(d.Envelope.Sender)
		}
		maillog.Line(a.stop, a.log, slog.LevelInfo, maillog.Qmgr, id, "from=<"+from+">, status=expired, returned to sender")
	}
}

// forwardedAs finds the queue id that Postfix gave to what it took: "250 2.0.0 Ok:
// queued as 4fKz1T0Qx9z".
func forwardedAs(reply string) string {
	_, rest, _ := strings.Cut(reply, "queued as ")
	id, _, _ := strings.Cut(rest, " ")
	return id
}
