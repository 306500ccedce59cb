// Package config owns Millrace's configuration: plain data, read once, never
// changed afterwards. It imports none of our other packages but pure ones that a value
// belongs to (windows, pools).
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
	"slices"
	"strings"
	"time"
)

// DefaultFile is where the programs look for their configuration.
const DefaultFile = "/etc/millrace/millrace.toml"

// DefaultRelay is [handback] relay where none is set: the port of hosts without a socket.
const DefaultRelay = "127.0.0.1:10626"

// Config is one complete, checked configuration.
type Config struct {
	// Hostname is the EHLO name and the name in our Received fields.
	// Default: the host's fully qualified name.
	Hostname string `toml:"hostname"`

	Spool    Spool    `toml:"spool"`
	Milter   Milter   `toml:"milter"`
	Inlet    Inlet    `toml:"inlet"`
	Agent    Agent    `toml:"agent"`
	Handback Handback `toml:"handback"`
	Log      Log      `toml:"log"`
	Events   Events   `toml:"events"`
	Outcomes Outcomes `toml:"outcomes"`

	Suppression Suppression `toml:"suppression"`
	Feedback    Feedback    `toml:"feedback"`
	Breaker     Breaker     `toml:"breaker"`
	Fleet       Fleet       `toml:"fleet"`
	Simulate    Simulate    `toml:"simulate"`

	// General is the general queue: every domain that no specific queue lists.
	General Queue `toml:"general"`
	// Queues are the specific queues in the order of the files.
	Queues []Queue `toml:"queue"`
	// Pools are sets of addresses that mail leaves from.
	Pools []Pool `toml:"pool"`
	// Warmups are plans by which addresses of pools begin.
	Warmups []Warmup `toml:"warmup"`
	// Streams are what holds for campaigns or lists.
	Streams []Stream `toml:"stream"`
	// Webhooks are where events are posted to.
	Webhooks []Webhook `toml:"webhook"`
	// DKIM are the keys that sign mail which the inlet spools.
	DKIM []DKIM `toml:"dkim"`
	// Replies are rules about what receivers say: the admin's, then the shipped ones.
	Replies []Reply `toml:"reply"`

	// Refused is what the files ask for and is not done, with what is done in its
	// place. A daemon starts all the same, so that an upgrade that refuses more than
	// before stops no mail: it logs each as an error, "millrace check" fails, and
	// /readyz shows them.
	Refused []Notice

	domains domainSet // listed domain -> queue
}

// Spool says where diverted mail lies, and when the milter stops filling it.
type Spool struct {
	// Directory holds the diverted mail; an absolute path.
	// Default: "/var/spool/millrace".
	Directory string `toml:"directory"`
	// MinFree is the room in bytes left free on the spool's file system; with
	// less, the milter leaves mail with the host, and no mail is moved here from other nodes
	// of a fleet. Default: "1GiB".
	MinFree Size `toml:"min_free"`
	// MaxRecipients is how many recipients may be queued in all; above it the
	// milter leaves mail with the host, and none is moved here. The agent may need 200 octets of memory for
	// each, 256 KiB for each of max_sessions, and 256 MiB: no MemoryMax of its service
	// should be less, or a full spool keeps it from starting. Its GOMEMLIMIT, unless
	// you set one, is that. Default: 10000000.
	MaxRecipients int64 `toml:"max_recipients"`
}

// Agent configures the transport agent.
type Agent struct {
	// Control is the socket of the admin's command, "unix:/path".
	// Default: "unix:/run/millrace/control.sock".
	Control string `toml:"control"`
	// Resolvers are DNS servers as "address:port". Default: those of
	// /etc/resolv.conf, also when it changes.
	Resolvers []string `toml:"resolvers"`
	// Port is the TCP port of the receivers' MX hosts. Default: 25.
	Port uint16 `toml:"port"`
	// Protocols are "ipv4" and "ipv6" in the order they are tried.
	// Default: ["ipv4", "ipv6"].
	Protocols []string `toml:"protocols"`
	// SourceAddresses are the addresses connections come from; more than one of a
	// family, IPv4 or IPv6, makes a pool, and a retry keeps its source. Connections
	// to a family that has none come from the system's choice, as Postfix's do.
	// Default: the system's choice.
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
	// restart: MTA-STS policies, pauses, temporary limits, the suppression list, what
	// became of mail. An absolute path, made if need be.
	// Default: "/var/lib/millrace".
	StateDirectory string `toml:"state_directory"`
	// DANE is true, false or "auto". DANE (RFC 7672) is only as good as the
	// resolver's word that it validated an answer: "auto" takes it when every
	// resolver is on this host; true takes it from any, over a network that must
	// then be trusted. Default: "auto".
	DANE DANE `toml:"dane"`
	// TLSCAFile is a PEM file with the authorities that count for "verify",
	// MTA-STS and its policies, and webhooks. Default: those of the system.
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
	// Listen is "address:port", or "unix:/path", or a list of several; "" turns it off. A
	// port on loopback is for every local user, and they can crowd out each other; the
	// socket is for the agent's user and the socket's group: that of the agent, or of its
	// directory if that has the set-group-ID bit. Default: "127.0.0.1:8891".
	Listen Listeners `toml:"listen"`
	// Hostnames are the names, beside addresses, localhost and hostname, under which the
	// status page, /readyz and /metrics may be asked for: those of a proxy before it, or
	// of this host in the monitoring. Default: none.
	Hostnames []string `toml:"hostnames"`
}

