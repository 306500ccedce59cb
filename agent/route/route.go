// Package route finds the way to a domain: its mail exchangers, their addresses,
// and what the domain's own policies, DANE and MTA-STS, ask of a connection there.
//
// It owns the DNS: which resolvers are asked, how long their answers count, and
// how RFC 5321 section 5.1 turns them into hosts and an order of tries. It knows
// nothing of queues or sessions.
//
// A Resolver is made once by New and used by any number of goroutines. Lookup
// answers with a Plan, or with an *Error whose Reason says what the domain
// lacks; only a Temporary one is worth asking again. Answers are cached by
// question, so many domains with the same exchangers ask for their addresses
// once, and many callers with the same question wait for one query. A caller may
// keep a Plan until its Expires: every Lookup makes a new one, so nobody changes
// it afterwards. Key names the set of exchangers, Names are the host names that
// MX patterns are matched against, Addresses is the order in which to connect,
// Needs names what the policies come to: sessions may be shared by domains whose
// Key and Needs are the same.
//
// DANE (RFC 7672; tlsa.go here, package dane for the judgement) counts only
// where the resolver's word on DNSSEC can be trusted. MTA-STS (RFC 8461) is
// package sts; need.go says how the two come together for each host.
//
// What it promises: no Plan holds an address of a loopback, link-local, private
// or otherwise special range that Options.Allow does not list, and none leads
// back to this host. Waiting always ends with the caller's context. There are no
// goroutines besides those that a Lookup waits for, and nothing to close.
//
// Only the DNS is asked; /etc/hosts, search lists and NSS play no part, as in
// Postfix with smtp_host_lookup = dns.
package route

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/agent/route/sts"
)

// MX is one mail exchanger as its domain publishes it.
type MX struct {
	Name       string // lower case, no final dot
	Preference uint16 // lower is better
}

// Host is one mail exchanger that can be connected to.
type Host struct {
	Name       string // lower case, no final dot; "" for an address literal
	Preference uint16
	Addrs      []netip.Addr // in the order of the configured protocols
	Need       Need         // what the domain's policies ask of a connection to it
}

