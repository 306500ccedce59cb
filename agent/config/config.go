// Package config owns Millrace's configuration: plain data, read once, never
// changed afterwards. It imports none of our other packages.
//
// Load reads millrace.toml and, merged in name order, conf.d/*.toml beside it.
// The result has every default filled in and has been checked as a whole: no
// caller need ask again whether a pattern compiles or a duration is positive.
// An error of Load is of type Errors and lists everything that is wrong, each
// with file, line and remedy, so that an admin mends a file in one go. Beside
// the configuration Load returns notices: what is accepted but deserves a word.
//
// A reload is a second Load: when it fails, the caller keeps what it has. There
// is no other way to change a Config, so it may be shared by any number of
// goroutines.
//
// Two questions are asked of a Config later: Match (which queue lists this
// domain) and MatchMX (which queue claims a domain with these mail exchangers).
// Addresses to listen at are read with ParseListen.
//
// How the files are decoded. The TOML library gives keys without lines, and
// stops at the first value of a wrong type. So each file is parsed by itself
// into plain values; a small scanner (lines.go) finds the line of every key and
// list element; and the walk over our structs (decode.go) sets one field at a
// time, collecting errors. The struct tag "toml" is the key's name, the doc
// comment its documentation.
package config

import (
	"net/netip"
	"time"
)

// DefaultFile is where the programs look for their configuration.
const DefaultFile = "/etc/millrace/millrace.toml"

// Config is one complete, checked configuration.
type Config struct {
	// Hostname is the EHLO name and the name in our Received fields.
	// Default: the host's fully qualified name.
	Hostname string `toml:"hostname"`

	Spool    Spool    `toml:"spool"`
	Milter   Milter   `toml:"milter"`
	Agent    Agent    `toml:"agent"`
	Handback Handback `toml:"handback"`
	Log      Log      `toml:"log"`
	Events   Events   `toml:"events"`

	Suppression Suppression `toml:"suppression"`

	// General is the general queue: every domain that no specific queue lists.
	General Queue `toml:"general"`
	// Queues are the specific queues in the order of the files.
	Queues []Queue `toml:"queue"`
	// Replies are rules about what receivers say: the admin's, then the shipped ones.
	Replies []Reply `toml:"reply"`

	domains domainSet // listed domain -> queue
}

