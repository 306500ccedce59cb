package sink

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const defaultTTL = 5 * time.Minute

// nameServer answers for the domains and hosts of an Internet.
type nameServer struct {
	internet *Internet
	addr     string
	servers  []*dns.Server
	ended    []chan error
}

// startNames listens on UDP and TCP of the same port.
func startNames(addr string, n *Internet) (*nameServer, error) {
	const tries = 20 // a free UDP port may be taken on TCP
	var lastErr error
	for range tries {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, fmt.Errorf("sink: dns: %w", err)
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err != nil {
			pc.Close()
			lastErr = err
			continue
		}
		s := &nameServer{internet: n, addr: pc.LocalAddr().String()}
		s.servers = []*dns.Server{{PacketConn: pc, Handler: s}, {Listener: ln, Handler: s}}
		for _, server := range s.servers {
			started := make(chan struct{})
			ended := make(chan error, 1)
			server.NotifyStartedFunc = func() { close(started) }
			s.ended = append(s.ended, ended)
			go func() { ended <- server.ActivateAndServe() }()
			<-started // Shutdown works only on a started server
		}
		return s, nil
	}
	return nil, fmt.Errorf("sink: dns: %w", lastErr)
}

func (s *nameServer) stop(ctx context.Context) {
	for i, server := range s.servers {
		server.ShutdownContext(ctx)
		<-s.ended[i]
	}
}

// ServeDNS answers one question.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.internet.lookups.Add(1)
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, true
	delay := time.Duration(0)
	answered := true
	if len(r.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
	} else {
		delay, answered = s.answer(m, r.Question[0])
	}
	if !pause(s.internet.closed, delay) || !answered {
		return
	}
	size := dns.MaxMsgSize
	if w.LocalAddr().Network() == "udp" {
		size = dns.MinMsgSize
	}
	if o := r.IsEdns0(); o != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
		size = max(size, int(o.UDPSize()))
	}
	m.Truncate(size)
	w.WriteMsg(m)
}

// answer fills in the answer; false: none is to be given.
func (s *nameServer) answer(m *dns.Msg, q dns.Question) (time.Duration, bool) {
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if s.answerPointed(m, q, name) {
		return 0, true
	}
	if h := s.internet.hostNamed(name); h != nil {
		b := h.provider.behaviour.Load()
		if q.Qtype == addressType(h) && b.DNS != NoAddress {
			m.Answer = append(m.Answer, addressRecord(q.Name, h, b))
		}
		finish(m, q, b)
		return b.DNSDelay, b.DNS != Silent
	}
	v := s.internet.providerOf(name)
	if v == nil {
		m.Rcode = dns.RcodeNameError
		finish(m, q, new(Behaviour))
		return 0, true
	}
	b := v.behaviour.Load()
	switch b.DNS {
	case Silent:
		return 0, false
	case ServFail:
		m.Rcode = dns.RcodeServerFailure
		return b.DNSDelay, true
	case NXDomain:
		m.Rcode = dns.RcodeNameError
	case NullMX:
		if q.Qtype == dns.TypeMX {
			m.Answer = append(m.Answer, &dns.MX{Hdr: header(q.Name, dns.TypeMX, b), Mx: "."})
		}
	case NoMX:
		for _, h := range v.hosts {
			if q.Qtype == addressType(h) {
				m.Answer = append(m.Answer, addressRecord(q.Name, h, b))
			}
		}
	default:
		if q.Qtype != dns.TypeMX {
			break
		}
		for _, h := range v.hosts {
			mx := dns.Fqdn(h.name)
			m.Answer = append(m.Answer, &dns.MX{Hdr: header(q.Name, dns.TypeMX, b), Preference: h.preference, Mx: mx})
			if b.DNS != NoAddress {
				m.Extra = append(m.Extra, addressRecord(mx, h, b))
			}
		}
	}
	finish(m, q, b)
	return b.DNSDelay, true
}

// finish adds the SOA record that gives an empty answer its life (RFC 2308).
func finish(m *dns.Msg, q dns.Question, b *Behaviour) {
	if len(m.Answer) > 0 {
		return
	}
	h := header(q.Name, dns.TypeSOA, b)
	m.Ns = append(m.Ns, &dns.SOA{Hdr: h, Ns: "ns.sink.test.", Mbox: "admin.sink.test.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: h.Ttl})
}

func addressType(h *host) uint16 {
	if h.addr.Is6() {
		return dns.TypeAAAA
	}
	return dns.TypeA
}

func addressRecord(name string, h *host, b *Behaviour) dns.RR {
	if h.addr.Is6() {
		return &dns.AAAA{Hdr: header(name, dns.TypeAAAA, b), AAAA: h.addr.AsSlice()}
	}
	return &dns.A{Hdr: header(name, dns.TypeA, b), A: h.addr.AsSlice()}
}

func header(name string, kind uint16, b *Behaviour) dns.RR_Header {
	ttl := b.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
}
