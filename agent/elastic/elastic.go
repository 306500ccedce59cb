// Package elastic decides how many sessions a site gets, and how fast they may send.
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
	Began time.Time // when the connect (Up, Refused, Failed) or the transaction began
}

// Limits are the configured ceilings of a site.
type Limits struct {
	MaxSessions int     // at least 1
	MaxRate     float64 // messages per second, 0: none
}

// Target is what the controller wants now.
type Target struct {
	Sessions int     // connections to have, established or being opened
	Unproven int     // of these, connects that may be under way at once
	Pace     float64 // messages per second; 0: unlimited
	Cause    string  // one short line: the measurement or reply behind the last change
}

// Load is what the queue knows at this moment.
type Load struct {
	Backlog int // recipients waiting for this site, ready to go
	Live    int // sessions that are up
	Opening int // connects under way
}