// Spool says where diverted mail lies, and when the milter stops filling it.
type Spool struct {
	// Directory holds the diverted mail; an absolute path.
	// Default: "/var/spool/millrace".
	Directory string `toml:"directory"`
	// MinFree is the room in bytes left free on the spool's file system; with
	// less, the milter leaves mail with the host. Default: "1GiB".
	MinFree Size `toml:"min_free"`
	// MaxRecipients is how many recipients may be queued in all; above it the
	// milter leaves mail with the host. Default: 10000000.
	MaxRecipients int64 `toml:"max_recipients"`
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

// The verdicts; what each costs is in the documentation of package milter.
const (
	// VerdictAuto is delrcpt on Postfix over SMTP, discard on Sendmail and for
	// mail that sendmail(1) brought.
	VerdictAuto Verdict = "auto"
	// VerdictDelrcpt needs no setting of the host's and keeps its bcc copies.
	VerdictDelrcpt Verdict = "delrcpt"
	// VerdictDiscard is faster, and on Postfix wants in_flow_delay = 0.
	VerdictDiscard Verdict = "discard"
)

// Milter configures the diverter.
type Milter struct {
	// Listen is where the host MTA finds the milter: "unix:/path",
	// "inet:port@address", "inet6:port@[address]". A socket passed by the
	// service manager wins. Default: ["unix:/var/spool/postfix/millrace/milter.sock"].
	Listen []string `toml:"listen"`
	// Mode "observe" decides, logs and counts, and diverts nothing; "divert"
	// must be said. Default: "observe".
	Mode Mode `toml:"mode"`
	// Verdict is "auto", "delrcpt" or "discard". Default: "auto".
	Verdict Verdict `toml:"verdict"`
	// OnFailure is what happens to mail found bulk that cannot be spooled:
	// "accept" leaves it with the host, "tempfail" makes the client try again.
	// Default: "accept".
	OnFailure string `toml:"on_failure"`
	// AgentGrace is how long the agent may be silent before mail is left with
	// the host. Default: "10m".
	AgentGrace time.Duration `toml:"agent_grace"`
	// MaxConnections is how many connections of the host MTA are served at a
	// time; further ones wait until one ends. Each process of the MTA that
	// filters mail holds one. Default: 1000, for Postfix runs up to 100
	// (default_process_limit) of each smtpd service in master.cf and 100 cleanup
	// for mail of sendmail(1): with ports 25, 465 and 587 that makes 400. An idle
	// one costs some 30 KB.
	MaxConnections int `toml:"max_connections"`
	// MaxMessageSize is the size of a message, in octets, above which it is left
	// with the host; 0 means no limit. Default: "100MiB".
	MaxMessageSize Size `toml:"max_message_size"`
	// MaxBodies is how many messages of more than 64 KiB are taken in at a time;
	// beyond that they are left with the host. Default: 100. Each costs up to
	// 1.5 MiB of memory, for a larger message is written to the spool while it
	// arrives: 150 MiB.
	MaxBodies int `toml:"max_bodies"`
	// Scope says whose mail may be diverted: "authenticated" (SASL), "loopback"
	// (this host's own clients), a network such as "192.0.2.0/24", or
	// "daemon:NAME" (the host MTA's {daemon_name}).
	// Default: ["authenticated", "loopback"].
	Scope []string `toml:"scope"`
	// Remote lists the mailers that mean "to its own domain over the internet".
	// "smtp:[relay.example]" adds a next hop for which mail may be diverted too.
	// Default: ["smtp", "esmtp"].
	Remote []string `toml:"remote"`
	// HostDomains are never diverted: the domains the host MTA delivers itself.
	// Needed for mail that sendmail(1) brings. "*.example.com" stands for all
	// subdomains. After Load they are lower case A-labels. Default: none.
	HostDomains []string `toml:"host_domains"`
	// VetoHeaders are "Name: glob" or "Name: /regexp/", as in a rule: mail with a
	// field that fits one of them stays with the host, whatever a rule says. A
	// list of your own replaces the default.
	// Default: ["X-Spam-Flag: YES*", "X-Spam: YES*", "X-Spam-Status: YES*"].
	VetoHeaders []HeaderMatch `toml:"veto_headers"`
	// AcceptBypass names settings of Postfix that act after the milter, or on
	// the envelope, and that diverted mail may pass by: "virtual_alias_maps",
	// "content_filter" and the others of Bypasses. In mode "divert" a setting in
	// use that is not named here is an error of "millrace check" and shows on
	// /readyz; it does not stop mail. Default: none.
	AcceptBypass []string `toml:"accept_bypass"`
	// BuiltinRules turns the built-in recognition of bulk mail on.
	// Default: true.
	BuiltinRules bool `toml:"builtin_rules"`
	// BulkRecipients and BulkWindow make volume a sign of bulk, in the built-in
	// rules: mail with one other sign is bulk if its sender or its List-Id has
	// sent such mail to more recipients than BulkRecipients within BulkWindow.
	// 0 turns that off.
	//
	// The default is 500 in 10 minutes. A shop whose receipts carry a
	// List-Unsubscribe stays under it up to 3,000 orders an hour, 72,000 a day.
	// A newsletter that is injected at 10 a second passes it after 50 seconds;
	// one to 5,000 subscribers, where Gmail begins to speak of bulk senders,
	// is diverted for nine tenths, and one to 500 needs no help.
	// Default: 500.
	BulkRecipients Count `toml:"bulk_recipients"`
	// BulkWindow is the time that BulkRecipients are counted over; it slides.
	// Default: "10m".
	BulkWindow time.Duration `toml:"bulk_window"`
	// Rules are the admin's own rules; the first that matches wins, and they
	// come before the built-in ones.
	Rules []Rule `toml:"rule"`
}

// Action is what a milter rule does with the mail it matches.
type Action string

// The actions of a rule.
const (
	ActionDivert Action = "divert"
	ActionLeave  Action = "leave"
)

// Rule is one [[milter.rule]]. Every condition that is given must hold; a
// condition with several values holds if one of them does, except Header and
// HeaderExists, of which every entry must hold. A rule without any condition is
// an error.
type Rule struct {
	// Name names the rule in logs and reports; required, and each name once.
	Name string `toml:"name"`
	// Action is "divert" or "leave"; required.
	Action Action `toml:"action"`
	// Stream names the campaign or list. {list_id}, {feedback_id},
	// {sender_domain} and {header:NAME} are filled in from the message.
	// Default: List-Id, Feedback-ID or the sender's domain.
	Stream string `toml:"stream"`

	// Sender are globs over the envelope sender, case folded.
	Sender []string `toml:"sender"`
	// Header are "Name: glob" (case folded) or "Name: /regexp/" (Go syntax,
	// "(?i)" folds case); every one must hold for some field of that name.
	Header []HeaderMatch `toml:"header"`
	// HeaderExists are names of header fields that must all be present.
	HeaderExists []string `toml:"header_exists"`
	// Client are addresses or networks of the SMTP client.
	Client []netip.Prefix `toml:"client"`
	// AuthUser are globs over the SASL user, case folded.
	AuthUser []string `toml:"auth_user"`
	// Daemon are values of the host MTA's {daemon_name}.
	Daemon []string `toml:"daemon"`
	// MinRecipients is the least number of recipients of the message.
	MinRecipients int `toml:"min_recipients"`
	// RecipientDomain are globs over domains; every recipient's must match one.
	RecipientDomain []string `toml:"recipient_domain"`
	// MinSize is the least size in bytes of header and body, as the client
	// declared it.
	MinSize Size `toml:"min_size"`

	File string `toml:"-"` // where the rule stands, for messages
	Line int    `toml:"-"`
}

// HeaderMatch is one entry of a rule's header condition, written
// "Name: glob" or "Name: /regexp/".
type HeaderMatch struct {
	Name    string
	Pattern string // as written, after the colon, blanks trimmed
}

// Agent configures the transport agent.
type Agent struct {
	// Control is the socket of the admin's command, "unix:/path".
	// Default: "unix:/run/millrace/control.sock".
	Control string `toml:"control"`
	// Resolvers are DNS servers as "address:port". Default: those of
	// /etc/resolv.conf.
	Resolvers []string `toml:"resolvers"`
	// Port is the TCP port of the receivers' MX hosts. Default: 25.
	Port uint16 `toml:"port"`
	// Protocols are "ipv4" and "ipv6" in the order they are tried.
	// Default: ["ipv4", "ipv6"].
	Protocols []string `toml:"protocols"`
	// SourceAddresses are the addresses connections come from; more than one
	// makes a pool, and a retry keeps its source. Default: the system's choice.
	SourceAddresses []netip.Addr `toml:"source_addresses"`
	// SourceHostnames are the EHLO names of the source addresses, one for each in
	// the same order. Default: hostname for all of them.
	SourceHostnames []string `toml:"source_hostnames"`
	// MaxSessions bounds the connections of all sites together. Default: 2000.
	MaxSessions int `toml:"max_sessions"`
	// AllowDestinations are networks that may be sent to although they are
	// loopback, link-local or private. Default: none.
	AllowDestinations []netip.Prefix `toml:"allow_destinations"`
	// Replies is a file of [[reply]] tables in place of the built-in rules about
	// what receivers say. Default: none.
	Replies string `toml:"replies"`
	// StateDirectory holds what the agent learned and wants to keep over a
	// restart: MTA-STS policies, brakes, temporary limits, the suppression list. An
	// absolute path, made if need be.
	// Default: "/var/lib/millrace".
	StateDirectory string `toml:"state_directory"`
	// DANE is true, false or "auto". DANE (RFC 7672) is only as good as the
	// resolver's word that it validated an answer: "auto" takes it when every
	// resolver is on this host; true takes it from any, over a network that must
	// then be trusted. Default: "auto".
	DANE DANE `toml:"dane"`
	// TLSCAFile is a PEM file with the authorities that count for "verify",
	// MTA-STS and its policies. Default: those of the system.
	TLSCAFile string `toml:"tls_ca_file"`
	// TLSCertFile and TLSKeyFile are PEM files with a client certificate, its
	// chain and its key, for receivers that ask for one. Default: none.
	TLSCertFile string `toml:"tls_cert_file"`
	TLSKeyFile  string `toml:"tls_key_file"`
	// TLSMinVersion is "1.2" or "1.3", the oldest version taken where TLS is
	// required, by a queue or by MTA-STS or DANE. Where it is not, any version is
	// better than none. Default: "1.2".
	TLSMinVersion TLSVersion `toml:"tls_min_version"`
	// HideClient leaves the client's name and address out of our Received field.
	// Default: false.
	HideClient bool `toml:"hide_client"`
	// StopWithHost stops sending while nobody listens on handback.relay, which must
	// be a loopback address: "postfix stop" stops diverted mail too. Default: false.
	StopWithHost bool `toml:"stop_with_host"`
	HTTP         HTTP `toml:"http"`
}

// DANE says whether DANE is used: "auto", "true" or "false"; in a file the last
// two are written without quotes.
type DANE string

// The values of DANE.
const (
	DANEAuto  DANE = "auto"
	DANETrue  DANE = "true"
	DANEFalse DANE = "false"
)

// TLSVersion is a version of TLS.
type TLSVersion string

// The versions that can be demanded.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// HTTP configures metrics, health and the status page.
type HTTP struct {
	// Listen is "address:port"; "" turns it off. Default: "127.0.0.1:8891".
	Listen string `toml:"listen"`
	// Hostnames are the names, beside addresses and localhost, under which a browser
	// may ask for the status page: those of a proxy before it. Default: none.
	Hostnames []string `toml:"hostnames"`
}

// Handback says where mail goes that returns to the host MTA.
type Handback struct {
	// Relay is "host:port" of a host MTA's port without our milter.
	// Default: "127.0.0.1:10626".
	Relay string `toml:"relay"`
	// MaxMessageRate bounds the messages per time that go there, reports too;
	// "" is no limit. Default: "50/s", about a tenth of what Postfix takes on a
	// small machine.
	MaxMessageRate Rate `toml:"max_message_rate"`
	// MaxHostQueue is how many messages the host's Postfix may have in its incoming
	// and active queues; above that nothing goes back. 0 does not look. Default:
	// 5000, a quarter of Postfix's qmgr_message_active_limit: mail of people still
	// finds a place there.
	MaxHostQueue Count `toml:"max_host_queue"`
}

// LogFormat is the form of log lines.
type LogFormat string

// The forms.
const (
	LogLogfmt LogFormat = "logfmt" // key=value
	LogJSON   LogFormat = "json"
	// LogPostfix is that of Postfix for everything about a message, so that
	// pflogsumm and its kin understand it; other lines are key=value.
	LogPostfix LogFormat = "postfix"
)

// LogLevel is the least severe kind of lines that are logged.
type LogLevel string

// The levels.
const (
	LevelDebug LogLevel = "debug"
	LevelInfo  LogLevel = "info"
	LevelWarn  LogLevel = "warn"
	LevelError LogLevel = "error"
)

// Log says how both daemons log.
type Log struct {
	// Format is "logfmt", "json" or "postfix". On a terminal logfmt is written for
	// people. Default: "logfmt".
	Format LogFormat `toml:"format"`
	// Level is "debug", "info", "warn" or "error"; --log-level wins. Lines about
	// messages are of level info. Default: "info".
	Level LogLevel `toml:"level"`
	// Syslog sends lines to the host's syslog socket, facility mail, as Postfix
	// does, instead of standard error. Default: false.
	Syslog bool `toml:"syslog"`
	// Recipients is false to leave the local part of recipients' addresses out of
	// the log, also where a sender's address or a reply repeats it. Default: true.
	Recipients bool `toml:"recipients"`
	// Repeats is how many identical warnings or errors are logged within a minute;
	// the next one says how many were left out. 0 is no limit. Default: 5.
	Repeats Count `toml:"repeats"`
}

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
)

