package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/contrib/lab"
)

// zone is an authoritative DNS zone, signed or not, served by a name server of
// its own. It is signed once, with one key for everything and a chain of NSEC
// records that proves what is not there (RFC 4034, RFC 4035).
type zone struct {
	t     *testing.T
	apex  string   // with final dot
	names []string // canonical order
	key   *dns.DNSKEY
	priv  crypto.Signer
	data  map[rrset][]dns.RR
	sigs  map[rrset]dns.RR
}

type rrset struct {
	name string
	kind uint16
}

// serveZone serves the records, written as in a zone file, at an address, port
// 53. signed says whether they are signed; bogus lists the sets ("name TYPE")
// that get a signature that does not fit.
func serveZone(t *testing.T, addr, apex string, signed bool, records []string, bogus ...string) *zone {
	t.Helper()
	z := &zone{t: t, apex: dns.Fqdn(apex), data: make(map[rrset][]dns.RR), sigs: make(map[rrset]dns.RR)}
	records = append(records,
		apex+". 300 IN SOA ns."+apex+". admin."+apex+". 1 3600 600 86400 300",
		apex+". 300 IN NS ns."+apex+".", "ns."+apex+". 300 IN A "+addr)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatalf("record %q: %v", text, err)
		}
		z.add(rr)
	}
	if signed {
		z.sign(bogus)
	}
	z.listen(addr)
	return z
}

func (z *zone) add(rr dns.RR) {
	h := rr.Header()
	h.Name = strings.ToLower(h.Name)
	set := rrset{h.Name, h.Rrtype}
	if !slices.Contains(z.names, h.Name) {
		z.names = append(z.names, h.Name)
	}
	z.data[set] = append(z.data[set], rr)
}

func (z *zone) sign(bogus []string) {
	z.t.Helper()
	z.key = &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: z.apex, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 300},
		Flags: 257, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	priv, err := z.key.Generate(256)
	if err != nil {
		z.t.Fatal(err)
	}
	z.priv = priv.(*ecdsa.PrivateKey)
	z.add(z.key)
	slices.SortFunc(z.names, canonical)
	for i, name := range z.names {
		kinds := []uint16{dns.TypeRRSIG, dns.TypeNSEC}
		for set := range z.data {
			if set.name == name {
				kinds = append(kinds, set.kind)
			}
		}
		slices.Sort(kinds)
		z.data[rrset{name, dns.TypeNSEC}] = []dns.RR{&dns.NSEC{
			Hdr:        dns.RR_Header{Name: name, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 300},
			NextDomain: z.names[(i+1)%len(z.names)], TypeBitMap: slices.Compact(kinds),
		}}
	}
	for set, rrs := range z.data {
		sig := &dns.RRSIG{
			Hdr:       dns.RR_Header{Name: set.name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: 300},
			Algorithm: z.key.Algorithm, KeyTag: z.key.KeyTag(), SignerName: z.apex,
			Inception: uint32(time.Now().Add(-time.Hour).Unix()), Expiration: uint32(time.Now().Add(24 * time.Hour).Unix()),
		}
		if err := sig.Sign(z.priv, rrs); err != nil {
			z.t.Fatal(err)
		}
		if slices.Contains(bogus, strings.TrimSuffix(set.name, ".")+" "+dns.TypeToString[set.kind]) {
			first := "A"
			if sig.Signature[:1] == first {
				first = "B"
			}
			sig.Signature = first + sig.Signature[1:]
		}
		z.sigs[set] = sig
	}
}

// anchor is the zone's DS record, for a resolver that trusts it.
func (z *zone) anchor() string { return z.key.ToDS(dns.SHA256).String() }

// canonical orders names as RFC 4034 section 6.1 does.
func canonical(a, b string) int {
	x, y := dns.SplitDomainName(a), dns.SplitDomainName(b)
	slices.Reverse(x)
	slices.Reverse(y)
	return slices.Compare(x, y)
}

// listening takes an address that a room before may have had: a process that is being
// started holds that one's sockets until its exec.
func listening[T any](t *testing.T, listen func() (T, error)) (at T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waiting)
	defer cancel()
	err := lab.Until(ctx, func() (bool, error) {
		var err error
		if at, err = listen(); errors.Is(err, syscall.EADDRINUSE) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func (z *zone) listen(addr string) {
	z.t.Helper()
	pc := listening(z.t, func() (net.PacketConn, error) { return net.ListenPacket("udp", addr+":53") })
	l := listening(z.t, func() (net.Listener, error) { return net.Listen("tcp", addr+":53") })
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: z}, {Listener: l, Handler: z}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		z.t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				z.t.Error(err)
			}
			<-ended
		})
	}
}

// ServeDNS answers as an authoritative server does.
func (z *zone) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.Authoritative = true
	if o := r.IsEdns0(); o != nil {
		m.SetEdns0(4096, o.Do())
	}
	q := r.Question[0]
	name := strings.ToLower(q.Name)
	exists := slices.ContainsFunc(z.names, func(n string) bool { return n == name || strings.HasSuffix(n, "."+name) })
	switch rrs := z.data[rrset{name, q.Qtype}]; {
	case len(rrs) > 0:
		m.Answer = z.signed(rrset{name, q.Qtype})
	case len(z.data[rrset{name, dns.TypeCNAME}]) > 0:
		m.Answer = z.signed(rrset{name, dns.TypeCNAME})
	default:
		m.Ns = z.signed(rrset{z.apex, dns.TypeSOA})
		if !exists {
			m.Rcode = dns.RcodeNameError
			encloser := name
			for !slices.ContainsFunc(z.names, func(n string) bool { return n == encloser || strings.HasSuffix(n, "."+encloser) }) {
				_, encloser, _ = strings.Cut(encloser, ".")
			}
			m.Ns = append(m.Ns, z.denial("*."+encloser)...)
		}
		m.Ns = append(m.Ns, z.denial(name)...)
	}
	_ = w.WriteMsg(m)
}

// signed is a set with its signature.
func (z *zone) signed(set rrset) []dns.RR {
	rrs := slices.Clone(z.data[set])
	if sig := z.sigs[set]; sig != nil {
		rrs = append(rrs, sig)
	}
	return rrs
}

// denial is the NSEC record at a name or, if there is none, before it.
func (z *zone) denial(name string) []dns.RR {
	if z.key == nil {
		return nil
	}
	before := z.names[len(z.names)-1]
	for _, n := range z.names {
		if canonical(n, name) <= 0 {
			before = n
		}
	}
	return z.signed(rrset{before, dns.TypeNSEC})
}
