package route

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/agent/route/dane"
)

// How long answers count. The least saves the resolvers from records with a
// TTL of 0, the most bounds how long a moved domain is missed.
const (
	leastTTL   = 30 * time.Second
	mostTTL    = time.Hour
	failureTTL = 30 * time.Second // SERVFAIL, timeout
)

// What is kept of an answer's records, however many its owner publishes.
const (
	// maxTXT is the longest text of MTA-STS, whose announcements have some 30 octets
	// (RFC 8461 section 3.1); maxKeyText that of a key of DKIM, 740 octets with RSA of 4096 bits.
	maxTXT     = 512
	maxKeyText = 1024
	// maxTLSA records are kept, and maxTLSAOctets of each answer's data: whole
	// certificates are rare there, and take one to two KiB.
	maxTLSA       = 16
	maxTLSAOctets = 8 << 10
)

type question struct {
	name string // lower case, no final dot
	kind uint16 // dns.TypeMX, TypeA, TypeAAAA, TypeTXT, TypeTLSA, TypeCNAME
}

type status uint8

const (
	found status = iota
	noData
	nxDomain
	failed
)

// answer is what the DNS said to a question, as far as anybody needs it: no more
// records than are used. It is shared and never changed.
type answer struct {
	status  status
	nullMX  bool         // there are MX records, and all name the root (RFC 7505)
	mx      []MX         // as publish has them
	addrs   []netip.Addr // at most maxAddresses
	txt     []string     // announcements of MTA-STS, or keys of DKIM, the strings of a record joined
	tlsa    []dane.Record
	target  string // where a chain of CNAMEs led; "" without one
	secure  bool   // validated by a resolver whose word counts (RFC 6840 section 5.8)
	err     error  // for failed
	expires time.Time
}

// flight is a query under way. Its answer is set before done is closed; nil
// means that the caller who asked went away before there was one.
type flight struct {
	done   chan struct{}
	answer *answer
}

// ask answers a question from the cache, by waiting for somebody else's query,
// or by a query of its own. The first to ask does the query in its own
// goroutine and under its own context; if that ends, one of those who wait asks
// again.
func (r *Resolver) ask(ctx context.Context, q question) *answer {
	for {
		r.mu.Lock()
		if a := r.answers.get(q, r.now()); a != nil {
			r.mu.Unlock()
			r.tally.cached.Add(1)
			return a
		}
		f := r.inFlight[q]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			r.inFlight[q] = f
			r.mu.Unlock()
			return r.query(ctx, q, f)
		}
		r.mu.Unlock()
		select {
		case <-f.done:
			if f.answer != nil {
				return f.answer
			}
		case <-ctx.Done():
			return &answer{status: failed, err: ctx.Err(), expires: r.now()}
		}
	}
}

// query asks the DNS and lands the flight.
func (r *Resolver) query(ctx context.Context, q question, f *flight) *answer {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(q.name), q.kind)
	m.SetEdns0(udpSize, false)
	trusted := r.dane()
	m.AuthenticatedData = trusted // RFC 6840 section 5.7: say whether it was validated
	reply, err := r.exchanger.Exchange(ctx, m)

	var a *answer
	switch {
	case err != nil && ctx.Err() != nil:
		// The caller's impatience is no fact about the domain: not kept.
		a = &answer{status: failed, err: fmt.Errorf("%s query for %s: %w", dns.TypeToString[q.kind], q.name, ctx.Err()), expires: r.now()}
	case err != nil:
		a = &answer{status: failed, err: fmt.Errorf("%s query for %s: %w", dns.TypeToString[q.kind], q.name, err), expires: r.now().Add(failureTTL)}
		f.answer = a
	default:
		a = read(reply, q, r.now())
		a.secure = trusted && reply.AuthenticatedData && r.dane() // the resolvers may have changed meanwhile
		f.answer = a
	}
	r.tally.asked[a.status].Add(1)
	r.mu.Lock()
	delete(r.inFlight, q)
	if f.answer != nil {
		r.answers.put(q, a, r.now())
	}
	r.mu.Unlock()
	close(f.done)
	return a
}

