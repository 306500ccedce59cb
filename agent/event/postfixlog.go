package event

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

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

// Active says, in Postfix's form only, that a message was taken up.
func (l *Log) Active(e *spool.Envelope, id spool.ID, nrcpt int) {
	if l.postfix() && l.all() {
		maillog.Line(context.Background(), l.log, slog.LevelInfo, maillog.Qmgr, qid(e, id),
			fmt.Sprintf("from=<%s>, size=%d, nrcpt=%d (queue active)", l.ShownSender(e.Sender), e.Size, nrcpt))
	}
}

// Taken says again, in Postfix's form only, that recipients of a message are taken up, if
// they were tried before or the message came before this start of the agent: as Postfix
// does, so that the log of a day has the size of what was delivered on it. The envelope
// may be nil.
func (l *Log) Taken(e *spool.Envelope, id spool.ID, nrcpt int, tried bool) {
	if l.postfix() && e != nil && (tried || e.Arrived.Before(l.began)) {
		l.Active(e, id, nrcpt)
	}
}

// Removed says, in Postfix's form only, that nothing of a message is left.
func (l *Log) Removed(e *spool.Envelope, id spool.ID) {
	if l.postfix() && l.all() {
		maillog.Line(context.Background(), l.log, slog.LevelInfo, maillog.Qmgr, qid(e, id), "removed")
	}
}

// postfixDelivery writes the line of a delivery attempt in Postfix's form. A recipient
// that was not offered gives none there, and an expired one two: of its last try, and
// of its return.
func (l *Log) postfixDelivery(d *Delivery) {
	if d.Status == Returned {
		return
	}
	to, reason := l.Shown(d)
	status := string(d.Status)
	expired := d.Status == Bounced && d.Class == outcome.ClassExpired
	switch {
	case d.Status == HandedBack:
		status = "sent"
		if id := forwardedAs(reason); id != "" {
			reason = id + ": " + reason
		}
		reason = "forwarded as " + reason
	case d.Status == Moved:
		// "forwarded as" has log readers count it apart from what was delivered.
		status = "sent"
		if i := strings.LastIndex(reason, " as "); i >= 0 {
			reason = "forwarded as " + reason[i+len(" as "):] + ": " + reason
		}
	case d.Status == Returning:
		status, reason = "deferred", "returning to the host: "+reason
	case d.Status == Stuck:
		status, reason = "deferred", "stuck: "+reason
	case expired:
		status = "deferred"
	case d.Status == Suppressed:
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
	maillog.Line(context.Background(), l.log, severity(d.Status), maillog.SMTP, id, b.String())
	if expired {
		from := ""
		if d.Envelope != nil {
			from = l.ShownSender(d.Envelope.Sender)
		}
		maillog.Line(context.Background(), l.log, slog.LevelInfo, maillog.Qmgr, id, "from=<"+from+">, status=expired, returned to sender")
	}
}

// forwardedAs finds the queue id that Postfix gave to what it took: "250 2.0.0 Ok:
// queued as 4fKz1T0Qx9z".
func forwardedAs(reply string) string {
	_, rest, _ := strings.Cut(reply, "queued as ")
	id, _, _ := strings.Cut(rest, " ")
	return id
}

// MovedHere says that a message came from another node, where it had another id.
func (l *Log) MovedHere(e *spool.Envelope, id spool.ID, node, was string) {
	if !l.all() {
		return
	}
	if l.postfix() {
		maillog.Line(context.Background(), l.log, slog.LevelInfo, maillog.Qmgr, qid(e, id), id.String()+": moved here from node "+node+", where it was "+was)
		return
	}
	l.log.Info("moved here", "qid", e.QueueID, "id", id, "node", node, "was", was, "from", l.ShownSender(e.Sender), "nrcpt", len(e.Recipients))
}
