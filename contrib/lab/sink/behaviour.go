package sink

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Behaviour is how a receiver treats its clients. The zero value is an ideal
// server: it answers at once, has no limits and accepts everything for its
// domains. All of it may be changed while connections are open; what is read
// at the start of a connection or a message counts from the next one.
//
// The toml key of each field is its name in scenario files and in the control
// endpoint; the help tag says what it does. Counts of zero mean no limit.
// Shares go from 0 to 1 and are kept exactly: a share of 0.25 hits the 4th,
// 8th, 12th and so on of what is counted at a host, except perm_share and
// temp_share, which hit recipients by a seeded hash, so that the same ones are
// hit in every run and at every try.
type Behaviour struct {
	RTT           time.Duration `toml:"rtt,omitempty" help:"latency: delay of every flight of replies; a pipelined group of commands costs one, connecting costs one more"`
	GreetingDelay time.Duration `toml:"greeting_delay,omitempty" help:"time until the banner, beyond the latency"`
	AcceptTime    time.Duration `toml:"accept_time,omitempty" help:"time from the final dot to its reply"`
	Capacity      int           `toml:"capacity,omitempty" help:"messages all hosts together work on at once in accept_time; with more at a time each takes so much longer"`

	HostConnections     int           `toml:"host_connections,omitempty" help:"open connections a host allows"`
	ProviderConnections int           `toml:"provider_connections,omitempty" help:"open connections all hosts together allow"`
	OverLimit           OverLimit     `toml:"over_limit,omitempty" help:"a connection too many gets: banner (421 there), mail (421 at MAIL), first-mail (421 at the first MAIL while too many are open, those too many counted), dot (421 after the final dot), reset (TCP reset)"`
	ReleaseLag          time.Duration `toml:"release_lag,omitempty" help:"time a closed connection still counts as open"`
	Down                bool          `toml:"down,omitempty" help:"no listener: connections are refused by TCP, open ones cut"`
	Unreachable         bool          `toml:"unreachable,omitempty" help:"as if packets were lost: connects are not answered at all, open connections cut"`

	MaxMessages       int   `toml:"max_messages,omitempty" help:"messages a connection allows, then 421 at MAIL; another reply in its place leaves it open"`
	MaxMessagesClose  bool  `toml:"max_messages_close,omitempty" help:"close after the reply to the last allowed message instead"`
	MaxRecipients     int   `toml:"max_recipients,omitempty" help:"recipients a message allows, then 452 at RCPT"`
	SessionRecipients int   `toml:"session_recipients,omitempty" help:"recipients a connection allows, then 452 at RCPT, which leaves it open"`
	MaxSize           int64 `toml:"max_size,omitempty" help:"octets of content allowed, announced by SIZE"`
	MaxLine           int   `toml:"max_line,omitempty" help:"octets of a content line allowed, CRLF included (RFC 5321: 1000), then 554"`
	OneDomain         bool  `toml:"one_domain,omitempty" help:"451 for a second recipient domain in a message"`

	Rate        float64   `toml:"rate,omitempty" help:"messages a second allowed, then 451"`
	Burst       float64   `toml:"burst,omitempty" help:"messages allowed at once, at least 1"`
	RatePerHost bool      `toml:"rate_per_host,omitempty" help:"count the rate for each host, not for all together"`
	RateAt      RateStage `toml:"rate_at,omitempty" help:"where the rate is counted and refused: mail, dot"`

	PenaltyEvery  int           `toml:"penalty_every,omitempty" help:"a penalty falls due at every so many refusals (connections, rate, ban)"`
	PenaltyShrink int           `toml:"penalty_shrink,omitempty" help:"connections that each penalty takes off the limits, down to 1"`
	PenaltyBan    time.Duration `toml:"penalty_ban,omitempty" help:"ban after a penalty: the n-th lasts n times this long"`
	PenaltyForget time.Duration `toml:"penalty_forget,omitempty" help:"time without refusals after which all is forgiven; 0: never"`

	PermShare float64       `toml:"perm_share,omitempty" help:"share of recipients answered 550"`
	TempShare float64       `toml:"temp_share,omitempty" help:"share of recipients answered 450"`
	TempTimes int           `toml:"temp_times,omitempty" help:"tries of such a recipient answered 450 before it is accepted; 0: all"`
	Greylist  time.Duration `toml:"greylist,omitempty" help:"451 for a new pair of sender and recipient until it is this old"`

	Greylists GreylistManner `toml:"greylists,omitempty" help:"what greylisting does beside: restart (a try that is too early begins anew), wordless (says nothing of it)"`
	Screen    bool           `toml:"screen,omitempty" help:"450 to each RCPT of a client's first connection, as postscreen does"`
	Trouble   Stage          `toml:"trouble,omitempty" help:"where everything is answered with a 4xx: banner, ehlo, mail, rcpt, dot"`
	Senders   string         `toml:"senders,omitempty" help:"trouble is only with senders that contain this"`

	HangMail     float64 `toml:"hang_mail,omitempty" help:"share of MAIL commands never answered"`
	HangConnect  float64 `toml:"hang_connect,omitempty" help:"share of connections that are never spoken to"`
	HangData     float64 `toml:"hang_data,omitempty" help:"share of DATA and BDAT commands never answered"`
	HangDot      float64 `toml:"hang_dot,omitempty" help:"share of messages whose final dot is never answered, and which are not accepted"`
	Drop         float64 `toml:"drop,omitempty" help:"share of messages where the connection closes in place of the final reply"`
	DropAccepted float64 `toml:"drop_accepted,omitempty" help:"share of those that are accepted all the same"`

	StartTLS   bool      `toml:"starttls,omitempty" help:"offer STARTTLS, with a certificate of the sink's own CA"`
	RequireTLS bool      `toml:"require_tls,omitempty" help:"530 at MAIL without TLS"`
	TLS        TLSManner `toml:"tls,omitempty" help:"how STARTTLS fails: silent (no handshake), mute (closed after it), small (silent to a large ClientHello), certificate (refuses a client's)"`
	Chunking   bool      `toml:"chunking,omitempty" help:"offer CHUNKING (BDAT)"`
	BDAT       string    `toml:"bdat,omitempty" help:"what BDAT gets all the same: a reply such as 503 5.5.1 Bad sequence, silence, close"`
	Junk       bool      `toml:"junk,omitempty" help:"lines that are no replies, before the banner and among those of EHLO"`
	Hide       []string  `toml:"hide,omitempty" help:"EHLO keywords not announced, of PIPELINING 8BITMIME SMTPUTF8 DSN SIZE ENHANCEDSTATUSCODES"`

	// As package sim's receivers have it.
	AcceptNoise        float64 `toml:"accept_noise,omitempty" help:"share of accept_time that is exponentially distributed"`
	ReleaseNoise       float64 `toml:"release_noise,omitempty" help:"release_lag varies by so much of itself, either way"`
	Backends           int     `toml:"backends,omitempty" help:"a host is so many backends, each with host_connections of its own; which one answers is chance"`
	PenaltyConnections bool    `toml:"penalty_connections,omitempty" help:"refused messages do not count towards penalties, only refused connections"`
	CountTries         bool    `toml:"count_tries,omitempty" help:"max_messages counts each MAIL, not only what was accepted"`

	DNS      DNSMode       `toml:"dns,omitempty" help:"answers for the domains: servfail, nxdomain, null-mx, no-mx, no-address, silent; default: MX and A"`
	DNSDelay time.Duration `toml:"dns_delay,omitempty" help:"time until a DNS answer"`
	TTL      time.Duration `toml:"ttl,omitempty" help:"life of DNS answers, whole seconds; default 5m"`

	Say map[Cause]string `toml:"say,omitempty" help:"reply in place of the default for a cause (connections ban rate messages perm temp greylist domains tls recipients screen trouble): code and text, lines split by \\n; one that begins with 421 closes"`
}

