package agent

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/millrace/millrace/agent/event"
)

// logDelivery writes one line for a delivery attempt, in the words of Postfix's.
func (a *Agent) logDelivery(d *event.Delivery) {
	level := slog.LevelInfo
	switch d.Status {
	case event.Stuck:
		level = slog.LevelWarn
	case event.Damaged:
		level = slog.LevelError
	}
	attrs := make([]slog.Attr, 0, 12)
	if e := d.Envelope; e != nil {
		attrs = append(attrs, slog.String("qid", e.QueueID))
	}
	attrs = append(attrs, slog.String("id", d.ID.String()), slog.String("to", "<"+d.Recipient()+">"),
		slog.String("relay", d.Relay))
	if d.Reuse > 1 {
		attrs = append(attrs, slog.Int("conn_use", d.Reuse))
	}
	if d.Envelope != nil {
		total, queued, connect, transmit := d.Delay()
		attrs = append(attrs, slog.String("delay", short(total)), slog.String("delays",
			fmt.Sprintf("0/%s/%s/%s", short(queued), short(connect), short(transmit))))
	}
	attrs = append(attrs, slog.String("dsn", d.Enhanced), slog.String("status", string(d.Status)), slog.String("reply", d.Reason))
	a.log.LogAttrs(a.stop, level, "delivery", attrs...)
}

// short writes seconds as Postfix does: two significant digits.
func short(d time.Duration) string {
	s := d.Seconds()
	if s >= 10 {
		return strconv.FormatFloat(math.Round(s), 'f', -1, 64)
	}
	if s < 0.01 {
		return strconv.FormatFloat(math.Round(s*1000)/1000, 'f', -1, 64)
	}
	x, _ := strconv.ParseFloat(strconv.FormatFloat(s, 'g', 2, 64), 64)
	return strconv.FormatFloat(x, 'f', -1, 64)
}
