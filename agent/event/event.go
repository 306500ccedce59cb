// Package event describes what became of one recipient in one delivery attempt,
// once, for everyone who tells of it: the log, the event file, metrics, the status
// page, the suppression list.
//
// The agent fills a Delivery after its outcome is in the journal, so no account
// runs ahead of the truth; a crash in between leaves one out, never one too many.
//
// # The event file
//
// A File writes deliveries to a file for programs to read, list software above all:
// one JSON object a line, for every final outcome and every deferral. A line has
// these fields; those marked ? are left out when there is nothing to say. A reader
// ignores fields and events that it does not know; v grows if a field goes or
// changes its meaning.
//
//	v              number   of the schema: 1
//	time           time     when it was recorded
//	event          string   see below
//	id             string   of the message in the spool: "M1A-3F0040"
//	ordinal        number   of the recipient in the message, from 0
//	qid            string?  the host MTA's queue id, as in its log
//	origin         string?  "diverted" from the host, or "report": a DSN of our own
//	arrived        time?    when the host took the message
//	size           number?  octets of header and body
//	stream         string?  campaign or list
//	sender         string   envelope sender as it came (VERP), "" for the null sender
//	recipient      string   address as the client wrote it
//	domain         string?  that the mail was routed by; "relay:host:port" for what
//	                        goes to a relay, as reports do to the host, or
//	                        "relay:unix:/path"
//	queue          string?  domain queue, "general"
//	site           string?  provider, or a short name for its hosts' addresses
//	relay          string?  the server: "mx1.example[192.0.2.1]:25", "localhost[/path]"
//	                        for a socket
//	source         string?  the address of this host that the connection came from
//	pool           string?  the [[pool]] that it was chosen from
//	conn_use       number?  which transaction of its connection this was, from 1
//	tries          number   attempts so far
//	delay          number   seconds since it arrived, to the millisecond
//	delay_queue    number   of these, in the queue
//	delay_connect  number   of these, connecting
//	delay_transmit number   of these, from MAIL to the reply to the final dot
//	class          string   bounce class: "none" if delivered, "userunknown", ...
//	hard           boolean  the address is of no use any more, by the words of the reply and its status
//	rule           string?  the rule or reading that read the reply; "none": none knew it (millrace reply --unknown)
//	code           number?  SMTP reply code, if a server spoke
//	dsn            string?  enhanced status code of RFC 3463
//	reply          string?  the reply or the reason, one line
//	due            time?    of the next attempt
//	simulated      boolean? the receiver was the one of [simulate], in the agent itself
//	feedback_type  string?  of a complaint or feedback: "abuse", "not-spam", ...
//	reporter       string?  of a report that came back, who says so: a host, a program
//	counted        boolean? of a report that came back: it counts for suppression
//	uncounted      string?  why it does not
//
// A time is a string of RFC 3339 in UTC with microseconds. The events are
//
//	final:      sent, bounced, handed_back, cancelled, suppressed, damaged, moved (to another
//	            node, whose events go on under the id that reply names)
//	not final:  deferred, returning (waits for the host's hand-back port now),
//	            stuck (the host refused what it was given back)
//	came back:  late_bounce, complaint, feedback: what a report says of a recipient whose
//	            message was taken. They may come more than once, and after final events.
//	            late_bounce is of a delivery report, with dsn, code and reply of it, class and
//	            hard as for a bounce; complaint and feedback of a feedback report, the first
//	            if somebody does not want such mail. sender, size, tries and the delays say
//	            nothing there, nor does ordinal where the copy had several recipients;
//	            recipient is "" if the report tells none that the message had. domain, queue
//	            and site are those that mail to the recipient has when the report comes; without
//	            an answer of the DNS there is no site, and queue is the one that lists the domain.
//	gap:        with v, time, until and lost only: so many events between the two
//	            times could not be written, because the disk stalled or was full
//	            for longer than the buffer of 16 MiB lasts
//
// A bounce is told by the bounced event of the message itself. Its report, if one is
// owed, is a message of its own with events of its own: handed_back, most often.
//
// What a crash does. The event follows its outcome's entry in the journal, and the
// file is not synced: kill -9 leaves out the events of the last moments (those
// between the journal and write(2), some milliseconds unless the disk stalls), and
// power loss those of about the last half minute. No event is written twice for
// one outcome; but a transaction that a crash repeats (the server took the
// message, the journal did not hear of it) has one event, of the second time. id
// with ordinal has at most one final event. A last line that was cut short stays
// as it is, and the next one begins on a line of its own.
package event

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
)