// GreylistManner is what greylisting does beside.
type GreylistManner string

// What greylisting does beside; "" is nothing.
const (
	GreylistRestarts GreylistManner = "restart"
	GreylistWordless GreylistManner = "wordless"
)

// Stage is a place in the dialogue where there is trouble.
type Stage string

// Where there is trouble; "" is nowhere.
const (
	TroubleBanner Stage = "banner"
	TroubleEHLO   Stage = "ehlo"
	TroubleMail   Stage = "mail"
	TroubleRcpt   Stage = "rcpt"
	TroubleDot    Stage = "dot"
)

// TLSManner is how STARTTLS fails.
type TLSManner string

// How STARTTLS fails; "" is not at all.
const (
	TLSSilent      TLSManner = "silent"
	TLSMute        TLSManner = "mute"
	TLSSmall       TLSManner = "small"
	TLSCertificate TLSManner = "certificate"
)

// OverLimit says what a connection beyond a limit gets.
type OverLimit string

// What a connection beyond a limit gets; "" is [AtBanner].
const (
	AtBanner    OverLimit = "banner"     // 421 in place of the banner
	AtMail      OverLimit = "mail"       // 421 to the first MAIL
	AtFirstMail OverLimit = "first-mail" // 421 to the first MAIL, if too many are open then
	AtDot       OverLimit = "dot"        // 421 after the first final dot
	ByReset     OverLimit = "reset"      // a TCP reset
)

