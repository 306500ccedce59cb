// Package elastic decides how many sessions a site gets, and how fast they may
// send, when the receiver announces neither of its limits.
//
// It owns one thing: the Control of a site, which turns evidence (Signal) into
// a Target. It does no I/O, reads no clock, starts no goroutine and takes no
// lock; the caller passes the time in and calls under the lock that guards its
// own counters. Observe and Target allocate only when a decision changes.
//
// The order of calls:
//
//	c := New(now, limits)
//	c.Observe(now, signal)       // once for each thing that happened
//	t := c.Target(now, load)     // after Observe, with the counters as they now are
//	if next := c.Next(); ...     // arm one timer; call Target again when it fires
//
// The caller starts a connect only while Live+Opening < t.Sessions and
// Opening < t.Unproven, closes idle sessions above t.Sessions, and spaces
// transactions so that no more than t.Pace begin in a second.
//
// # What it does
//
// Sessions are doubled while each doubling pays, judged by how long a
// transaction takes: work that takes twice as long on twice the sessions was
// not sped up (phase flat). A refusal ends the doubling at what the receiver
// accepted (phase hold). From then on one more session is tried now and then
// (phase probe), paid from a credit that accepted messages earn, so refusals
// stay near one in a hundred messages at worst and far below that at a fast
// receiver. A refused replacement of a session that just ended is first taken for a
// slot that the receiver frees late, then for a lower limit. If it followed upon
// another refusal, and nothing has yet shown that such have no consequences, the
// receiver is taken to punish them (door.go): what is up may be past its limit
// already, so part of it is let go, and what was held before is come back to only
// when the receiver will have forgotten. A host that refuses while others let us in
// is no limit of the site, and connects that seem to hang are replaced rather than
// waited for. The host MTA's own mail has a share of the limit (host.go), and a
// refusal that one of its connections may have caused says little.
//
// "Too fast" lowers the pace to what was accepted; it rises again in small steps
// near the rate that was refused, and in growing ones beyond it. Where everything
// is refused a message is tried now and then, and once one is accepted the way back
// to the known rate is short. A Clamp bounds a
// site from outside for a time; a clamped site is not probed. History tells each
// change and the reply or measurement behind it.
//
// How many refusals there were is never kept as a limit; what is held is what
// is up and was accepted.
package elastic

import "time"

// Kind is a kind of evidence about a site's limits.
type Kind uint8

// The kinds of evidence.
const (
	Accepted    Kind = iota // a transaction ended with 2xx (or a per-recipient refusal: the server worked)
	Up                      // a connection came up: greeting and EHLO were answered 2xx
	Refused                 // a connection, or a transaction on it, was refused for being one too many
	Failed                  // a connection failed without a word (timeout, refused port, reset): a host's trouble
	RateRefused             // the server says: too fast
	Closed                  // an established session was closed by us or, politely, by the server
	Lost                    // an established session was lost: reset, timeout in a transaction
)

// Signal is one piece of evidence.
type Signal struct {
	Kind  Kind
	Host  string    // address of the server, for telling one host's trouble from the site's
	Text  string    // the reply, to be shown as the cause; may be ""
	Began time.Time // when the connect (Up, Refused, Failed) or the transaction began

	Connected bool // of Failed: the connection was there, and broke without a word
	Wordless  bool // of Refused: a 421 that does not say what is too much
	Trouble   bool // of a transaction: all of its recipients were deferred, and not for reasons of their own
}

// Limits are the configured ceilings of a site.
type Limits struct {
	MaxSessions int     // at least 1
	MaxRate     float64 // messages per second, 0: none
	Why         string  // who says so, for the history; ""
}

// Target is what the controller wants now.
type Target struct {
	Sessions int     // connections to have, established or being opened
	Unproven int     // of these, connects that may be under way at once; 0: start none before Next
	Pace     float64 // messages per second; 0: unlimited
	Slowed   bool    // the pace is what the receiver takes, below any limit that was set
	Cause    string  // one short line: the measurement or reply behind the last change
}

// Load is what the queue knows at this moment.
type Load struct {
	Backlog int // recipients waiting for this site, ready to go
	Live    int // sessions that are up
	Opening int // connects under way
	Hanging int // of these, those that have been for so long that they seem to hang: others are begun in their stead
}
