package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
)

const aboutReports = `%d messages from outside, injected over %d connections as fast as Postfix takes them, with and without
[feedback] read: ordinary mail of 8 KB; delivery reports of 8 KB, and of 256 KB in lines of 13 octets, all from the null sender and
about mail that never was ours. The milter diverts none of it. Postfix delivers to its discard(8) daemon, with in_flow_delay = 0.
CPU time is that of all of Postfix, and of the milter; the first %d reports, which a burst may be, are not told apart.`

// reportsRead measures what it costs to read reports in passing.
func reportsRead(ctx context.Context, b *bench) ([]section, error) {
	kinds := []struct {
		name    string
		message *inject.Message
	}{
		{"ordinary mail, 8 KB", stranger("text/plain", strangersText("x", 80, common))},
		{"reports, 8 KB", stranger(reportType, forgedReport(strangersText("x", 80, common)))},
		{"reports, 256 KB", stranger(reportType, forgedReport(strangersText("Received: x", 11, 32*common)))},
	}
	var variants []variant[flow]
	for _, k := range kinds {
		for _, read := range []bool{false, true} {
			name := k.name
			if read {
				name += ", read"
			}
			variants = append(variants, variant[flow]{name, func(ctx context.Context) (flow, error) {
				return hostRateOf(ctx, b, func(int) *inject.Message { return k.message }, b.warmUp()+b.messages, world{postfix: discard(), asleep: true,
					millrace: &lab.MillraceOptions{Set: map[string]string{"feedback.read": strconv.FormatBool(read)}}})
			}})
		}
	}
	found, err := alternate(ctx, b, "Reports", variants, flow.String)
	if err != nil {
		return nil, err
	}
	s := section{
		title:  "What it costs to read reports in passing",
		about:  fmt.Sprintf(aboutReports, b.messages, b.sessions, b.warmUp()),
		tables: []table{{title: "CPU time a message", columns: []string{"", "messages/s", "CPU us, all", "Postfix", "milter"}}},
	}
	for i, v := range variants {
		s.tables[0].rows = append(s.tables[0].rows, []string{v.name, over(found[i], flow.perSecond).cell(count),
			over(found[i], flow.cpu).cell(micros),
			over(found[i], func(f flow) float64 { return f.each.postfix.Seconds() }).cell(micros),
			over(found[i], func(f flow) float64 { return f.each.milter.Seconds() }).cell(micros),
		})
	}
	for i, k := range kinds {
		s.claims = append(s.claims, claim{what: "CPU a message, " + k.name + ": read / not read", reach: "at most 1.02",
			got: over(found[2*i+1], flow.cpu).to(over(found[2*i], flow.cpu)), met: atMost(1.02)})
	}
	return []section{s}, nil
}

const reportType = "multipart/report; report-type=delivery-status; boundary=b"

// stranger is a message from outside.
func stranger(media, body string) *inject.Message {
	return &inject.Message{Recipients: []string{"news@d1.example"}, Content: []byte("From: MAILER-DAEMON@remote.example\r\nTo: news@d1.example\r\n" +
		"Subject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\nContent-Type: " + media + "\r\n\r\n" + body)}
}

// strangersText is so many octets of lines that begin with a text and have so many octets.
func strangersText(begin string, line, size int) string {
	return strings.Repeat(begin+strings.Repeat("x", line-len(begin))+"\r\n", size/(line+2))
}

// forgedReport is a delivery report, with a text and a mark of nobody.
func forgedReport(text string) string {
	return "--b\r\n\r\nThis is the mail system.\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; remote.example\r\n\r\n" +
		"Final-Recipient: rfc822; a@remote.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" +
		"Received: by mail.lists.example (Millrace) with ESMTP\r\n\tid 4Q1.M1-2.0123456789abcdef0123\r\n\t(AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA); x\r\n" +
		text + "\r\n--b--\r\n"
}
