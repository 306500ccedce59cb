package config

import (
	"net/netip"
	"time"
)

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
	// Peers are the addresses or networks of other hosts whose MTA may use the
	// milter, over "inet:" and "inet6:": whoever speaks the milter protocol has mail
	// sent in anybody's name. This host needs no entry: its connections are those from
	// loopback, or from the very address that they go to. All others are closed.
	// The packaged unit lets in this host alone; a drop-in of
	// millrace-milter.service with IPAddressAllow= admits others. Default: none.
	Peers []netip.Prefix `toml:"peers"`
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
	// time; further ones wait until one ends, or take the place of one that has not
	// negotiated. Each process of the MTA that filters mail holds one. Default: 1000, for Postfix runs up to 100
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
	// BulkRecipients and BulkWindow make volume a family of evidence, in the built-in
	// rules: mail with evidence of one other family is bulk if its sender has sent the
	// same subject to more recipients than BulkRecipients within BulkWindow. The
	// recipient's name does not count in a subject, numbers do: orders and codes that
	// have theirs in the subject are never many. 0 turns that off.
	//
	// In an hour, which a new installation says, a newsletter that is injected at 10 a
	// second passes 500 after 50 seconds, at 10 a minute after 50 minutes; one to 5,000
	// subscribers, where Gmail begins to speak of bulk senders, is diverted for nine
	// tenths, and one to 500 needs no help. An application whose notices all have one
	// subject and a List-Unsubscribe, and go out more often than that, should say
	// "X-Millrace: leave".
	// Default: 500.
	BulkRecipients Count `toml:"bulk_recipients"`
	// BulkWindow is the time that BulkRecipients are counted over; it slides. The
	// millrace.toml of a new installation says "1h", which finds what is sent slowly.
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
	// Pool is the [[pool]] that the mail leaves from, before that of its [[stream]] or
	// queue. Default: theirs.
	Pool string `toml:"pool"`

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
