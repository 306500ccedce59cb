package route

import (
	"context"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/agent/route/dane"
)

// tlsa is what the DNS says of a host's TLSA records.
type tlsa struct {
	base    string        // the name below which they were found
	records []dane.Record // all of them; none: the host has no DANE
	failed  error         // nobody can say whether there are any
	expires time.Time     // zero: nothing was asked
}

// tlsa looks for the TLSA records of a mail exchanger (RFC 7672 section 2.2.2
// and 2.2.3). Where its addresses were validated they are sought below the name
// its CNAMEs lead to, then below its own; where they were not but the host is an
// alias, below its own name if at least the alias was validated. Otherwise there
// is nothing to be trusted, and nothing is asked.
func (r *Resolver) tlsa(ctx context.Context, host string, addrs resolved) tlsa {
	var bases []string
	var t tlsa
	switch {
	case addrs.secure && addrs.target != "":
		bases = []string{addrs.target, host}
	case addrs.secure:
		bases = []string{host}
	case addrs.target != "":
		alias := r.ask(ctx, question{host, dns.TypeCNAME})
		if alias.status == failed {
			return tlsa{failed: alias.err, expires: alias.expires}
		}
		if alias.secure && alias.status == found {
			bases = []string{host}
		}
		t.expires = alias.expires
	}
	for _, base := range bases {
		a := r.ask(ctx, question{fmt.Sprintf("_%d._tcp.%s", r.port, base), dns.TypeTLSA})
		if t.expires.IsZero() || a.expires.Before(t.expires) {
			t.expires = a.expires
		}
		if a.status == failed {
			// An attacker who can only block answers must not turn DANE off: the
			// host is left alone (RFC 7672 section 2.1.2).
			t.failed = a.err
			return t
		}
		if a.secure && len(a.tlsa) > 0 {
			t.base, t.records = base, a.tlsa
			return t
		}
	}
	return t
}

// need is what follows for a connection to the host.
func (t tlsa) need(host, domain string) Need {
	switch {
	case t.failed != nil:
		return Need{Asks: Avoid, Err: fmt.Errorf("DANE: whether host %s has TLSA records cannot be found out: %w", host, t.failed)}
	case len(t.records) == 0:
		return Need{}
	}
	usable := dane.Usable(t.records)
	if len(usable) == 0 {
		return Need{Asks: Encrypt}
	}
	names := []string{t.base}
	for _, n := range []string{host, domain} {
		if n != t.base {
			names = append(names, n)
		}
	}
	return Need{Asks: Match, ServerName: t.base, Names: names, Records: usable}
}