// Status is what became of the recipient, in the words of Postfix's status= where
// it has one.
type Status string

// The statuses; Final tells which end it.
const (
	Deferred   Status = "deferred"          // tried; will be tried again
	Returned   Status = "returned to queue" // was not offered; the attempt does not count
	Returning  Status = "returning to host" // waits for the hand-back relay now
	Stuck      Status = "stuck"             // the host refused what it was given back
	Sent       Status = "sent"              // accepted by its destination
	Bounced    Status = "bounced"           // failed for good
	HandedBack Status = "handed back"       // accepted by the host MTA
	Cancelled  Status = "cancelled"         // by an admin
	Suppressed Status = "suppressed"        // not tried: the address has bounced too often
	Damaged    Status = "damaged"           // its content cannot be read
	Moved      Status = "moved"             // another node has it, and sends it

	// What came back about a recipient that was sent (package assess).
	LateBounce Status = "late bounce" // it failed after its host had taken the message
	Complaint  Status = "complaint"   // somebody does not want such mail
	Feedback   Status = "feedback"    // something else that a feedback report tells
)

// CameBack reports whether it is not about an attempt of ours.
func (s Status) CameBack() bool { return s == LateBounce || s == Complaint || s == Feedback }

// Final reports whether the recipient is done with.
func (s Status) Final() bool {
	switch s {
	case Deferred, Returned, Returning, Stuck, LateBounce, Complaint, Feedback:
		return false
	default:
		return true
	}
}

// Delivery is one attempt for one recipient. What is called may read it until it
// returns, and keeps no pointer to it or to the envelope.
type Delivery struct {
	Time     time.Time
	ID       spool.ID
	Envelope *spool.Envelope // nil if it could not be read
	Ordinal  uint32          // of the recipient in Envelope
	Domain   string          // of the recipient; queue.RelayDomain's form for mail to a relay
	Queue    string          // name of the domain queue, "general", "handback"
	Site     string          // "" if no connection was wanted

	Peer     netip.AddrPort // of the server; zero if none was reached
	Pool     string         // that the source was chosen from; "": source_addresses, or the system
	Source   netip.Addr     // where the connection came from; zero if there was none, or by a Unix socket
	Relay    string         // "mx1.example[192.0.2.1]:25", or "none"
	Reuse    int            // transactions on the connection, this one counted
	Tries    int            // attempts that count, this one included
	Connect  time.Duration  // 0 on a connection that was up
	Transmit time.Duration  // from MAIL to the reply to the final dot

	Status   Status
	Class    outcome.Class
	Hard     bool      // the address is of no use any more
	Rule     string    // that read the reply; outcome.NoRule: none knew it; "": no server refused
	Code     int       // SMTP reply code; 0 if no server spoke
	Enhanced string    // status code of RFC 3463
	Reason   string    // the reply, or what failed; one line
	Due      time.Time // of the next attempt; zero for a final status

	Simulated bool // the receiver was [simulate]'s: nothing left the agent

	// Of what came back. The envelope has no recipients then, only what the mark told.
	To           string    // the recipient, "" if none is told
	Arrived      time.Time // day on which the message arrived, UTC; zero: the mark does not tell
	FeedbackType string
	Reporter     string // who says so
	Uncounted    string // why it does not count for suppression; "": it does
}

// Listener hears of deliveries. It may be called by many goroutines.
type Listener interface{ Delivery(*Delivery) }

// Recipient is the recipient's address, "" if the envelope could not be read.
func (d *Delivery) Recipient() string {
	if d.Envelope == nil || d.Status.CameBack() {
		return d.To
	}
	return d.Envelope.Recipients[d.Ordinal].Address
}

// Delay is the time since the message arrived, and its parts as Postfix splits
// them: in the queue, connecting, transmitting.
func (d *Delivery) Delay() (total, queued, connect, transmit time.Duration) {
	if d.Envelope == nil || d.Status.CameBack() {
		return 0, 0, d.Connect, d.Transmit
	}
	total = max(d.Time.Sub(d.Envelope.Arrived), 0)
	return total, max(total-d.Connect-d.Transmit, 0), d.Connect, d.Transmit
}