// read turns a reply into an answer. Records count only if their owner is the
// name asked for or the end of a chain of CNAMEs that starts there.
func read(m *dns.Msg, q question, now time.Time) *answer {
	switch m.Rcode {
	case dns.RcodeSuccess:
	case dns.RcodeNameError:
		return &answer{status: nxDomain, expires: now.Add(negativeTTL(m))}
	default:
		rcode := dns.RcodeToString[m.Rcode]
		if rcode == "" {
			rcode = fmt.Sprintf("RCODE %d", m.Rcode)
		}
		err := fmt.Errorf("%s query for %s: %w", dns.TypeToString[q.kind], q.name, errors.New(rcode))
		return &answer{status: failed, err: err, expires: now.Add(failureTTL)}
	}

	ttl := uint32(mostTTL / time.Second)
	owner := dns.Fqdn(q.name)
	for range 16 { // a longer chain of CNAMEs is a loop
		var next string
		k := keeper{answer: &answer{status: found}, key: strings.Contains(q.name, "._domainkey.")}
		if owner != dns.Fqdn(q.name) {
			k.target = strings.ToLower(strings.TrimSuffix(owner, "."))
		}
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, owner) {
				continue
			}
			if alias, ok := rr.(*dns.CNAME); ok {
				if q.kind == dns.TypeCNAME {
					return &answer{status: found, expires: now.Add(clamp(h.Ttl))}
				}
				next, ttl = alias.Target, min(ttl, h.Ttl)
				continue
			}
			if h.Rrtype == q.kind && k.take(rr) {
				ttl = min(ttl, h.Ttl)
			}
		}
		if k.records > 0 {
			k.finish(now.Add(clamp(ttl)))
			return k.answer
		}
		if next == "" {
			break
		}
		owner = next
	}
	return &answer{status: noData, expires: now.Add(negativeTTL(m))}
}

// keeper makes an answer of the records of one owner.
type keeper struct {
	*answer
	records int // taken, also those of which nothing is kept
	all     []MX
	octets  int  // of TLSA data
	key     bool // a key of DKIM was asked for
}

// take takes a record of the kind that was asked for, and says whether it is one
// that can be read.
func (k *keeper) take(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.MX:
		k.all = append(k.all, MX{Name: strings.ToLower(strings.TrimSuffix(rr.Mx, ".")), Preference: rr.Preference})
	case *dns.A:
		ip, ok := netip.AddrFromSlice(rr.A)
		if !ok {
			return false
		}
		k.keep(ip.Unmap())
	case *dns.AAAA:
		ip, ok := netip.AddrFromSlice(rr.AAAA)
		if !ok {
			return false
		}
		k.keep(ip)
	case *dns.TXT:
		text := strings.Join(rr.Txt, "")
		// Two are as good as none (RFC 8461 section 3.1, RFC 6376 section 3.6.2.2).
		if (strings.HasPrefix(text, "v=STSv1") && len(text) <= maxTXT || k.key && len(text) <= maxKeyText) && len(k.txt) < 2 {
			k.txt = append(k.txt, text)
		}
	case *dns.TLSA:
		data, err := hex.DecodeString(rr.Certificate)
		if err != nil {
			return false
		}
		// Never none of those that are there: that would turn DANE off. What is
		// cut short is not usable.
		if len(k.tlsa) < maxTLSA {
			data = data[:min(len(data), maxTLSAOctets-k.octets)]
			k.octets += len(data)
			k.tlsa = append(k.tlsa, dane.Record{Usage: rr.Usage, Selector: rr.Selector, Matching: rr.MatchingType, Data: string(data)})
		}
	default:
		return false
	}
	k.records++
	return true
}

func (k *keeper) keep(a netip.Addr) {
	if len(k.addrs) < maxAddresses {
		k.addrs = append(k.addrs, a)
	}
}

func (k *keeper) finish(expires time.Time) {
	k.expires = expires
	k.nullMX = len(k.all) > 0 && !slices.ContainsFunc(k.all, func(m MX) bool { return m.Name != "" })
	k.mx = slices.Clone(publish(k.all)) // not the array that held all of them
	k.addrs, k.tlsa = slices.Clip(slices.Clone(k.addrs)), slices.Clip(slices.Clone(k.tlsa))
}

// negativeTTL is the lesser of the SOA's TTL and its minimum (RFC 2308 section 5).
func negativeTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return clamp(min(soa.Hdr.Ttl, soa.Minttl))
		}
	}
	return leastTTL
}

func clamp(ttl uint32) time.Duration {
	return min(max(time.Duration(ttl)*time.Second, leastTTL), mostTTL)
}
