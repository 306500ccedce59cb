package dsn

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/agent/spool"
)

var (
	enhancedCode = regexp.MustCompile(`^[245]\.[0-9]{1,3}\.[0-9]{1,3}$`)
	smtpReply    = regexp.MustCompile(`^[2-5][0-9][0-9]([ -]|$)`)
	bounceClass  = regexp.MustCompile(`^[a-z]{1,32}$`)
	addressType  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,31}$`)
)

// deliveryStatus writes the machine's part (RFC 3464 section 2). It is ASCII
// unless the report is global (RFC 6533 section 4).
func deliveryStatus(r Report, global bool) string {
	var b strings.Builder
	field(&b, "Reporting-MTA", "dns; "+hostName(r.Hostname))
	field(&b, "X-Millrace-Queue-ID", r.ID.String())
	field(&b, "X-Millrace-Sender", address(r.Original.Sender, global))
	if v, ok := argument(r.Original.Args, "ENVID"); ok {
		if id := oneLine(xtext(v), false); id != "" {
			field(&b, "Original-Envelope-Id", id)
		}
	}
	date(&b, "Arrival-Date", r.Original.Arrived)
	for _, rcpt := range r.Recipients {
		b.WriteString("\r\n")
		recipientStatus(&b, rcpt, global)
	}
	return b.String()
}

func recipientStatus(b *strings.Builder, r Recipient, global bool) {
	if v, ok := argument(r.Args, "ORCPT"); ok {
		if o := originalRecipient(v, global); o != "" {
			field(b, "Original-Recipient", o)
		}
	}
	field(b, "Final-Recipient", address(r.Address, global))
	field(b, "Action", string(r.Action))
	field(b, "Status", status(r))
	if r.RemoteHost != "" {
		field(b, "Remote-MTA", "dns; "+hostName(r.RemoteHost))
	}
	if text := oneLine(r.Diagnostic, global); text != "" {
		kind := "X-Millrace"
		if r.RemoteHost != "" && smtpReply.MatchString(text) {
			kind = "smtp"
		}
		field(b, "Diagnostic-Code", kind+"; "+text)
	}
	if bounceClass.MatchString(r.Class) {
		field(b, "X-Millrace-Bounce-Class", r.Class)
	}
	date(b, "Last-Attempt-Date", r.LastAttempt)
	if r.Action == Delayed {
		date(b, "Will-Retry-Until", r.WillRetryUntil)
	}
}

func date(b *strings.Builder, name string, t time.Time) {
	if !t.IsZero() {
		field(b, name, t.Format(time.RFC1123Z))
	}
}

// status returns the recipient's enhanced status code, or the class of its
// action when there is none.
func status(r Recipient) string {
	if enhancedCode.MatchString(r.Status) {
		return r.Status
	}
	switch r.Action {
	case Failed:
		return "5.0.0"
	case Delayed:
		return "4.0.0"
	default:
		return "2.0.0"
	}
}

// address writes a mailbox with its type. One outside ASCII stands as it is in a
// global report (RFC 6533 section 3, utf-8-addr-unitext), and in the form that
// fits an ASCII report in others (utf-8-addr-xtext).
func address(mailbox string, global bool) string {
	kind := "rfc822"
	if !ascii(mailbox) {
		kind = "utf-8"
		if !global {
			mailbox = embed(mailbox)
		}
	}
	text := oneLine(mailbox, global)
	if text == "" {
		text = "<>"
	}
	return kind + "; " + text
}

// embed writes letters outside ASCII, and what xtext or the embedding itself
// would misread, as \x{HEX}.
func embed(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r > ' ' && r < 0x7f && !strings.ContainsRune(`\+=`, r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, r)
		}
	}
	return b.String()
}

// embedded is a letter as embed writes it.
var embedded = regexp.MustCompile(`\\x\{([0-9A-Fa-f]{2,6})\}`)

// unembed undoes embed. What would not be a letter stays as it is.
func unembed(s string) string {
	return embedded.ReplaceAllStringFunc(s, func(x string) string {
		n, err := strconv.ParseUint(x[3:len(x)-1], 16, 32)
		if r := rune(n); err == nil && r > ' ' && r != 0x7f && utf8.ValidRune(r) {
			return string(r)
		}
		return x
	})
}

// originalRecipient turns ORCPT ("rfc822;user+2Bx@example.com") into the value
// of the field. It has to come back as it was given, decoded.
func originalRecipient(orcpt string, global bool) string {
	kind, value, ok := strings.Cut(orcpt, ";")
	if !ok || !addressType.MatchString(kind) {
		return ""
	}
	switch {
	case !strings.EqualFold(kind, "utf-8"):
		value = xtext(value)
	case global:
		value = unembed(value)
	case !ascii(value):
		value = embed(value)
	}
	if value = oneLine(value, global); value == "" {
		return ""
	}
	return kind + ";" + value
}

// hostName is a host's name, or what remains of it fit for a field.
func hostName(s string) string {
	if s = strings.ReplaceAll(oneLine(s, false), " ", ""); s == "" {
		return "localhost"
	}
	return cut(s, 255)
}

// worst is the action that the report as a whole is about.
func worst(recipients []Recipient) Action {
	action := Delivered
	for _, r := range recipients {
		switch r.Action {
		case Failed:
			return Failed
		case Delayed:
			action = Delayed
		}
	}
	return action
}

// shownAddress is a recipient's address for people.
func shownAddress(r spool.Recipient) string {
	return "<" + cut(oneLine(r.Address, true), maxWord/2) + ">"
}
