package control

import "time"

// HeldBack says why a site gets less than it could.
type HeldBack struct {
	// Reason is suspended, dead, refused, slowed, crowded, queue_limit, agent_limit or fleet_limit.
	Reason string    `json:"reason"`
	How    string    `json:"how"`               // what that means here
	Reply  string    `json:"reply,omitempty"`   // of the receiver, or the order, behind it
	Until  time.Time `json:"until,omitzero"`    // when it ends
	Next   time.Time `json:"next_try,omitzero"` // when it is tried again
}

// Account is all that is told of one site.
type Account struct {
	Site
	MaxSessions int       `json:"max_sessions"`
	MaxRate     float64   `json:"max_message_rate,omitempty"` // messages per second; 0: none
	LimitsBy    string    `json:"limits_by"`                  // who says so: the configuration, or an admin
	Host        int       `json:"left_to_host,omitempty"`     // sessions that are left to the host MTA
	Whose       string    `json:"limit_of,omitempty"`         // whose limit was found: "each address" or "the site"; "": none was
	Lag         float64   `json:"lag,omitempty"`              // seconds after its session's end that a slot is free
	Reply       string    `json:"reply,omitempty"`            // the last refusal
	Opens       time.Time `json:"opens,omitzero"`             // no connect before
	Punished    time.Time `json:"punished_until,omitzero"`    // refusals are taken to be punished until then
	Addresses   []Address `json:"addresses,omitempty"`
	Warmup      string    `json:"warmup,omitempty"`  // of the address that its connections come from
	Breaker     string    `json:"breaker,omitempty"` // by what streams are held at its queue, and what is not known there
}

// Address is one address of a site, as all sites together use it.
type Address struct {
	Address  string    `json:"address"`            // with its port
	Sessions int       `json:"sessions,omitempty"` // of the site that are up
	Held     int       `json:"slots_held"`         // connections that the receiver may count
	Accepted int       `json:"accepted"`           // the most that were held when one more was accepted
	Limited  bool      `json:"limited"`            // another one was refused
	Pace     float64   `json:"pace,omitempty"`     // messages per second; 0: no limit of its own is known
	Down     bool      `json:"down,omitempty"`     // it is passed by now while there are others
	Failing  *Failing  `json:"failing,omitempty"`  // its last connects failed
	Opens    time.Time `json:"opens,omitzero"`     // no connect before
	Reply    string    `json:"reply,omitempty"`    // the last refusal
}

// Failing is what is known of an address that is down.
type Failing struct {
	Times int       `json:"times"`           // connects in a row that failed
	Since time.Time `json:"since,omitzero"`  // the first of them did; zero: before a restart
	Until time.Time `json:"until,omitzero"`  // others go before it
	How   string    `json:"how"`             // the last one failed
	Why   string    `json:"error,omitempty"` // in the words of the error, or of the receiver
}
