package agent

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
)

// logDelivery writes the line of a delivery attempt.
func (a *Agent) logDelivery(d *event.Delivery) {
	if a.postfix() {
		a.logPostfix(d)
		return
	}
	to, reason := a.shown(d)
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
	a.log.LogAttrs(a.stop, severity(d.Status), "delivery", attrs...)
}

func severity(s event.Status) slog.Level {
	switch s {
	case event.Stuck:
		return slog.LevelWarn
	case event.Damaged:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// shown is the recipient, and what was said, as they may stand in the log.
func (a *Agent) shown(d *event.Delivery) (to, reason string) {
	to = d.Recipient()
	if to != "" && !a.mail.Recipients {
		to = maillog.Hidden(to)
	}
	return to, a.shownReason(d.Reason, d.Envelope, d.Ordinal)
}

// shownReason is what was said about a recipient as it may stand in the log.
func (a *Agent) shownReason(reason string, e *spool.Envelope, ordinal uint32) string {
	if a.mail.Recipients || e == nil || int(ordinal) >= len(e.Recipients) {
		return reason
	}
	return maillog.HiddenIn(reason, e.Recipients[ordinal].Address)
}

// shownSender is a sender as it may stand in the log.
func (a *Agent) shownSender(sender string) string {
	if a.mail.Recipients {
		return sender
	}
	return maillog.HiddenSender(sender)
}

// maxWords bounds what an error may say in a listing, in octets; a policy of a domain that
// is quoted in it may have 64 KiB.
const maxWords = 1024

// inWords is an error as the queue keeps it for listings: one printable line.
func inWords(err error) string { return printable.Cut(err.Error(), maxWords) }

// logReport tells of a delivery report on so many recipients; what is Postfix's word
// for it.
func (a *Agent) logReport(what string, e *spool.Envelope, id, report spool.ID, nrcpt int) {
	if a.postfix() {
		maillog.Line(a.stop, a.log, slog.LevelInfo, maillog.Bounce, qid(e, id), what+": "+report.String())
		return
	}
	a.log.Info(what, "qid", e.QueueID, "id", id, "report", report, "to", a.shownSender(e.Sender), "nrcpt", nrcpt)
}

// delayFields are the delay of a delivery and its parts, before the queue (none), in it,
// connecting, transmitting.
func delayFields(d *event.Delivery) (total, parts string) {
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
func (a *Agent) postfix() bool { return a.mail.Format == config.LogPostfix }
