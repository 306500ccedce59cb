// Package route finds the way to a domain: its mail exchangers and their addresses.
package route

import (
	"net/netip"
	"time"
)

// Host is one mail exchanger.
type Host struct {
	Name       string // lower case, no final dot; "" for an address literal
	Preference uint16
	Addrs      []netip.Addr // in the order of the configured protocols
}

// Plan is the way to a domain.
type Plan struct {
	Domain  string
	Hosts   []Host    // by preference, then name
	Expires time.Time // when the answer should be asked for again
}

// Reason says why there is no way to a domain.
type Reason uint8

// The reasons.
const (
	Temporary      Reason = iota // SERVFAIL, timeout: ask again
	NXDomain                     // the domain does not exist
	NullMX                       // RFC 7505: it takes no mail
	NoAddress                    // its hosts have no address of our protocols
	Loop                         // its best mail exchanger is this host
	RefusedAddress               // every address is loopback, link-local, private or the like
)

// Error is a domain without a way.
type Error struct {
	Domain string
	Reason Reason
	Err    error
}
