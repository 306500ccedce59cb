package config

import "time"

// TLS is the least protection of a queue's connections. MTA-STS and DANE raise
// it, except "none", which is the admin's word against any TLS.
type TLS string

// The TLS levels, weakest first.
const (
	TLSNone          TLS = "none"          // never STARTTLS
	TLSOpportunistic TLS = "opportunistic" // STARTTLS if offered, any certificate
	TLSRequired      TLS = "required"      // no mail without TLS, any certificate
	TLSVerify        TLS = "verify"        // no mail without a valid certificate
)

// RouteKind says which way a queue's mail goes.
type RouteKind string

// The ways of a queue.
const (
	RouteMX       RouteKind = "mx"
	RouteHandback RouteKind = "handback"
	RouteRelay    RouteKind = "relay"
	RouteReject   RouteKind = "reject"
)

// Route is a queue's way: "mx", "handback", "relay:host:port" or "reject: 550 5.7.1 text".
type Route struct {
	Kind   RouteKind
	Relay  string // "host:port" when Kind is RouteRelay
	Reject string // "550 5.7.1 text" when Kind is RouteReject
}

// Queue is a policy and a name: the general queue, or a [[queue]], which starts
// from the values of [general].
type Queue struct {
	// Name names the queue in logs and commands; required in a [[queue]], and
	// each name once. "general" is the general queue.
	Name string `toml:"name"`
	// Domains are the listed domains, and after Load those of the domain files
	// too, as lower case A-labels. "*.example.com" stands for all subdomains of
	// example.com, not for itself; the longest match wins.
	Domains []string `toml:"domains"`
	// DomainFiles are files with one domain a line, # begins a comment. A
	// relative path starts at the directory of the configuration file.
	DomainFiles []string `toml:"domain_files"`
	// MX are globs over MX host names: a domain that no queue lists joins this
	// one if all its hosts match. The first queue that claims it has it.
	MX []string `toml:"mx"`

	// Route is "mx", "handback" (give this mail back to the host MTA),
	// "relay:host:port", or "reject: 550 5.7.1 text" for hosts that no mail shall reach,
	// by mx as by domain: the sender gets it back with that reply. Default: "mx".
	Route Route `toml:"route"`
	// MaxSessions bounds the connections of a site and source address; how many
	// are really used the agent finds out. Default: 20.
	MaxSessions int `toml:"max_sessions"`
	// MaxSessionsTotal bounds the connections of a site from all source addresses
	// together. Default: twice max_sessions where there are [[pool]]s, else no limit.
	MaxSessionsTotal int `toml:"max_sessions_total"`
	// Shared makes max_sessions_total, or where that is not set max_sessions, the limit of all
	// nodes of the fleet together for each site: as for nodes behind one address or one proxy.
	// Each has its part of it, and more as its mail needs it, and the same part of
	// max_message_rate and max_connection_rate. Default: false.
	Shared bool `toml:"shared"`
	// Pool is the [[pool]] that mail leaves from, unless its rule or stream names another
	// one. Default: agent.source_addresses.
	Pool string `toml:"pool"`
	// Spread is "domain" (a domain has one address of a pool) or "recipient" (the recipients
	// of the listed domains share all of them; each always has the same). Default: "domain".
	Spread Spread `toml:"spread"`
	// MaxMessagesPerConnection is after how many messages a connection is
	// closed. Default: 100.
	MaxMessagesPerConnection int `toml:"max_messages_per_connection"`
	// MaxRecipientsPerMessage is the most recipients of one transaction.
	// Default: 50.
	MaxRecipientsPerMessage int `toml:"max_recipients_per_message"`
	// MaxMessageRate bounds the messages per time of a site and source address:
	// "100/s", "600/m", "5000/h"; "" is no limit. Default: "".
	MaxMessageRate Rate `toml:"max_message_rate"`
	// MaxConnectionRate bounds the new connections per time of a site and source
	// address, written as max_message_rate; as many as one second allows may come
	// together. "" is no limit. Default: "".
	MaxConnectionRate Rate `toml:"max_connection_rate"`
	// Retry is how long to wait after each deferral; the last one repeats.
	// Default: ["5m", "15m", "30m", "1h", "2h", "4h"].
	Retry []time.Duration `toml:"retry"`
	// DelayWarningTime is the age at which a sender that asked for it (NOTIFY=DELAY)
	// is told that its mail is late; "" is never. Default: "4h".
	DelayWarningTime Age `toml:"delay_warning_time"`
	// Expire is the age from which on a try that fails has undelivered mail returned.
	// Mail that was not tried since, as in a pause, is tried first. Default: "5d".
	Expire time.Duration `toml:"expire"`
	// HandbackAfter is the age at which mail that a receiver defers goes back to the
	// host MTA, which tries on; "" is never. Default: "".
	HandbackAfter Age `toml:"handback_after"`
	// TLS is "none", "opportunistic", "required" or "verify"; MTA-STS and DANE
	// raise all but "none". Default: "opportunistic".
	TLS TLS `toml:"tls"`
	// RelayWrappermode, for route = "relay:host:port", begins TLS at once instead
	// of by STARTTLS, as port 465 wants it (Postfix: smtp_tls_wrappermode).
	// Default: false.
	RelayWrappermode bool `toml:"relay_wrappermode"`
	// RelayAuthFile, for route = "relay:host:port", is a file with one line
	// "user:password" for AUTH, readable by its owner and group only. The
	// password begins after the first colon. Default: "", no AUTH.
	RelayAuthFile string `toml:"relay_auth_file"`

	// RelayAuthTLS is the least TLS under which the password of relay_auth_file is
	// sent, unless the relay is on loopback: "verify", for which tls is raised to
	// "verify" where it is less, or "required", any certificate. Default: "verify".
	RelayAuthTLS TLS `toml:"relay_auth_tls"`

	RelayAuth *Auth `toml:"-"` // what RelayAuthFile holds; nil where this program may not read it
	// RelayAuthRefused says why the credentials are not used; the queue's mail waits.
	RelayAuthRefused string `toml:"-"`

	File string `toml:"-"` // where the queue stands, for messages
	Line int    `toml:"-"`
}

// Auth is a user's name and password.
type Auth struct{ User, Password string }

// String keeps the password out of whatever prints a configuration.
func (a *Auth) String() string { return a.User + ":***" }
