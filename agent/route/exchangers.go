package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// A domain's owner chooses how many records there are; past these counts they
// add nothing but work.
const (
	maxExchangers = 32
	maxNames      = 4 << 10 // octets of their names; 32 ordinary ones have a fifth of it
	maxAddresses  = 32      // per exchanger and protocol

	// maxPlanAddresses are shared evenly by the hosts of a plan, which is
	// kept as long as there is mail for its domain.
	maxPlanAddresses = 64
)

// MostSockets is how many sockets one lookup has at most, whatever the owner of the
// domain does: one for each exchanger and protocol, or for the server of its policy.
const MostSockets = maxExchangers * 2

// exchangers finds the way to a domain by RFC 5321 section 5.1, and what its
// policies ask for.
func (r *Resolver) exchangers(ctx context.Context, name string, fetch bool) (*Plan, error) {
	a := r.ask(ctx, question{name, dns.TypeMX})
	plan := &Plan{Domain: name, Expires: a.expires}
	switch a.status {
	case failed:
		return nil, &Error{Domain: name, Reason: Temporary, Err: a.err}
	case nxDomain, noData:
		// NXDOMAIN is no last word: there are name servers that say it of every type they do
		// not know, and the name has an address all the same. smtp(8) asks for that in both
		// cases (smtp_addr.c).
		plan.MX = []MX{{Name: name}}
	case found:
		if a.nullMX {
			return nil, &Error{Domain: name, Reason: NullMX}
		}
		plan.MX = a.mx
	}

	others, self := r.beforeSelf(plan.MX, func(m MX) bool { return r.selfNames[m.Name] })
	resolved := r.resolveAll(ctx, others)
	others, byAddr := r.beforeSelf(others, func(m MX) bool { return resolved[m.Name].self })
	if byAddr != "" {
		self = byAddr
	}

	var temporary, refused error
	for _, m := range others {
		h := resolved[m.Name]
		plan.Expires = earlier(plan.Expires, h.expires)
		if len(h.addrs) > 0 {
			plan.Hosts = append(plan.Hosts, Host{Name: m.Name, Preference: m.Preference, Addrs: h.addrs})
		}
		temporary = cmp.Or(temporary, h.failed)
		if h.refused.IsValid() {
			refused = cmp.Or(refused, fmt.Errorf("%s is %s", m.Name, h.refused))
		}
	}
	for i := range plan.Hosts {
		h := &plan.Hosts[i]
		h.Addrs = slices.Clone(h.Addrs[:min(len(h.Addrs), maxPlanAddresses/len(plan.Hosts))])
	}
	switch {
	case len(plan.Hosts) > 0:
		if err := r.needs(ctx, plan, a.secure, resolved, fetch); err != nil {
			return nil, &Error{Domain: name, Reason: Temporary, Err: err}
		}
		return plan, nil
	case a.status == nxDomain && self == "" && temporary == nil && refused == nil:
		return nil, &Error{Domain: name, Reason: NXDomain}
	case len(others) == 0 && self != "":
		return nil, &Error{Domain: name, Reason: Loop, Err: fmt.Errorf("mail exchanger %s is this host", self)}
	case temporary != nil:
		return nil, &Error{Domain: name, Reason: Temporary, Err: temporary}
	case refused != nil:
		return nil, &Error{Domain: name, Reason: RefusedAddress, Err: refused}
	case a.status == noData:
		return nil, &Error{Domain: name, Reason: NoAddress, Err: errors.New("it has no MX record and no address of its own")}
	default:
		return nil, &Error{Domain: name, Reason: NoAddress, Err: fmt.Errorf("MX: %s", strings.Join((&Plan{MX: plan.MX}).Names(), ", "))}
	}
}

// publish puts MX records in order: by preference, then name, each host once at
// its best preference. Records whose target cannot be a host are left out.
func publish(records []MX) []MX {
	var set []MX
	for _, m := range records {
		if isHostName(m.Name) {
			set = append(set, m)
		}
	}
	slices.SortFunc(set, func(a, b MX) int {
		return cmp.Or(cmp.Compare(a.Preference, b.Preference), strings.Compare(a.Name, b.Name))
	})
	seen := make(map[string]bool)
	set = slices.DeleteFunc(set, func(m MX) bool {
		twice := seen[m.Name]
		seen[m.Name] = true
		return twice
	})
	set = set[:min(len(set), maxExchangers)]
	octets := 0
	for i, m := range set {
		if octets += len(m.Name); octets > maxNames {
			return set[:i]
		}
	}
	return set
}

