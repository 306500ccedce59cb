// Package event describes what became of one recipient in one delivery attempt,
// once, for everyone who tells of it: the log, the event file, metrics, the status
// page, the suppression list.
//
// The agent fills a Delivery after its outcome is in the journal, so no account
// runs ahead of the truth; a crash in between leaves one out, never one too many.
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
	Damaged    Status = "damaged"           // its content cannot be read
)

// Final reports whether the recipient is done with.
func (s Status) Final() bool {
	switch s {
	case Deferred, Returned, Returning, Stuck:
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
	Relay    string         // "mx1.example[192.0.2.1]:25", or "none"
	Reuse    int            // transactions on the connection, this one counted
	Tries    int            // attempts that count, this one included
	Connect  time.Duration  // 0 on a connection that was up
	Transmit time.Duration  // from MAIL to the reply to the final dot

	Status   Status
	Class    outcome.Class
	Code     int       // SMTP reply code; 0 if no server spoke
	Enhanced string    // status code of RFC 3463
	Reason   string    // the reply, or what failed; one line
	Due      time.Time // of the next attempt; zero for a final status
}

// Recipient is the recipient's address, "" if the envelope could not be read.
func (d *Delivery) Recipient() string {
	if d.Envelope == nil {
		return ""
	}
	return d.Envelope.Recipients[d.Ordinal].Address
}

// Delay is the time since the message arrived, and its parts as Postfix splits
// them: in the queue, connecting, transmitting.
func (d *Delivery) Delay() (total, queued, connect, transmit time.Duration) {
	if d.Envelope == nil {
		return 0, 0, d.Connect, d.Transmit
	}
	total = max(d.Time.Sub(d.Envelope.Arrived), 0)
	return total, max(total-d.Connect-d.Transmit, 0), d.Connect, d.Transmit
}
