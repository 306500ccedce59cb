package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
)

const aboutReports = `%d delivery reports from outside, injected over %d connections as fast as Postfix takes them, with and without
[feedback] read; from the null sender, in lines of 13 octets, and about mail that never was ours. The milter diverts none of it.
Postfix delivers to its discard(8) daemon, with in_flow_delay = 0. CPU time is that of all of Postfix, and of the milter. The first
of them, which a burst may be, are read as all are; the more messages, the less they weigh.`

// reportsRead measures what a flood of reports costs more as some of them are read.
func reportsRead(ctx context.Context, b *bench) ([]section, error) {
	var variants []variant[flow]
	for _, size := range b.sizes {
		m := forgedReport(size)
		for _, read := range []bool{false, true} {
			name := fmt.Sprintf("reports, %d KB", size>>10)
			if read {
				name += ", read"
			}
			w := world{postfix: discard(), asleep: true, millrace: &lab.MillraceOptions{Set: map[string]string{"feedback.read": strconv.FormatBool(read)}}}
			variants = append(variants, variant[flow]{name, func(ctx context.Context) (flow, error) {
				return hostRateOf(ctx, b, func(int) *inject.Message { return m }, b.warmUp()+b.messages, w)
			}})
		}
	}
	found, err := alternate(ctx, b, "Reports", variants, flow.String)
	if err != nil {
		return nil, err
	}
	s := section{
		title:  "What it costs to read reports in passing",
		about:  fmt.Sprintf(aboutReports, b.messages, b.sessions),
		tables: []table{{title: "CPU time a message", columns: []string{"", "messages/s", "CPU us, all", "Postfix", "milter"}}},
	}
	for i, v := range variants {
		s.tables[0].rows = append(s.tables[0].rows, []string{v.name, over(found[i], flow.perSecond).cell(count),
			over(found[i], flow.cpu).cell(micros),
			over(found[i], func(f flow) float64 { return f.each.postfix.Seconds() }).cell(micros),
			over(found[i], func(f flow) float64 { return f.each.milter.Seconds() }).cell(micros),
		})
	}
	for i := 0; i < len(variants); i += 2 {
		s.claims = append(s.claims, claim{what: "CPU a message, " + variants[i].name + ": read / not read", reach: "at most 1.02",
			got: over(found[i+1], flow.cpu).to(over(found[i], flow.cpu)), met: atMost(1.02)})
	}
	return []section{s}, nil
}

// forgedReport is a delivery report of so many octets, with a mark of nobody.
func forgedReport(size int) *inject.Message {
	const line = "Received: x\r\n"
	return &inject.Message{Recipients: []string{"news@d1.example"}, Content: []byte("From: MAILER-DAEMON@remote.example\r\nTo: news@d1.example\r\n" +
		"Subject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n" +
		"--b\r\n\r\nThis is the mail system.\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; remote.example\r\n\r\n" +
		"Final-Recipient: rfc822; a@remote.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" +
		"Received: by mail.lists.example (Millrace) with ESMTP\r\n\tid 4Q1.M1-2.0123456789abcdef0123\r\n\t(AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA); x\r\n" +
		strings.Repeat(line, size/len(line)) + "\r\n--b--\r\n")}
}