// Route is a queue's way: "mx", "handback" or "relay:host:port".
type Route struct {
	Kind  RouteKind
	Relay string // "host:port" when Kind is RouteRelay
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

	// Route is "mx", "handback" (give this mail back to the host MTA) or
	// "relay:host:port". Default: "mx".
	Route Route `toml:"route"`
	// MaxSessions bounds the connections of a site and source address; how many
	// are really used the agent finds out. Default: 20.
	MaxSessions int `toml:"max_sessions"`
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
	// Expire is after what age undelivered mail is returned. Default: "5d".
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

	RelayAuth *Auth `toml:"-"` // what RelayAuthFile holds; nil where this program may not read it

	File string `toml:"-"` // where the queue stands, for messages
	Line int    `toml:"-"`
}

// Auth is a user's name and password.
type Auth struct{ User, Password string }

// String keeps the password out of whatever prints a configuration.
func (a *Auth) String() string { return a.User + ":***" }

// Size is a number of bytes; written "1GiB", "64MiB", "500MB", "10k" or plain.
type Size int64

// Age is a length of time; 0, written "", is never.
type Age time.Duration

// Count is a whole number, 0 included.
type Count int

// Rate is messages per second; 0 is no limit. Written "100/s", "600/m", "5000/h".
type Rate float64

