// Package dsn turns what became of recipients into delivery status notifications
// (RFC 3461, 3464, 6522, and 6533 for mail that was declared SMTPUTF8).
//
// It is pure: no clock, no files, no network. It owns two questions, whether a
// notification is owed and what it looks like; when to send it and where is the
// caller's.
//
// The calls follow each other so: Owed for each recipient whose fate is known;
// for those it approves, one Report with as many recipients of the message as
// the caller likes; WantsFull says whether to read the whole original or only
// its header, MaxContent how much of it at most; Compose gives envelope and
// content, ready to be appended to the spool. A notification is never owed for
// a notification, so there are no loops.
//
// What it promises: whatever texts a remote server, a client or an original
// message contain, the result is a well-formed message with CRLF line ends, no
// line longer than 998 octets, exactly the header fields it means to have, and
// three MIME parts whose boundary occurs nowhere else.
package dsn

import (
	"strings"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// Action is what happened to a recipient, in the words of RFC 3464 section 2.3.3.
type Action string

// The actions.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered"
	Relayed   Action = "relayed"  // accepted by a server that does not know DSN
	Expanded  Action = "expanded" // by an alias or a list
)

// Recipient is one recipient of the original and its fate.
type Recipient struct {
	spool.Recipient
	Action         Action
	Status         string    // "5.1.1" (RFC 3463); anything else becomes Action's class with .0.0
	Diagnostic     string    // the server's reply, "550 5.1.1 No such user", or our own reason
	Text           string    // what to tell people, one line; "": made of Diagnostic and RemoteHost
	RemoteHost     string    // the server that gave the reply; "" if Diagnostic is our own
	Class          string    // bounce class, "userunknown"; "": left out
	LastAttempt    time.Time // zero: left out
	WillRetryUntil time.Time // for Delayed; zero: left out
}

// Report is all that a notification is made of.
type Report struct {
	Hostname   string // of the reporting MTA: ours
	ID         spool.ID
	Original   *spool.Envelope
	Recipients []Recipient
	// Content is the original's header or, with Full, all of it; CRLF lines.
	Content []byte
	Full    bool
	Now     time.Time
}

// MaxContent is how many octets of the original a notification returns at most.
// Of an original that is larger only the header is returned, so Report.Content
// never needs more than its header and MaxContent+1 octets.
const MaxContent = 50_000

// Notify reads the NOTIFY argument of RCPT (RFC 3461 section 4.1). Without one,
// or with one that cannot be understood, failures are to be notified.
func Notify(args []string) (never, success, failure, delay bool) {
	value, ok := argument(args, "NOTIFY")
	if !ok {
		return false, false, true, false
	}
	for word := range strings.SplitSeq(value, ",") {
		switch strings.ToUpper(strings.TrimSpace(word)) {
		case "NEVER":
			never = true
		case "SUCCESS":
			success = true
		case "FAILURE":
			failure = true
		case "DELAY":
			delay = true
		default:
			return false, false, true, false
		}
	}
	if success || failure || delay {
		never = false // NEVER stands alone; a report too many loses nothing
	}
	return never, success, failure, delay
}

// Owed reports whether the sender is to be told that a happened to r: never the
// null sender, never for a notification of our own, else as NOTIFY says.
func Owed(e *spool.Envelope, r spool.Recipient, a Action) bool {
	if e.Sender == "" || e.Origin == spool.Report {
		return false
	}
	_, success, failure, delay := Notify(r.Args)
	switch a {
	case Failed:
		return failure
	case Delayed:
		return delay
	default:
		return success
	}
}

// WantsFull reports whether the sender asked for the whole message back
// (RET=FULL, RFC 3461 section 4.3). Without a word from it the header is enough:
// it is what bounce tools read, and bulk mail is large.
func WantsFull(e *spool.Envelope) bool {
	v, _ := argument(e.Args, "RET")
	return strings.EqualFold(v, "FULL")
}

// global reports whether the notification takes the forms of RFC 6533, which a
// sender that declared SMTPUTF8 understands, because there is something outside
// ASCII that the old ones cannot say.
func (r *Report) global() bool {
	declared := false
	for _, a := range r.Original.Args {
		declared = declared || strings.EqualFold(a, "SMTPUTF8")
	}
	if !declared || !ascii(r.Original.Sender) || !ascii(r.Content) {
		return declared
	}
	for _, rcpt := range r.Recipients {
		orcpt, _ := argument(rcpt.Args, "ORCPT")
		if !ascii(rcpt.Address) || len(orcpt) > 6 && strings.EqualFold(orcpt[:6], "utf-8;") {
			return true
		}
	}
	return false
}

// argument returns the value of the first ESMTP argument of a name.
func argument(args []string, name string) (string, bool) {
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if ok && strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}
