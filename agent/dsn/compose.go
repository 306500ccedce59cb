package dsn

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/agent/spool"
)

// Errors of Compose: the caller asked for what cannot be.
var (
	errNullSender   = errors.New("no notification goes to the null sender")
	errBadSender    = errors.New("sender address has control characters")
	errNoRecipients = errors.New("notification about no recipient")
)

// Compose makes a notification: an envelope from the null sender to the
// original's sender, and the content with CRLF line ends. Equal reports give
// equal results.
func Compose(r Report) (*spool.Envelope, []byte, error) {
	sender := r.Original.Sender
	switch {
	case sender == "" || r.Original.Origin == spool.Report:
		return nil, nil, errNullSender
	case strings.ContainsFunc(sender, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return nil, nil, errBadSender
	case len(r.Recipients) == 0:
		return nil, nil, errNoRecipients
	}

	action := worst(r.Recipients)
	global := r.global()
	human, machine := explanation(r, action), deliveryStatus(r, global)
	// RET speaks of failures only (RFC 3461 section 4.3).
	content, full := returned(r.Content, r.Full && action == Failed)
	eightBit := !ascii(human) || !ascii(machine) || !ascii(content)
	boundary := boundaryFor(r, human, machine, content)

	var b strings.Builder
	writeHeader(&b, r, action, machine)
	field(&b, "Content-Type", `multipart/report; report-type=delivery-status; boundary="`+boundary+`"`)
	if eightBit {
		// A multipart must admit to what its parts are (RFC 2045 section 6.4).
		field(&b, "Content-Transfer-Encoding", "8bit")
	}
	b.WriteString("\r\nThis is a MIME-encapsulated message.\r\n\r\n")

	charset := "us-ascii"
	if !ascii(human) {
		charset = "utf-8"
	}
	writePart(&b, boundary, "Notification", "text/plain; charset="+charset, human)
	status, whole, header := "message/delivery-status", "message/rfc822", "text/rfc822-headers"
	if global {
		status = "message/global-delivery-status"
		if !ascii(content) && utf8.ValidString(content) {
			whole, header = "message/global", "message/global-headers"
		}
	}
	writePart(&b, boundary, "Delivery report", status, machine)
	if full {
		writePart(&b, boundary, returnedName(action), whole, content)
	} else {
		writePart(&b, boundary, returnedName(action)+" Headers", header, content)
	}
	b.WriteString("--" + boundary + "--\r\n")

	e := &spool.Envelope{
		Origin:     spool.Report,
		Recipients: []spool.Recipient{{Address: sender}},
		Arrived:    r.Now,
		ByHost:     r.Hostname,
	}
	if eightBit || !ascii(sender) {
		e.Args = append(e.Args, "BODY=8BITMIME")
	}
	if global || !ascii(sender) {
		e.Args = append(e.Args, "SMTPUTF8")
	}
	return e, []byte(b.String()), nil
}

func writeHeader(b *strings.Builder, r Report, action Action, machine string) {
	host := hostName(r.Hostname)
	field(b, "Date", r.Now.Format(time.RFC1123Z))
	field(b, "From", "MAILER-DAEMON@"+host+" (Mail Delivery System)")
	field(b, "Subject", subject(action))
	field(b, "To", to(r.Original.Sender))
	// The sum over the fates tells apart the notifications of one message.
	sum := fnv.New64a()
	sum.Write([]byte(machine))
	field(b, "Message-ID", fmt.Sprintf("<%s.%s.%016x@%s>", r.Now.UTC().Format("20060102150405"), r.ID, sum.Sum64(), host))
	field(b, "Auto-Submitted", "auto-replied")
	field(b, "MIME-Version", "1.0")
}

// to is the value of the To field: the sender, if that makes a valid field.
func to(sender string) string {
	a := "<" + sender + ">"
	if _, err := mail.ParseAddress(a); err != nil || len(a) > maxWord || oneLine(a, true) != a {
		return "undisclosed-recipients:;"
	}
	return a
}

func subject(a Action) string {
	switch a {
	case Failed:
		return "Undelivered Mail Returned to Sender"
	case Delayed:
		return "Delayed Mail (still being retried)"
	default:
		return "Successful Mail Delivery Report"
	}
}

// returnedName describes the third part.
func returnedName(a Action) string {
	switch a {
	case Failed:
		return "Undelivered Message"
	case Delayed:
		return "Delayed Message"
	default:
		return "Delivered Message"
	}
}

func writePart(b *strings.Builder, boundary, description, contentType, body string) {
	b.WriteString("--" + boundary + "\r\n")
	field(b, "Content-Description", description)
	field(b, "Content-Type", contentType)
	if !ascii(body) {
		field(b, "Content-Transfer-Encoding", "8bit")
	}
	// The line end before a boundary belongs to the boundary.
	b.WriteString("\r\n" + body + "\r\n")
}

// boundaryFor finds a boundary that occurs in none of the parts. A sender can
// guess the first; then a number is counted up until it cannot be there.
func boundaryFor(r Report, parts ...string) string {
	for n := 0; ; n++ {
		boundary := fmt.Sprintf("=_%s.%d.%d", r.ID, r.Now.Unix(), n)
		if !strings.Contains(strings.Join(parts, "\n"), boundary) {
			return boundary
		}
	}
}