// Plan is the way to a domain.
type Plan struct {
	Domain  string    // as looked up: lower case A-labels, or an address literal
	Hosts   []Host    // those with an address to connect to, by preference, then name
	Expires time.Time // when the answer should be asked for again
	Refetch bool      // the policy at hand is old: Lookup would fetch it anew

	// MX is the whole set as published, by preference, then name, also with
	// those that have no address just now: what a domain is known by must not
	// change with a failed lookup. A domain without MX records is its own
	// exchanger (the implicit MX of RFC 5321). Empty for an address literal.
	MX []MX
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

var reasonNames = [...]string{"temporary", "nxdomain", "null-mx", "no-address", "loop", "refused-address"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Error is a domain without a way.
type Error struct {
	Domain string
	Reason Reason
	Err    error // the particulars; may be nil
}

// Error says what an admin needs: the domain, what is wrong with it, and the
// particulars in brackets.
func (e *Error) Error() string {
	var text string
	switch e.Reason {
	case NXDomain:
		text = "domain %s does not exist"
	case NullMX:
		text = "domain %s takes no mail (null MX, RFC 7505)"
	case NoAddress:
		text = "domain %s has no mail exchanger with a usable address"
	case Loop:
		text = "mail for %s loops back to this host"
	case RefusedAddress:
		text = "domain %s has only addresses that are refused (private, loopback or the like) and not in allow_destinations"
	default:
		text = "domain %s could not be looked up for now"
	}
	text = fmt.Sprintf(text, e.Domain)
	if e.Err != nil {
		text += " (" + e.Err.Error() + ")"
	}
	return text
}

// Unwrap returns the particulars.
func (e *Error) Unwrap() error { return e.Err }

// Options are what New builds a Resolver from. The zero value asks the
// resolvers of /etc/resolv.conf and uses IPv4, then IPv6.
type Options struct {
	// Resolvers are "address" or "address:port", tried in order. None: those of
	// /etc/resolv.conf, read anew when it changes; without any, 127.0.0.1 (resolv.conf(5)).
	Resolvers []string
	// Protocols are "ipv4" and "ipv6" in the order in which a host's addresses
	// are tried; a protocol that is not named is not used.
	Protocols []string
	// Allow lists ranges exempt from the refusal of special addresses.
	Allow []netip.Prefix
	// SelfNames and SelfAddrs are this host's names and the addresses at which
	// it takes mail. An exchanger that is one of them, and all of equal or
	// worse preference, are no way for us (RFC 5321 section 5.1).
	SelfNames []string
	SelfAddrs []netip.Addr
	// Timeout is the wait for one resolver's answer; default 5 s. Each resolver
	// is asked at most twice.
	Timeout time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Exchanger replaces the DNS client, and with it Resolvers and Timeout.
	Exchanger Exchanger
	// DANE says whether the resolvers' word that an answer was validated with
	// DNSSEC counts.
	DANE Trust
	// Port is that of the mail exchangers, for TLSA names; default 25.
	Port uint16
	// STSDirectory is where MTA-STS policies are kept; "": no MTA-STS.
	STSDirectory string
	// Roots are the authorities trusted for MTA-STS; nil: the system's.
	Roots *x509.CertPool
	// Log is told of policies that cannot be had; default: silent.
	Log *slog.Logger
	// Sockets is how many one lookup opens at a time at most, to resolvers and to the
	// server of a policy. Default, and most: MostSockets.
	Sockets int
	// Tally counts what is asked, also over several Resolvers; default: nobody looks.
	Tally *Tally
}

// Trust says whether the AD bit of the resolvers' replies counts.
type Trust uint8

// The trusts. An AD bit that came over a network may be forged.
const (
	TrustLoopback Trust = iota // if every resolver is on this host
	TrustNever
	TrustAlways
)

// Resolver finds ways. All methods may be called by many goroutines.
type Resolver struct {
	exchanger Exchanger
	types     []uint16 // TypeA and TypeAAAA in the order of the protocols
	allow     []netip.Prefix
	selfNames map[string]bool
	selfAddrs map[netip.Addr]bool
	now       func() time.Time
	dane      func() bool // says whether the AD bit counts
	same      string      // what answers depend on: whom it asks, and whether to trust these
	port      uint16
	parallel  int        // questions of one lookup that are asked at a time
	sts       *sts.Store // nil: no MTA-STS
	tally     *Tally

	mu       *sync.Mutex // guards what follows; never held while waiting; one for all that share answers
	answers  *cache
	inFlight map[question]*flight
}

// New returns a Resolver; an error names the option that cannot be used.
func New(o Options) (*Resolver, error) {
	r := &Resolver{
		exchanger: o.Exchanger,
		allow:     o.Allow,
		selfNames: make(map[string]bool),
		selfAddrs: make(map[netip.Addr]bool),
		now:       o.Now,
		dane:      func() bool { return o.DANE == TrustAlways },
		same:      fmt.Sprintf("%q %d", o.Resolvers, o.DANE),
		mu:        new(sync.Mutex),
		port:      o.Port,
		tally:     o.Tally,
		answers:   newCache(maxOctets),
		inFlight:  make(map[question]*flight),
	}
	r.parallel = MostSockets
	if o.Sockets > 0 {
		r.parallel = min(o.Sockets, MostSockets)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.port == 0 {
		r.port = 25
	}
	if r.tally == nil {
		r.tally = new(Tally)
	}
	if o.STSDirectory != "" {
		r.sts = sts.Open(sts.Options{
			Directory: o.STSDirectory, TXT: r.txt, Dial: r.dial, Roots: o.Roots, Log: o.Log, Now: o.Now,
		})
	}
	for _, n := range o.SelfNames {
		r.selfNames[strings.ToLower(strings.TrimSuffix(n, "."))] = true
	}
	for _, a := range o.SelfAddrs {
		r.selfAddrs[a.Unmap()] = true
	}
	protocols := o.Protocols
	if len(protocols) == 0 {
		protocols = []string{"ipv4", "ipv6"}
	}
	for _, p := range protocols {
		switch p {
		case "ipv4":
			r.types = append(r.types, dns.TypeA)
		case "ipv6":
			r.types = append(r.types, dns.TypeAAAA)
		default:
			return nil, fmt.Errorf("protocol %q is neither \"ipv4\" nor \"ipv6\"", p)
		}
	}
	if r.exchanger == nil {
		c, err := newClient(o.Resolvers, o.Timeout)
		if err != nil {
			return nil, err
		}
		r.exchanger = c
		if o.DANE == TrustLoopback {
			r.dane = c.local
		}
	}
	return r, nil
}

// TrustsDNSSEC reports whether DANE can be used: whether the resolvers' word that
// an answer was validated counts.
func (r *Resolver) TrustsDNSSEC() bool { return r.dane() }

// Adopt takes over the answers of a Resolver that this one follows, if they are the same
// that it would get. It is called before any question.
func (r *Resolver) Adopt(before *Resolver) {
	if r.same == before.same {
		r.mu, r.answers = before.mu, before.answers
	}
}

// Forget drops the answers whose time is over. Every question does so too; this is
// for times when none is asked.
func (r *Resolver) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers.expire(r.now())
}

// Lookup returns the way to a domain: a domain name (U-labels are turned into
// A-labels, RFC 5891) or an address literal ("[192.0.2.1]",
// "[IPv6:2001:db8::1]", RFC 5321 section 4.1.3). The error is always an *Error.
// When ctx ends first it is Temporary and wraps the context's error. A policy is fetched
// if need be, which takes up to 20 s where its web server is silent.
func (r *Resolver) Lookup(ctx context.Context, domain string) (*Plan, error) {
	return r.lookup(ctx, domain, true)
}

// Ask is Lookup by the DNS alone. It fetches no policy: if the domain announces one, and
// none is at hand, the error wraps ErrFetch.
func (r *Resolver) Ask(ctx context.Context, domain string) (*Plan, error) {
	return r.lookup(ctx, domain, false)
}

// ErrFetch says that the policy of a domain must be fetched before its mail can go.
var ErrFetch = sts.ErrFetch

func (r *Resolver) lookup(ctx context.Context, domain string, fetch bool) (*Plan, error) {
	if strings.HasPrefix(domain, "[") {
		return r.literal(domain)
	}
	name, err := domainName(domain)
	if err != nil {
		return nil, &Error{Domain: domain, Reason: NoAddress, Err: err}
	}
	return r.exchangers(ctx, name, fetch)
}