// RateStage says where a rate is counted and refused.
type RateStage string

// Where a rate is counted and refused; "" is [RateMail].
const (
	RateMail RateStage = "mail"
	RateDot  RateStage = "dot"
)

// DNSMode says how the DNS answers for a provider's domains.
type DNSMode string

// How the DNS answers; "" is MX records and their addresses.
const (
	ServFail  DNSMode = "servfail"
	NXDomain  DNSMode = "nxdomain"
	NullMX    DNSMode = "null-mx"    // RFC 7505
	NoMX      DNSMode = "no-mx"      // the domain has the hosts' addresses itself
	NoAddress DNSMode = "no-address" // its MX hosts have none
	Silent    DNSMode = "silent"     // no answer at all
)

// Cause is why a receiver refuses something; it is the key of the default
// replies, of [Behaviour.Say] and of the counts in [HostStats].
type Cause string

// The causes of refusals.
const (
	CauseConnections Cause = "connections" // too many are open
	CauseBan         Cause = "ban"
	CauseRate        Cause = "rate"
	CauseMessages    Cause = "messages" // too many on this connection
	CausePerm        Cause = "perm"
	CauseTemp        Cause = "temp"
	CauseGreylist    Cause = "greylist"
	CauseDomains     Cause = "domains"
	CauseTLS         Cause = "tls"
	CauseRecipients  Cause = "recipients" // too many in this message, or on this connection
	CauseScreen      Cause = "screen"
	CauseTrouble     Cause = "trouble"
	// These have fixed replies.
	CauseRelay   Cause = "relay"   // the recipient's domain is not the provider's
	CauseContent Cause = "content" // bare LF or CR, a line too long
	CauseSize    Cause = "size"
	CauseDropped Cause = "dropped" // closed in place of the final reply
)

// defaultReply is what is said when [Behaviour.Say] has nothing for the cause.
func defaultReply(c Cause) string {
	switch c {
	case CauseConnections:
		return "421 4.7.0 Too many connections, try again later"
	case CauseBan:
		return "421 4.7.0 Temporarily banned, try again later"
	case CauseRate:
		return "451 4.7.1 Rate limit exceeded, try again later"
	case CauseMessages:
		return "421 4.7.0 Too many messages on this connection"
	case CausePerm:
		return "550 5.1.1 No such user here"
	case CauseTemp:
		return "450 4.2.1 Mailbox busy, try again later"
	case CauseGreylist:
		return "451 4.7.1 Greylisted, try again later"
	case CauseDomains:
		return "451-4.3.0 Multiple destination domains per transaction is unsupported.\n451 4.3.0 Please try again."
	case CauseRecipients:
		return "452 4.5.3 Too many recipients"
	case CauseScreen:
		return "450 4.3.2 Service currently unavailable"
	case CauseTrouble:
		return "451 4.3.0 Temporary system problem"
	case CauseTLS:
		return "530 5.7.0 Must issue a STARTTLS command first"
	}
	return ""
}

