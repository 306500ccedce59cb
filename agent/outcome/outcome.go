// Package outcome turns a reply or a failure, with the queue's policy, into a
// decision: what to do with the recipient, when, how to call it, whom it concerns
// and what it tells the controller of the site.
//
// It is pure: no I/O, no clock. The agent makes an Attempt of each recipient's
// reply or of a connection's failure, calls Policy.Decide, records the decision,
// and passes its Signal on. One Decide stands alone; none depends on another.
//
// It promises:
//
//   - Only a remote server's 5xx, a domain that does not exist or takes no mail, a
//     message too big for the peer, or expiry bounces. Any other failure for good
//     gives the message to the host MTA, which may know better.
//   - A refusal to talk (5xx at the greeting or for want of TLS) and a throttle in
//     5xx clothes are retried.
//   - What goes to the host MTA itself never bounces: it waits, and is Stuck when
//     the host refuses it.
//   - No retry is due after expiry or the time of return; the last try is then.
//
// A reply is data, and read in this order: the policy's rules (Rule: what single
// receivers say, with an Effect on the site or the stream); the shipped readings
// (readings.go), which look at the stage, the enhanced status (RFC 3463 and its registry)
// and the words; the status alone; the code alone. What none of the first three knew is
// marked (NoRule), and Unknown keeps an example. Whatever stands at MAIL or before speaks
// of us. A reply to RCPT that calls a recipient one too many says so of the message
// (ClassTooManyRecipients) or of a time (ClassRateLimited). If it is the first of its
// transaction, it does not speak of the message, however it is worded (RFC 5321 section
// 4.5.3.1.10): on a connection that has taken mail it says so of that (ClassConnections), on a
// new one of a time after all. "Mailbox unavailable" to DATA cannot mean an address that RCPT took.
//
// Hard means that words and status both speak of the recipient's address. Nothing said of
// our sender, our host, a policy or a quota is hard, nor is a thing unknown that no word
// names, nor a guess ("may not exist"). Whoever refuses us at connect, and says not why,
// distrusts our address: nothing else of us is known there. Of a text the first 512 octets and 64 words are read, in at most some 5 us.
package outcome

import (
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// Stage says what a reply answered, or where an attempt failed.
type Stage uint8

// The stages.
const (
	Route    Stage = iota // finding the destination: DNS
	Connect               // TCP connect, greeting, EHLO
	TLS                   // STARTTLS and its policy
	Mail                  // MAIL
	Rcpt                  // RCPT
	Data                  // DATA, content, and the final dot
	Internal              // our own limit or failure; no server spoke
)

// ParseStage reads the name of a stage at which a server replies: connect, tls, mail, rcpt
// or data.
func ParseStage(s string) (Stage, bool) {
	switch s {
	case "connect":
		return Connect, true
	case "tls":
		return TLS, true
	case "mail":
		return Mail, true
	case "rcpt":
		return Rcpt, true
	case "data":
		return Data, true
	}
	return Route, false
}

// Attempt is what happened to one recipient, or to a connect.
type Attempt struct {
	Stage         Stage
	Code          int    // SMTP reply code; 0 if no server spoke
	Enhanced      string // "4.7.28", or ""
	Text          string
	Fault         Fault     // what went wrong when Code is 0
	To            string    // the recipient, whose address a reply may repeat; "" if it is about none
	Peer          string    // who spoke: "mx1.example[192.0.2.1]"; "" if nobody was reached
	Tries         int       // tries before this one
	Born          time.Time // of the message; zero: it does not expire
	Jitter        float64   // in [0, 1): puts a retry off by up to a tenth, so that not all come at once
	ToHost        bool      // this was the hand-back relay
	Report        bool      // the message is a DSN of ours
	First         bool      // of a reply to RCPT: no other recipient of the transaction was accepted before
	Used          bool      // the connection has taken mail in an earlier transaction
	Shared        bool      // of a reply to DATA: it is about other recipients too
	BeforeContent bool      // of a reply to DATA: it is the one to the command itself
}

// Fault is a failure that no server's reply describes.
type Fault uint8

// The faults.
const (
	NoFault        Fault = iota
	NXDomain             // the domain does not exist
	NullMX               // RFC 7505
	DNSFailed            // SERVFAIL, timeout, no answer
	NoAddress            // hosts without any address of our protocols
	Loop                 // the best MX is this host
	RefusedAddress       // all addresses are in refused ranges (invariant 8)
	Unreachable          // connect refused, timed out, no route
	LostConnection       // the connection broke; nothing was accepted
	InDoubt              // the connection broke after the final dot
	TLSFailed
	NeedsExtension // the peer lacks SMTPUTF8 or the like that this message needs
	Oversize       // larger than the peer's SIZE
	Unreadable     // our spool cannot give the content
	Garbled        // the server said something that is no reply: Attempt.Text
	Rejected       // by our configuration, which names the reply: Attempt.Text, Enhanced
)

// Action is what to do with the recipient.
type Action uint8

// The actions.
const (
	Deliver  Action = iota // it is delivered (or, at the relay, handed back)
	Retry                  // at Decision.Due
	Bounce                 // failed for good: a DSN if one is owed
	HandBack               // give it to the host MTA
	Stuck                  // the host refused what we gave back: keep, show, try rarely
	Damage                 // content unreadable
	Cancel                 // by an admin; Decide never says it
	Move                   // another node has it; Decide never says it
)

// Class is a bounce class, in the vocabulary of bounce tools. Its numbers are
// stored in journals and never change.
type Class uint8

// Decision is what follows from an attempt.
type Decision struct {
	Action   Action
	Class    Class
	Due      time.Time    // of the next try, for Retry and Stuck
	Enhanced string       // status for log and DSN: the server's, or ours
	Signal   elastic.Kind // evidence for the controller
	Reason   string       // one line for log, queue listing and DSN
	Effect   *Effect      // of the rule that matched the reply; nil if none did
	Rule     string       // the rule or reading behind it; NoRule: none knew the reply; "": no server refused

	// Hard: the address or its domain is of no use any more, by the words of the reply
	// and by its status. A retry is never hard.
	Hard bool
	// Greylisted: the reply reads as greylisting.
	Greylisted bool
	// Wait is the time after which a 4xx asks to come again, from a minute to an hour;
	// 0 if it names none.
	Wait time.Duration
}

// Policy is what a queue says about retries.
type Policy struct {
	Retry         []time.Duration // the last one repeats; none: every 30 minutes
	Expire        time.Duration   // age at which a failure is final; 0: never
	HandbackAfter time.Duration   // age at which one that may pass gives the message to the host MTA; 0: never
	Rules         []Rule          // about what receivers say; the first that matches wins
}
