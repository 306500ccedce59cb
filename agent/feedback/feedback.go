// Package feedback reads what receivers send back about mail that they have taken: delivery
// reports (RFC 3464), feedback reports (RFC 5965, with RFC 6591's failures of
// authentication), both as multipart/report (RFC 6522), and what is known of others that
// have a form of their own (exceptions.go). The milter, through which they pass, and the
// agent read them with the same functions.
//
// Whoever has the header of a message asks Wanted. If that says so, the message is put
// together, up to MaxSize octets of it, and Parse makes a Report of it: what is said, of
// which recipients, and the Received fields of the message that came back, of which one may
// carry our mark (package trace). Nothing is believed here: a report is what somebody
// wrote. Package assess judges it.
//
// Between the milter and the agent stands a Box (box.go), a bounded directory of messages.
//
// Whatever a message is made of, Parse takes time and memory in proportion to MaxSize: of
// parts, their depth, recipients and fields it reads so many and no more.
package feedback

import "strings"

// MaxSize is how many octets of a message are read, header and body. What comes back as a
// whole is cut there; its header has come by then.
const MaxSize = 256 << 10

// Kind says what a report is about.
type Kind uint8

// The kinds.
const (
	Delivery  Kind = iota // what became of a message: RFC 3464
	Complaint             // what somebody thinks of it: RFC 5965
)

// Report is a delivery report or a feedback report.
type Report struct {
	Kind Kind
	// Type is the Feedback-Type of a feedback report in lower case: "abuse", "fraud",
	// "virus", "not-spam", "auth-failure", "other", or what else it says.
	Type string
	// Reporter is the host or the program that says so: Reporting-MTA, User-Agent.
	Reporter string
	// From is the address in the From field of the report itself, in lower case.
	From string
	// Ambiguous: From or Content-Type is there more than once, so that another reader may
	// take another one. A signature covers the last.
	Ambiguous bool
	// Recipients are those that the report is about; of a feedback report there may be
	// none, as many leave them out (RFC 6590).
	Recipients []Recipient
	// Received are the Received fields of the message that came back, unfolded, in order.
	Received []string
}

// Recipient is what a report says of one.
type Recipient struct {
	Final    string // the address that failed, without its type; "" if none is told
	Original string // the address that the sender had used, "" if none is told
	Action   string // in lower case: failed, delayed, delivered, relayed, expanded
	Status   string // enhanced status code, "5.1.1"; "" if none is told
	Remote   string // the host that said the diagnostic, "" if none is told
	// Diagnostic is what was said, one line; Code the SMTP reply code at its beginning,
	// 0 if it has none.
	Diagnostic string
	Code       int
}

// Failed reports whether the recipient has failed for good.
func (x *Recipient) Failed() bool { return x.Action == "failed" }

// Complains reports whether the receiver does not want such mail. Other types tell of
// failed checks, of viruses, or that the mail was wanted.
func (r *Report) Complains() bool {
	if r.Kind != Complaint {
		return false
	}
	switch r.Type {
	case "abuse", "fraud", "opt-out", "opt-out-list", "unsubscribe": // RFC 5965 section 7.3 and its drafts
		return true
	}
	return false
}

// Wanted reports whether a message may be a report, by its header: get returns the value of
// a field, "" if there is none. All else need not be read.
func Wanted(get func(name string) string) bool {
	t := media(get("Content-Type"))
	return t == "multipart/report" || exceptionOf(t, get) != nil
}

// media is the type of a Content-Type field, in lower case and without parameters.
func media(field string) string {
	t, _, _ := strings.Cut(field, ";")
	t, _, _ = strings.Cut(t, "(")
	return strings.ToLower(strings.TrimSpace(t))
}
