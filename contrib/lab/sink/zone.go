package sink

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Exchanger is an MX record of a domain, and the addresses that its name has. They need
// not be those of the domain's provider, nor of any.
type Exchanger struct {
	Name       string
	Preference uint16
	Addr       []netip.Addr // IPv4; none: the name does not exist
}

// Point has the DNS give these exchangers for a domain, and their addresses for their
// names, whatever providers and hosts say. What a receiver takes stays with its
// provider's domains.
func (n *Internet) Point(domain string, exchangers ...Exchanger) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.zone.mx[strings.ToLower(domain)] = exchangers
	for _, x := range exchangers {
		n.zone.addr[strings.ToLower(x.Name)] = x.Addr
	}
}

// zone is what was said by Point.
type zone struct {
	mx   map[string][]Exchanger
	addr map[string][]netip.Addr
}

// answerPointed fills in the answer for a name that Point has spoken of; false: it has not.
func (s *nameServer) answerPointed(m *dns.Msg, q dns.Question, name string) bool {
	n := s.internet
	n.mu.RLock()
	defer n.mu.RUnlock()
	b := new(Behaviour)
	list, domain := n.zone.mx[name]
	addr, host := n.zone.addr[name]
	switch {
	case domain && q.Qtype == dns.TypeMX:
		for _, x := range list {
			m.Answer = append(m.Answer, &dns.MX{Hdr: header(q.Name, dns.TypeMX, b), Preference: x.Preference, Mx: dns.Fqdn(x.Name)})
		}
	case host && q.Qtype == dns.TypeA:
		for _, a := range addr {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(q.Name, dns.TypeA, b), A: a.AsSlice()})
		}
	}
	if host && len(addr) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	if domain || host {
		finish(m, q, b)
	}
	return domain || host
}
