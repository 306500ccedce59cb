package route

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
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

	// maxAnswers bounds the cache: at some 300 octets an answer, about 15 MB.
	maxAnswers = 50_000
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

// answer is what the DNS said to a question. It is shared and never changed.
type answer struct {
	status  status
	mx      []MX // in the order of the answer; Name "" for the root
	addrs   []netip.Addr
	txt     []string // strings of a record joined
	tlsa    []dane.Record
	target  string // where a chain of CNAMEs led; "" without one
	secure  bool   // validated by a resolver whose word counts (RFC 6840 section 5.8)
	err     error  // for failed
	expires time.Time
}

// empty reports whether the answer has no record of the kind asked for.
func (a *answer) empty() bool { return len(a.mx)+len(a.addrs)+len(a.txt)+len(a.tlsa) == 0 }

// cache keeps answers until they expire, and never more than its limit.
type cache struct {
	limit   int
	answers map[question]*answer
}

func newCache(limit int) *cache {
	return &cache{limit: limit, answers: make(map[question]*answer)}
}

func (c *cache) get(q question, now time.Time) *answer {
	if a := c.answers[q]; a != nil && now.Before(a.expires) {
		return a
	}
	return nil
}

// put stores an answer. When the cache is full, the one of a few (a map is
// walked from a random place) that expires first makes room.
func (c *cache) put(q question, a *answer) {
	if _, has := c.answers[q]; !has && len(c.answers) >= c.limit {
		var victim question
		var first time.Time
		n := 0
		for k, v := range c.answers {
			if n == 0 || v.expires.Before(first) {
				victim, first = k, v.expires
			}
			if n++; n == 8 {
				break
			}
		}
		delete(c.answers, victim)
	}
	c.answers[q] = a
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
	m.AuthenticatedData = r.dane // RFC 6840 section 5.7: say whether it was validated
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
		a.secure = r.dane && reply.AuthenticatedData
		f.answer = a
	}
	r.tally.asked[a.status].Add(1)
	r.mu.Lock()
	delete(r.inFlight, q)
	if f.answer != nil {
		r.answers.put(q, a)
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
		a := &answer{status: found}
		if owner != dns.Fqdn(q.name) {
			a.target = strings.ToLower(strings.TrimSuffix(owner, "."))
		}
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, owner) {
				continue
			}
			switch rr := rr.(type) {
			case *dns.CNAME:
				if q.kind == dns.TypeCNAME {
					return &answer{status: found, expires: now.Add(clamp(h.Ttl))}
				}
				next, ttl = rr.Target, min(ttl, h.Ttl)
				continue
			case *dns.MX:
				if q.kind != dns.TypeMX {
					continue
				}
				a.mx = append(a.mx, MX{Name: strings.ToLower(strings.TrimSuffix(rr.Mx, ".")), Preference: rr.Preference})
			case *dns.A:
				ip, ok := netip.AddrFromSlice(rr.A)
				if q.kind != dns.TypeA || !ok {
					continue
				}
				a.addrs = append(a.addrs, ip.Unmap())
			case *dns.AAAA:
				ip, ok := netip.AddrFromSlice(rr.AAAA)
				if q.kind != dns.TypeAAAA || !ok {
					continue
				}
				a.addrs = append(a.addrs, ip)
			case *dns.TXT:
				if q.kind != dns.TypeTXT {
					continue
				}
				a.txt = append(a.txt, strings.Join(rr.Txt, ""))
			case *dns.TLSA:
				data, err := hex.DecodeString(rr.Certificate)
				if q.kind != dns.TypeTLSA || err != nil {
					continue
				}
				a.tlsa = append(a.tlsa, dane.Record{Usage: rr.Usage, Selector: rr.Selector, Matching: rr.MatchingType, Data: string(data)})
			default:
				continue
			}
			ttl = min(ttl, h.Ttl)
		}
		if !a.empty() {
			a.expires = now.Add(clamp(ttl))
			return a
		}
		if next == "" {
			break
		}
		owner = next
	}
	return &answer{status: noData, expires: now.Add(negativeTTL(m))}
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