func (b *Behaviour) reply(c Cause) string {
	if text := b.Say[c]; text != "" {
		return text
	}
	return defaultReply(c)
}

// working is the time from the final dot to its reply while so many messages are
// worked on, this one counted.
func (b *Behaviour) working(n int64) time.Duration {
	if most := int64(b.Capacity); most > 0 && n > most {
		return time.Duration(float64(b.AcceptTime) * float64(n) / float64(most))
	}
	return b.AcceptTime
}

func (b *Behaviour) hides(keyword string) bool { return slices.Contains(b.Hide, keyword) }

// clone lets a change work on maps and slices of its own.
func (b *Behaviour) clone() *Behaviour {
	c := *b
	c.Hide = slices.Clone(b.Hide)
	c.Say = maps.Clone(b.Say)
	return &c
}

// check finds values that mean nothing.
func (b *Behaviour) check() error {
	switch b.OverLimit {
	case "", AtBanner, AtMail, AtFirstMail, AtDot, ByReset:
	default:
		return fmt.Errorf("over_limit = %q: want banner, mail, first-mail, dot or reset", b.OverLimit)
	}
	if b.Down && b.Unreachable {
		return errors.New("down and unreachable: want one of them")
	}
	switch b.RateAt {
	case "", RateMail, RateDot:
	default:
		return fmt.Errorf("rate_at = %q: want mail or dot", b.RateAt)
	}
	switch b.Trouble {
	case "", TroubleBanner, TroubleEHLO, TroubleMail, TroubleRcpt, TroubleDot:
	default:
		return fmt.Errorf("trouble = %q: want banner, ehlo, mail, rcpt or dot", b.Trouble)
	}
	switch b.Greylists {
	case "", GreylistRestarts, GreylistWordless:
	default:
		return fmt.Errorf("greylists = %q: want restart or wordless", b.Greylists)
	}
	switch b.TLS {
	case "", TLSSilent, TLSMute, TLSSmall, TLSCertificate:
	default:
		return fmt.Errorf("tls = %q: want silent, mute, small or certificate", b.TLS)
	}
	if b.BDAT != "" && b.BDAT != "silence" && b.BDAT != "close" && (len(b.BDAT) < 3 || b.BDAT[0] < '4' || b.BDAT[0] > '5') {
		return fmt.Errorf("bdat = %q: want a 4xx or 5xx reply, silence or close", b.BDAT)
	}
	switch b.DNS {
	case "", ServFail, NXDomain, NullMX, NoMX, NoAddress, Silent:
	default:
		return fmt.Errorf("dns = %q: want servfail, nxdomain, null-mx, no-mx, no-address or silent", b.DNS)
	}
	v := reflect.ValueOf(b).Elem()
	for i := range v.NumField() {
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("toml"), ",")
		switch f := v.Field(i); f.Kind() {
		case reflect.Float64:
			if f.Float() < 0 || (key != "rate" && key != "burst" && f.Float() > 1) {
				return fmt.Errorf("%s = %v: want a share from 0 to 1", key, f.Float())
			}
		case reflect.Int, reflect.Int64:
			if f.Int() < 0 {
				return fmt.Errorf("%s is negative", key)
			}
		}
	}
	for c, text := range b.Say {
		if defaultReply(c) == "" {
			return fmt.Errorf("say.%s: no such cause", c)
		}
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) < 3 || line[0] < '4' || line[0] > '5' {
				return fmt.Errorf("say.%s = %q: want a 4xx or 5xx reply", c, text)
			}
		}
	}
	return nil
}

// Keys lists the behaviour's keys in scenario files, each with its help.
func Keys() [][2]string {
	t := reflect.TypeFor[Behaviour]()
	var keys [][2]string
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("toml"), ",")
		keys = append(keys, [2]string{key, t.Field(i).Tag.Get("help")})
	}
	return keys
}
