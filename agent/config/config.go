// Package config owns Millrace's configuration: plain data, read once, never
// changed afterwards. It imports none of our other packages.
//
// Load reads millrace.toml and, beside it, conf.d/*.toml in name order; the
// result has every default filled in and has been checked as a whole. A reload
// is a second Load: when it fails, the caller keeps what it has. Match and
// MatchMX answer the one question the other packages ask of it: which queue
// does a domain belong to.
package config

import (
	"net/netip"
	"time"
)

// Config is one complete, checked configuration.
type Config struct {
	// Hostname is the EHLO name and the name in our Received fields.
	// Default: the host's fully qualified name.
	Hostname string

	Spool    Spool
	Milter   Milter
	Agent    Agent
	Handback Handback

	// General is the general queue: every domain that no specific queue lists.
	General Queue
	// Queues are the specific queues in the order of the files.
	Queues []Queue

	index map[string]*Queue // listed domain, lower case A-label -> queue
}

// Spool says where diverted mail lies, and when the milter stops filling it.
type Spool struct {
	Directory     string
	MinFree       Size  // bytes left free on the file system
	MaxRecipients int64 // recipients queued in all
}

// Mode says whether the milter acts on its decisions.
type Mode string

// The modes of the milter.
const (
	Observe Mode = "observe" // decide, log, count; divert nothing
	Divert  Mode = "divert"
)

// Verdict says how the milter makes the host MTA forget a diverted message.
type Verdict string

// The verdicts; FACTS on each are in the documentation of package milter.
const (
	VerdictAuto    Verdict = "auto"
	VerdictDelrcpt Verdict = "delrcpt"
	VerdictDiscard Verdict = "discard"
)

// Milter configures the diverter.
type Milter struct {
	Listen       []string // "unix:/path", "inet:8890@127.0.0.1", "inet6:8890@[::1]"
	Mode         Mode
	Verdict      Verdict
	OnFailure    string        // "accept" or "tempfail"
	AgentGrace   time.Duration // agent silent longer: leave mail with the host
	Scope        []string      // "authenticated", "loopback", CIDR, "daemon:NAME"
	Remote       []string      // mailer names, or "mailer:nexthop"
	HostDomains  []string
	BuiltinRules bool
	Rules        []Rule
}

// Action is what a milter rule does with the mail it matches.
type Action string

// The actions of a rule.
const (
	ActionDivert Action = "divert"
	ActionLeave  Action = "leave"
)

// Rule is one [[milter.rule]]. Every condition that is given must hold; a
// condition with several values holds if one of them does. A rule without any
// condition is an error.
type Rule struct {
	Name   string
	Action Action
	Stream string // template; "" means List-Id, Feedback-ID or the sender's domain

	Sender          []string       // globs over the envelope sender, case folded
	Header          []HeaderMatch  // every one must hold
	HeaderExists    []string       // every one must be present
	Client          []netip.Prefix // client address
	AuthUser        []string       // globs over the SASL user
	Daemon          []string       // {daemon_name}
	MinRecipients   int
	RecipientDomain []string // globs; every recipient must match one
	MinSize         Size     // bytes of header and body

	File string // where the rule stands, for messages
	Line int
}

// HeaderMatch is one entry of a rule's header condition, written
// "Name: glob" or "Name: /regexp/".
type HeaderMatch struct {
	Name    string
	Pattern string // as written, after the colon, blanks trimmed
}

// Agent configures the transport agent.
type Agent struct {
	Control           string   // "unix:/path"
	Resolvers         []string // "address:port"; none: /etc/resolv.conf
	Port              uint16   // of the receivers' MX hosts
	Protocols         []string // "ipv4", "ipv6" in the order they are tried
	SourceAddresses   []netip.Addr
	MaxSessions       int // all sites together
	AllowDestinations []netip.Prefix
	HTTP              HTTP
}

// HTTP configures metrics, health and the status page; Listen "" turns it off.
type HTTP struct {
	Listen string
}

// Handback says where mail goes that returns to the host MTA.
type Handback struct {
	Relay string // "host:port"
}

// TLS is the least protection of a queue's connections; MTA-STS and DANE raise it.
type TLS string

// The TLS levels.
const (
	TLSNone          TLS = "none"
	TLSOpportunistic TLS = "opportunistic"
	TLSRequired      TLS = "required"
	TLSVerify        TLS = "verify"
)

// RouteKind says which way a queue's mail goes.
type RouteKind string

// The ways of a queue.
const (
	RouteMX       RouteKind = "mx"
	RouteHandback RouteKind = "handback"
	RouteRelay    RouteKind = "relay"
)

// Route is a queue's way: "mx", "handback" or "relay:host:port".
type Route struct {
	Kind  RouteKind
	Relay string // "host:port" when Kind is RouteRelay
}

// Queue is a policy and a name: the general queue or a [[queue]].
type Queue struct {
	Name    string   // "general" for the general queue
	Domains []string // listed domains and those of the domain files, lower case A-labels
	MX      []string // globs over MX host names; all hosts of a domain must match

	DomainFiles []string

	Route                    Route
	MaxSessions              int // per site and source
	MaxMessagesPerConnection int
	MaxRecipientsPerMessage  int // per transaction
	MaxMessageRate           Rate
	Retry                    []time.Duration // the last one repeats
	Expire                   time.Duration
	TLS                      TLS

	File string // where the queue stands, for messages
	Line int
}

// Size is a number of bytes; written "1GiB", "64MiB", "500MB" or plain.
type Size int64

// Rate is messages per second; 0 is no limit. Written "100/s", "600/m", "5000/h".
type Rate float64
