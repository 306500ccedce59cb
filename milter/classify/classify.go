// Package classify decides, by what is known at the end of a message's header,
// whether the message is bulk mail that Millrace may take from the host MTA, for
// which of its recipients, and to which stream it belongs.
//
// New compiles a configuration once; the Classifier then serves any number of
// goroutines. Decide goes through these steps and ends at the first that
// settles the matter:
//
//  1. Scope: only mail of submitters that the configuration names.
//  2. Vetoes: mail that must not be taken, whatever a rule says. Mail of the
//     null sender, automatic replies, reports, mail with an ESMTP argument that
//     we could not honour, mail that was here before, mail with one of the
//     veto_headers, such as a spam mark.
//  3. Recipients: only those that the host would send over the internet to
//     their own domain. If none is, the mail stays.
//  4. The admin's rules, in order.
//  5. Built-in evidence: an explicit "X-Millrace: divert" (or "leave") field;
//     a sign of something urgent, which keeps the mail; two independent signs of
//     bulk; or one sign and much mail of the same sender or List-Id.
//  6. Doubt: the host keeps it.
//
// All of it is a pure function of the message but for the volume in step 5,
// which a Volume remembers. The message brings the time, and a message that is
// judged twice is counted twice.
//
// A message with recipients of both kinds is diverted for the remote ones only,
// except mail of sendmail(1), whose recipients go all or not at all.
package classify

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// Field is one header field.
type Field struct {
	Name  string // as written
	Value string // everything after the colon, folding included
}

// Recipient is one RCPT of the message.
type Recipient struct {
	Address string   // without angle brackets, as written
	Args    []string // ESMTP arguments, verbatim
	Mailer  string   // {rcpt_mailer}: the transport the host chose
	Host    string   // {rcpt_host}: its next hop
}

// Message is what Decide judges.
type Message struct {
	Sender     string // without angle brackets; "" is the null sender
	Args       []string
	Recipients []Recipient
	Header     []Field
	Arrived    time.Time // of MAIL; the clock of the volume

	Client   netip.Addr // zero if not an internet client
	AuthUser string     // SASL user
	Daemon   string     // {daemon_name}
	Command  bool       // sendmail(1) handed it in: no transport is known, and no client
	Looped   bool       // a Received field carries our own mark
}

// Decision is the outcome.
type Decision struct {
	Divert []bool // by recipient; nil if none is diverted
	Stream string // of diverted mail
	Rule   string // name of the admin's rule that decided, "builtin", or ""
	Reason string // in a few words, for the log

	// Formerly is what the stream's name was before ids of recipients were known as such;
	// "" if the same. What was ordered under it holds on (agent/orders).
	Formerly string
	Evidence []Evidence // that the built-in rule found, if it decided
}

// OneFamily reports whether the mail stays because its evidence is of one family alone.
func (d *Decision) OneFamily() bool { return d.Divert == nil && d.Rule == "" && len(d.Evidence) > 0 }

// Classifier decides by one configuration.
type Classifier struct {
	scope       scope
	remote      map[nexthop]bool
	mailers     map[string]bool // of remote
	hostDomains globs
	vetoHeaders []headerMatch
	rules       []rule
	builtin     bool

	volume *Volume
	many   int           // recipients within the window that are more than a person's; 0: none are
	window time.Duration // that volume is counted in
}

// nexthop is an entry of milter.remote; host "" stands for the recipient's own
// domain.
type nexthop struct{ mailer, host string }

// New compiles a configuration over the volume that was seen so far. An unusable
// pattern is an error that names its rule.
func New(cfg config.Milter, v *Volume) (*Classifier, error) {
	c := &Classifier{
		remote: map[nexthop]bool{}, mailers: map[string]bool{}, builtin: cfg.BuiltinRules,
		volume: v, many: int(cfg.BulkRecipients), window: cfg.BulkWindow,
	}
	var err error
	if c.scope, err = newScope(cfg.Scope); err != nil {
		return nil, err
	}
	for _, r := range cfg.Remote {
		mailer, host, _ := strings.Cut(r, ":")
		if mailer == "" {
			return nil, fmt.Errorf("milter.remote: %q names no mailer", r)
		}
		mailer = strings.ToLower(mailer)
		c.remote[nexthop{mailer, strings.ToLower(host)}] = true
		c.mailers[mailer] = true
	}
	c.hostDomains = newGlobs(cfg.HostDomains)
	if c.vetoHeaders, err = newHeaderMatches(cfg.VetoHeaders); err != nil {
		return nil, fmt.Errorf("milter.veto_headers: %w", err)
	}
	for i := range cfg.Rules {
		r, err := newRule(&cfg.Rules[i])
		if err != nil {
			return nil, fmt.Errorf("milter.rule %q: %w", cfg.Rules[i].Name, err)
		}
		c.rules = append(c.rules, r)
	}
	return c, nil
}

// Decide judges a message.
func (c *Classifier) Decide(m *Message) Decision {
	if !c.scope.holds(m) {
		return Decision{Reason: "not in scope"}
	}
	h := index(m.Header)
	if why := c.veto(m, h); why != "" {
		return Decision{Reason: why}
	}
	divert, why := c.remoteOnes(m)
	if divert == nil {
		return Decision{Reason: why}
	}
	for i := range c.rules {
		r := &c.rules[i]
		if !r.holds(m, h) {
			continue
		}
		if r.action == config.ActionLeave {
			return Decision{Rule: r.name, Reason: "rule says leave"}
		}
		stream, formerly := c.stream(r.stream, m, h, count(divert))
		return Decision{Divert: divert, Stream: stream, Formerly: formerly, Rule: r.name, Reason: "rule says divert"}
	}
	if !c.builtin {
		return Decision{Reason: "no rule matches"}
	}
	switch what, marks, why := c.evidence(m, h, count(divert)); what {
	case bulk:
		stream, formerly := c.stream(nil, m, h, count(divert))
		return Decision{Divert: divert, Stream: stream, Formerly: formerly, Rule: "builtin", Reason: why, Evidence: marks}
	case notBulk:
		return Decision{Rule: "builtin", Reason: why}
	default:
		return Decision{Reason: why, Evidence: marks}
	}
}

// count is how many recipients are diverted.
func count(divert []bool) int {
	n := 0
	for _, d := range divert {
		if d {
			n++
		}
	}
	return n
}

// headers finds fields by name, lower case.
type headers map[string][]string

func index(fields []Field) headers {
	h := make(headers, len(fields))
	for _, f := range fields {
		k := strings.ToLower(f.Name)
		h[k] = append(h[k], unfold(f.Value))
	}
	return h
}

func (h headers) has(name string) bool { return len(h[name]) > 0 }

// first is the first field of a name, "" if there is none.
func (h headers) first(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// unfold takes the line ends out of a value and the blanks off its ends.
func unfold(v string) string {
	if strings.ContainsAny(v, "\r\n") {
		v = strings.NewReplacer("\r\n", "", "\n", "", "\r", "").Replace(v)
	}
	return strings.Trim(v, " \t")
}

// domainOf is the part after the last @, lower case, "" if there is none.
func domainOf(addr string) string {
	at := strings.LastIndexByte(addr, '@')
	if at < 0 {
		return ""
	}
	return strings.ToLower(addr[at+1:])
}