// Listeners are where HTTP is served. One alone is written without brackets.
type Listeners []string

// First is the first address and port, "" if there is none.
func (l Listeners) First() string {
	i := slices.IndexFunc(l, func(s string) bool { return !strings.HasPrefix(s, "unix:") })
	if i < 0 {
		return ""
	}
	return l[i]
}

// Handback says where mail goes that returns to the host MTA.
type Handback struct {
	// Relay is where the host MTA takes mail without our milter: "unix:/path" of a
	// socket, as "millrace setup" writes it for Postfix, or "host:port".
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

// LogDeliveries says which deliveries have lines in the log.
type LogDeliveries string

// The kinds.
const (
	DeliveriesAll      LogDeliveries = "all"
	DeliveriesFailures LogDeliveries = "failures"
	DeliveriesNone     LogDeliveries = "none"
)

// Log says how both daemons log.
type Log struct {
	// Format is "logfmt", "json" or "postfix". On a terminal logfmt is written for
	// people. In each of them a question mark stands for what is not printable, and no
	// value, nor a line in Postfix's form, is longer than 2048 octets: what is cut ends
	// in "...". Default: "logfmt".
	Format LogFormat `toml:"format"`
	// Level is "debug", "info", "warn" or "error"; --log-level wins. Lines about
	// messages are of level info. Default: "info".
	Level LogLevel `toml:"level"`
	// Deliveries is "all", "failures" or "none": which tries of the agent have a line each,
	// "failures" being those that neither the receiver nor, for what goes back, the host
	// took. What an admin must look at has one always. A million recipients that are
	// delivered at once take 320 MB of log in key=value, 370 MB in JSON; in Postfix's form
	// 480 MB, if each has a message of its own. With "failures" or "none" what reads the
	// log, as pflogsumm does, knows less; [events] has the account of all. systemd's
	// journal drops lines of a unit past 10,000 in 30 s (RateLimitBurst= in journald.conf,
	// more where the disk has much room), warnings and errors too, and says "Suppressed"
	// and how many: for more than 300 recipients a second say "failures", or
	// LogRateLimitIntervalSec=0 in the unit, or syslog = true. Default: "all".
	Deliveries LogDeliveries `toml:"deliveries"`
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
		Inlet: Inlet{
			PassTo: "inet:25@127.0.0.1", MaxConnections: 100, MaxRecipients: 1000, MaxMessageSize: 10240000, Timeout: 5 * time.Minute,
		},
		Agent: Agent{
			Control:     "unix:/run/millrace/control.sock",
			Port:        25,
			Protocols:   []string{"ipv4", "ipv6"},
			MaxSessions: 2000,

			StateDirectory: "/var/lib/millrace",
			DANE:           DANEAuto,
			TLSMinVersion:  TLS12,

			HTTP: HTTP{Listen: Listeners{"127.0.0.1:8891"}},
		},
		Handback: Handback{Relay: DefaultRelay, MaxMessageRate: 50, MaxHostQueue: 5000},
		Events:   Events{MaxSize: 100 << 20, Keep: 10},
		Outcomes: Outcomes{MaxSize: 2 << 30},
		Suppression: Suppression{
			Mode: SuppressAdvise, After: 3, Within: 30 * 24 * time.Hour, Expire: 180 * 24 * time.Hour, Scope: SuppressStream, Notify: true,
		},
		Breaker: Breaker{Notify: "postmaster"},
		Log:     Log{Format: LogLogfmt, Level: LevelInfo, Deliveries: DeliveriesAll, Recipients: true, Repeats: 5},
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

			RelayAuthTLS: TLSVerify,
		},
	}
}
