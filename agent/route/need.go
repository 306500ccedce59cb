package route

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/route/sts"
)

// Asks is what a policy asks of a connection.
type Asks uint8

// What can be asked, the weaker first.
const (
	Nothing Asks = iota
	Report       // MTA-STS in testing mode: log what would fail
	Encrypt      // TLSA records of which none is usable: TLS, with any certificate
	Valid        // MTA-STS in enforce mode: a valid certificate for the host's name
	Match        // DANE: a certificate that Records accept
	Avoid        // the host must not be used; Err says why
)

// Need is what a domain's policies, DANE and MTA-STS, ask of a connection to
// one of its hosts. DANE goes before MTA-STS: where it has usable records, they
// alone decide (RFC 8461 section 2); where it has only unusable ones, MTA-STS is
// applied on top, as it asks for more.
type Need struct {
	Asks Asks
	Err  error // for Avoid; for Report: why the host would be avoided, or nil

	// For Match.
	ServerName string        // to be sent as SNI: where the records were found
	Names      []string      // that a certificate below DANE-TA may carry
	Records    []dane.Record // usable ones
}

// String says in a word what is asked, for logs.
func (n Need) String() string {
	switch n.Asks {
	case Report:
		return "MTA-STS testing"
	case Encrypt:
		return "DANE, unusable records"
	case Valid:
		return "MTA-STS"
	case Match:
		return "DANE"
	case Avoid:
		return "avoid"
	}
	return "none"
}

// Key is "" where nothing is asked that could fail, and the same for two needs
// exactly if a connection that satisfies one satisfies the other.
func (n Need) Key() string {
	switch n.Asks {
	case Encrypt:
		return "encrypt"
	case Valid:
		return "sts"
	case Avoid:
		return "avoid"
	case Match:
		sum := sha256.New()
		for _, r := range n.Records {
			fmt.Fprintf(sum, "%d %d %d %d %s", r.Usage, r.Selector, r.Matching, len(r.Data), r.Data)
		}
		key := "dane:" + n.ServerName + ":" + hex.EncodeToString(sum.Sum(nil)[:8])
		if slices.ContainsFunc(n.Records, func(r dane.Record) bool { return r.Usage == dane.TA }) {
			key += ":" + strings.Join(n.Names, "/") // one of which the certificate must carry
		}
		return key
	}
	return ""
}

// Needs is a word, cut as Key is, for what the policies ask of all the plan's hosts together,
// "" when it is nothing. A session to a host that was opened for one domain
// holds for another exactly if their Needs are the same: it then was opened to
// a host that both allow, at the same level, and its certificate answers to the
// same names or records. The domain itself is part of it only where the name
// that a certificate may carry is the domain's (DANE-TA).
func (p *Plan) Needs() string {
	var list []string
	for _, h := range p.Hosts {
		if key := h.Need.Key(); key != "" {
			list = append(list, h.Name+"="+key)
		}
	}
	return bounded(strings.Join(list, ","))
}

// notNamed says that a domain's policy does not name one of its hosts.
type notNamed struct {
	host, domain string
	names        string // the first that it names; one text for all hosts
}

// Error implements error.
func (e *notNamed) Error() string {
	return fmt.Sprintf("MTA-STS: host %s is not one that the policy of %s names (%s)", e.host, e.domain, e.names)
}

// maxNamed bounds what is repeated of a policy, in octets.
const maxNamed = 256

// named are the first of the hosts that a policy names.
func named(p *sts.Policy) string {
	text := strings.Join(p.MX[:min(len(p.MX), 5)], ", ")
	if len(text) > maxNamed {
		text = strings.Clone(text[:maxNamed]) + "..."
	}
	return text
}

// maxPlanTLSA bounds the TLSA data of a plan in octets, which is kept as long as there is mail
// for the domain. Digests take 32 to 64 octets of it, whole certificates one to two KiB.
const maxPlanTLSA = 16 << 10

// boundTLSA avoids the hosts whose records are too much beside those of better ones: to use
// them without their records would be less than their owner asks for.
func (p *Plan) boundTLSA() {
	left := maxPlanTLSA
	for i := range p.Hosts {
		n := 0
		for _, r := range p.Hosts[i].Need.Records {
			n += len(r.Data)
		}
		if n > left {
			p.Hosts[i].Need = Need{Asks: Avoid, Err: errTLSA}
			continue
		}
		left -= n
	}
}

var errTLSA = fmt.Errorf("DANE: the TLSA records of the domain's hosts take more than %d octets", maxPlanTLSA)

// needs finds out what each host of a plan is asked. secure says that the set
// of exchangers was validated; without that their names, and so their TLSA
// records, prove nothing (RFC 7672 section 2.2.1). The error is ErrFetch.
func (r *Resolver) needs(ctx context.Context, plan *Plan, secure bool, hosts map[string]resolved, fetch bool) error {
	if secure && r.dane() {
		found := make([]tlsa, len(plan.Hosts))
		r.sideBySide(len(found), func(i int) {
			h := plan.Hosts[i]
			found[i] = r.tlsa(ctx, h.Name, hosts[h.Name])
		})
		for i, t := range found {
			plan.Hosts[i].Need = t.need(plan.Hosts[i].Name, plan.Domain)
			if !t.expires.IsZero() {
				plan.Expires = earlier(plan.Expires, t.expires)
			}
		}
		plan.boundTLSA()
	}
	if r.sts == nil {
		return nil
	}
	policy, err := r.sts.Policy(ctx, plan.Domain, fetch)
	if policy == nil && err != nil {
		return err
	}
	plan.Refetch = err != nil
	if policy == nil || policy.Mode == sts.None {
		return nil
	}
	plan.Expires = earlier(plan.Expires, policy.Expires())
	names := named(policy)
	for i := range plan.Hosts {
		h := &plan.Hosts[i]
		if h.Need.Asks >= Match {
			continue
		}
		var err error
		if !policy.Matches(h.Name) {
			err = &notNamed{h.Name, plan.Domain, names}
		}
		switch {
		case policy.Mode == sts.Testing && h.Need.Asks == Nothing:
			h.Need = Need{Asks: Report, Err: err}
		case policy.Mode == sts.Enforce && err != nil:
			h.Need = Need{Asks: Avoid, Err: err}
		case policy.Mode == sts.Enforce:
			h.Need = Need{Asks: Valid}
		}
	}
	return nil
}

// txt looks TXT records up.
func (r *Resolver) txt(ctx context.Context, name string) ([]string, error) {
	a := r.ask(ctx, question{name, dns.TypeTXT})
	return a.txt, a.err
}

// Key returns the records of a key of DKIM: of a name like "s1._domainkey.example.com". None
// is no error.
func (r *Resolver) Key(ctx context.Context, name string) ([]string, error) {
	return r.txt(ctx, strings.ToLower(strings.TrimSuffix(name, ".")))
}

// dial connects to a host by its addresses, the refused ones left out: whoever
// publishes a policy's address must not make us talk to what only this host can reach.
func (r *Resolver) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	var last error
	for _, kind := range r.types {
		a := r.ask(ctx, question{strings.ToLower(host), kind})
		if a.err != nil {
			last = a.err
		}
		for _, addr := range a.addrs[:min(len(a.addrs), 3)] {
			if addr = addr.Unmap(); r.refuses(addr) {
				last = fmt.Errorf("%s has the address %s, which is refused (private, loopback or the like)", host, addr)
				continue
			}
			c, err := d.DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
			if err == nil {
				return c, nil
			}
			last = err
		}
	}
	if last == nil {
		last = errors.New(host + " has no address")
	}
	return nil, last
}
