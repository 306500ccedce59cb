package event

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/spool"
)

// tried is a try as it is usual in bulk mail.
func tried(s Status) *Delivery {
	e := &spool.Envelope{
		QueueID: "4cFq1S3Hb9z2Xk", Sender: "bounce-48213-7716@news.example.com", Size: 48213, Arrived: time.Now().Add(-2500 * time.Millisecond),
		Recipients: []spool.Recipient{{Address: "firstname.lastname@example.net"}},
	}
	return &Delivery{
		Time: time.Now(), ID: spool.MakeID(412, 0x3f0040), Envelope: e, Peer: netip.MustParseAddrPort("192.0.2.26:25"),
		Relay: "gmail-smtp-in.l.google.com[192.0.2.26]:25", Reuse: 17, Tries: 1, Transmit: 430 * time.Millisecond,
		Status: s, Code: 250, Enhanced: "2.0.0", Reason: "250 2.0.0 OK  1795622400 5b1f17b1804b1-4773d9ab5e6si12345678f8f.412 - gsmtp",
	}
}

// told is what a log in some form, under systemd or not, has of a message that was tried.
func told(form config.LogFormat, which config.LogDeliveries, statuses ...Status) string {
	var b bytes.Buffer
	text := func(w *bytes.Buffer) slog.Handler { return slog.NewTextHandler(w, nil) }
	h := map[config.LogFormat]slog.Handler{
		config.LogLogfmt: text(&b), config.LogJSON: slog.NewJSONHandler(&b, nil),
		config.LogPostfix: maillog.New(&maillog.Plain{To: &b, Daemon: "millrace/agent"}, true, text),
	}[form]
	l := NewLog(slog.New(h), config.Log{Format: form, Deliveries: which, Recipients: true}, time.Now().Add(-time.Hour))
	for _, s := range statuses {
		d := tried(s)
		l.Active(d.Envelope, d.ID, 1)
		l.Delivery(d)
		l.Removed(d.Envelope, d.ID)
	}
	return b.String()
}

// TestDeliveriesHaveTheLinesThatAreWanted goes through what [log] deliveries leaves out.
func TestDeliveriesHaveTheLinesThatAreWanted(t *testing.T) {
	t.Parallel()
	all := []Status{Sent, HandedBack, Deferred, Returning, Bounced, Suppressed, Cancelled, Stuck, Damaged}
	for which, want := range map[config.LogDeliveries][]Status{
		"":                        all, // of a configuration that a test made
		config.DeliveriesAll:      all,
		config.DeliveriesFailures: all[2:],
		config.DeliveriesNone:     all[7:],
	} {
		for _, form := range []config.LogFormat{config.LogLogfmt, config.LogJSON, config.LogPostfix} {
			n := len(want)
			if form == config.LogPostfix && len(want) == len(all) {
				n *= 3 // "queue active" and "removed"
			}
			if lines := strings.Count(told(form, which, all...), "\n"); lines != n {
				t.Errorf("%s, deliveries = %q: %d lines, want %d", form, which, lines, n)
			}
			if line := told(form, which, Sent); (line != "") != (len(want) == len(all)) {
				t.Errorf("%s, deliveries = %q: sent: %q", form, which, line)
			}
		}
	}
}

// TestManualTellsWhatTheLogTakes measures the octets that millrace.toml(5) names.
func TestManualTellsWhatTheLogTakes(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../config/config.go")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(manual), "\n\t// ", " ")
	for form, says := range map[config.LogFormat]struct {
		text string
		n    int
	}{config.LogLogfmt: {"take %d MB of log in key=value", 320}, config.LogJSON: {"%d MB in JSON", 370}, config.LogPostfix: {"in Postfix's form %d MB", 480}} {
		n := len(told(form, config.DeliveriesAll, Sent))
		if n < says.n*9/10 || n > says.n*11/10 || !strings.Contains(text, fmt.Sprintf(says.text, says.n)) {
			t.Errorf("%s: a million recipients take %d MB, which the manual does not say", form, n)
		}
	}
}
