package event

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/spool"
)

// Log writes the lines of the log about messages: the agent's own form, or Postfix's
// (postfixlog.go). Addresses stand there only where [log] recipients allows that.
type Log struct {
	log   *slog.Logger
	mail  config.Log
	began time.Time // the start of the agent
}

// NewLog returns a Log of an agent that began at a time.
func NewLog(log *slog.Logger, mail config.Log, began time.Time) *Log {
	return &Log{log: log, mail: mail, began: began}
}

// Delivery writes the line of a delivery attempt, if it is to have one.
func (l *Log) Delivery(d *Delivery) {
	if !l.tells(d.Status) {
		return
	}
	if l.postfix() {
		l.postfixDelivery(d)
		return
	}
	to, reason := l.Shown(d)
	attrs := make([]slog.Attr, 0, 12)
	if e := d.Envelope; e != nil {
		attrs = append(attrs, slog.String("qid", e.QueueID))
	}
	attrs = append(attrs, slog.String("id", d.ID.String()), slog.String("to", "<"+to+">"),
		slog.String("relay", d.Relay))
	if d.Reuse > 1 {
		attrs = append(attrs, slog.Int("conn_use", d.Reuse))
	}
	if d.Envelope != nil {
		total, parts := delayFields(d)
		attrs = append(attrs, slog.String("delay", total), slog.String("delays", parts))
	}
	attrs = append(attrs, slog.String("dsn", d.Enhanced), slog.String("status", string(d.Status)), slog.String("reply", reason))
	l.log.LogAttrs(context.Background(), severity(d.Status), "delivery", attrs...)
}

// tells says whether deliveries of a status have lines. What an admin must look at has.
func (l *Log) tells(s Status) bool {
	switch {
	case severity(s) > slog.LevelInfo:
		return true
	case l.mail.Deliveries == config.DeliveriesFailures:
		return s != Sent && s != HandedBack && s != Moved
	default:
		return l.all()
	}
}

// all says whether every delivery has a line, and so has each message that comes and goes.
func (l *Log) all() bool {
	return l.mail.Deliveries == config.DeliveriesAll || l.mail.Deliveries == ""
}

func severity(s Status) slog.Level {
	switch s {
	case Stuck:
		return slog.LevelWarn
	case Damaged:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// Shown is the recipient, and what was said, as they may stand in the log.
func (l *Log) Shown(d *Delivery) (to, reason string) {
	to = d.Recipient()
	if to != "" && !l.mail.Recipients {
		to = maillog.Hidden(to)
	}
	if d.Status.CameBack() {
		reason = d.Reason
		if !l.mail.Recipients && d.To != "" {
			reason = maillog.HiddenIn(reason, d.To)
		}
		return to, reason
	}
	return to, l.ShownReason(d.Reason, d.Envelope, d.Ordinal)
}

// ShownReason is what was said about a recipient as it may stand in the log.
func (l *Log) ShownReason(reason string, e *spool.Envelope, ordinal uint32) string {
	if l.mail.Recipients || e == nil || int(ordinal) >= len(e.Recipients) {
		return reason
	}
	return maillog.HiddenIn(reason, e.Recipients[ordinal].Address)
}

// ShownSender is a sender as it may stand in the log.
func (l *Log) ShownSender(sender string) string {
	if l.mail.Recipients {
		return sender
	}
	return maillog.HiddenSender(sender)
}

// Report tells of a delivery report on so many recipients; what is Postfix's word
// for it.
func (l *Log) Report(what string, e *spool.Envelope, id, report spool.ID, nrcpt int) {
	if !l.tells(Bounced) {
		return
	}
	if l.postfix() {
		maillog.Line(context.Background(), l.log, slog.LevelInfo, maillog.Bounce, qid(e, id), what+": "+report.String())
		return
	}
	l.log.Info(what, "qid", e.QueueID, "id", id, "report", report, "to", l.ShownSender(e.Sender), "nrcpt", nrcpt)
}

// delayFields are the delay of a delivery and its parts, before the queue (none), in it,
// connecting, transmitting.
func delayFields(d *Delivery) (total, parts string) {
	all, queued, connect, transmit := d.Delay()
	return short(all), fmt.Sprintf("0/%s/%s/%s", short(queued), short(connect), short(transmit))
}

// short writes seconds as Postfix does: two significant digits, and none below a
// hundredth (its delay_logging_resolution_limit).
func short(d time.Duration) string {
	s, digits := d.Seconds(), 0
	switch {
	case s < 0.995:
		digits = 2
	case s < 9.95:
		digits = 1
	}
	text := strconv.FormatFloat(s, 'f', digits, 64)
	if digits > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// postfix reports whether lines about messages are in Postfix's form.
func (l *Log) postfix() bool { return l.mail.Format == config.LogPostfix }

// CameBack writes the line of what a report says that came back.
func (l *Log) CameBack(d *Delivery) {
	if !l.tells(Bounced) {
		return
	}
	to, reason := l.Shown(d)
	attrs := []slog.Attr{slog.String("qid", d.Envelope.QueueID), slog.String("id", d.ID.String()), slog.String("to", "<"+to+">")}
	if d.FeedbackType != "" {
		attrs = append(attrs, slog.String("type", d.FeedbackType))
	}
	if d.Enhanced != "" {
		attrs = append(attrs, slog.String("dsn", d.Enhanced))
	}
	attrs = append(attrs, slog.String("status", string(d.Status)), slog.String("reply", reason))
	if d.Uncounted != "" {
		attrs = append(attrs, slog.String("uncounted", d.Uncounted))
	}
	l.log.LogAttrs(context.Background(), slog.LevelInfo, "report", attrs...)
}