const generalName = "general"

// defaults is the configuration of an empty file. It returns fresh slices, since
// the caller owns what it gets. The hostname is left for Load to find out.
func defaults() *Config {
	return &Config{
		Spool: Spool{
			Directory:     "/var/spool/millrace",
			MinFree:       1 << 30,
			MaxRecipients: 10_000_000,
		},
		Milter: Milter{
			Listen:         []string{"unix:/var/spool/postfix/millrace/milter.sock"},
			Mode:           Observe,
			Verdict:        VerdictAuto,
			OnFailure:      "accept",
			AgentGrace:     10 * time.Minute,
			MaxConnections: 1000,
			MaxMessageSize: 100 << 20,
			MaxBodies:      100,
			Scope:          []string{"authenticated", "loopback"},
			Remote:         []string{"smtp", "esmtp"},
			VetoHeaders: []HeaderMatch{
				{Name: "X-Spam-Flag", Pattern: "YES*"}, {Name: "X-Spam", Pattern: "YES*"}, {Name: "X-Spam-Status", Pattern: "YES*"},
			},
			BuiltinRules:   true,
			BulkRecipients: 500,
			BulkWindow:     10 * time.Minute,
		},
		Agent: Agent{
			Control:     "unix:/run/millrace/control.sock",
			Port:        25,
			Protocols:   []string{"ipv4", "ipv6"},
			MaxSessions: 2000,

			StateDirectory: "/var/lib/millrace",
			DANE:           DANEAuto,
			TLSMinVersion:  TLS12,

			HTTP: HTTP{Listen: "127.0.0.1:8891"},
		},
		Handback: Handback{Relay: "127.0.0.1:10626", MaxMessageRate: 50, MaxHostQueue: 5000},
		Events:   Events{MaxSize: 100 << 20, Keep: 10},
		Suppression: Suppression{
			Mode: SuppressAdvise, After: 3, Within: 30 * 24 * time.Hour, Expire: 180 * 24 * time.Hour, Scope: SuppressStream, Notify: true,
		},
		Log: Log{Format: LogLogfmt, Level: LevelInfo, Recipients: true, Repeats: 5},
		General: Queue{
			Name:                     generalName,
			Route:                    Route{Kind: RouteMX},
			MaxSessions:              20,
			MaxMessagesPerConnection: 100,
			MaxRecipientsPerMessage:  50,
			Retry: []time.Duration{
				5 * time.Minute, 15 * time.Minute, 30 * time.Minute,
				time.Hour, 2 * time.Hour, 4 * time.Hour,
			},
			DelayWarningTime: Age(4 * time.Hour),

			Expire: 5 * 24 * time.Hour,
			TLS:    TLSOpportunistic,
		},
	}
}