// beforeSelf keeps the exchangers better than the first that is this host, and
// says which one that was: anything as good or worse would bring the mail back.
func (r *Resolver) beforeSelf(set []MX, isSelf func(MX) bool) (better []MX, self string) {
	i := slices.IndexFunc(set, isSelf)
	if i < 0 {
		return set, ""
	}
	end := slices.IndexFunc(set, func(m MX) bool { return m.Preference >= set[i].Preference })
	return set[:end], set[i].Name
}

// resolved is what the DNS says of one exchanger's addresses.
type resolved struct {
	addrs   []netip.Addr // usable, in the order of the protocols
	self    bool         // one of them is this host's
	refused netip.Addr   // one that was refused, if any
	failed  error        // a lookup that may do better later
	secure  bool         // every address was validated
	target  string       // the end of a chain of CNAMEs; "" without one
	expires time.Time
}

// resolveAll looks up all exchangers and protocols side by side, so that one
// dead zone costs one timeout and not their sum.
func (r *Resolver) resolveAll(ctx context.Context, set []MX) map[string]resolved {
	answers := make([]*answer, len(set)*len(r.types))
	r.sideBySide(len(answers), func(i int) {
		q := question{set[i/len(r.types)].Name, r.types[i%len(r.types)]}
		if addr, err := netip.ParseAddr(q.name); err == nil {
			// An address stands where the name of its host belongs: no name server knows it.
			// smtp(8) goes there, since other senders do.
			answers[i] = &answer{addrs: []netip.Addr{addr}, expires: r.now().Add(mostTTL)}
			return
		}
		answers[i] = r.ask(ctx, q)
	})
	hosts := make(map[string]resolved, len(set))
	for i, m := range set {
		hosts[m.Name] = r.judge(answers[i*len(r.types) : (i+1)*len(r.types)])
	}
	return hosts
}

// sideBySide calls ask for 0 to n-1, some at a time: each may take a socket.
func (r *Resolver) sideBySide(n int, ask func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(n, r.parallel) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				ask(i)
			}
		})
	}
	wg.Wait()
}

// judge joins the answers for one exchanger, one for each protocol in order.
func (r *Resolver) judge(answers []*answer) resolved {
	h := resolved{expires: answers[0].expires, secure: true}
	for _, a := range answers {
		if len(a.addrs) > 0 {
			h.secure = h.secure && a.secure
			h.target = cmp.Or(h.target, a.target)
		}
		h.expires = earlier(h.expires, a.expires)
		if a.status == failed {
			h.failed = cmp.Or(h.failed, a.err)
		}
		for _, addr := range a.addrs {
			// A v4-mapped address is IPv4 on the wire, whatever record held it.
			addr = addr.Unmap()
			switch {
			case r.selfAddrs[addr]:
				h.self = true
			case r.refuses(addr):
				h.refused = addr
			case r.speaks(addr) && !slices.Contains(h.addrs, addr):
				h.addrs = append(h.addrs, addr)
			}
		}
	}
	return h
}

// speaks reports whether an address is of a protocol in use.
func (r *Resolver) speaks(a netip.Addr) bool {
	if a.Is4() {
		return slices.Contains(r.types, dns.TypeA)
	}
	return slices.Contains(r.types, dns.TypeAAAA)
}

// literal is the way to an address literal: no DNS, the same rules.
func (r *Resolver) literal(domain string) (*Plan, error) {
	addr, err := parseLiteral(domain)
	if err != nil {
		return nil, &Error{Domain: domain, Reason: NoAddress, Err: err}
	}
	name := "[" + addr.String() + "]"
	if addr.Is6() {
		name = "[IPv6:" + addr.String() + "]"
	}
	switch {
	case r.selfAddrs[addr]:
		return nil, &Error{Domain: name, Reason: Loop, Err: errors.New("the address is this host's")}
	case r.refuses(addr):
		return nil, &Error{Domain: name, Reason: RefusedAddress}
	case !r.speaks(addr):
		return nil, &Error{Domain: name, Reason: NoAddress, Err: errors.New("its protocol is not in use")}
	}
	return &Plan{
		Domain:  name,
		Hosts:   []Host{{Addrs: []netip.Addr{addr}}},
		Expires: r.now().Add(mostTTL),
	}, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
