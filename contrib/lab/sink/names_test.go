package sink

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func ask(t *testing.T, n *Internet, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	c := dns.Client{Net: network, Timeout: patience}
	r, _, err := c.Exchange(m, n.DNSAddr())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// brief says what an answer says.
func brief(m *dns.Msg) string {
	s := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.MX:
			s += fmt.Sprintf(" %d %s", rr.Preference, rr.Mx)
		case *dns.A:
			s += " " + rr.A.String()
		default:
			s += " " + rr.String()
		}
	}
	return s
}

func TestDNSAnswers(t *testing.T) {
	t.Parallel()
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	for _, p := range []Provider{
		{Name: "one", Domains: []string{"one.test"}, Hosts: 2, HostName: "MX%d.one.test."},
		{Name: "many", Domains: []string{"d*.example"}, Host: []Host{{Name: "in.many.test", Preference: 5}}},
		{Name: "exact", Domains: []string{"d1.example"}},
		{Name: "servfail", Domains: []string{"servfail.test"}, Behaviour: Behaviour{DNS: ServFail}},
		{Name: "nx", Domains: []string{"nx.test"}, Behaviour: Behaviour{DNS: NXDomain}},
		{Name: "null", Domains: []string{"null.test"}, Behaviour: Behaviour{DNS: NullMX}},
		{Name: "nomx", Domains: []string{"nomx.test"}, Hosts: 2, Behaviour: Behaviour{DNS: NoMX}},
		{Name: "noaddr", Domains: []string{"noaddr.test"}, Behaviour: Behaviour{DNS: NoAddress}},
	} {
		if err := n.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"one.test", dns.TypeMX, "NOERROR 10 mx1.one.test. 10 mx2.one.test."},
		{"ONE.test", dns.TypeMX, "NOERROR 10 mx1.one.test. 10 mx2.one.test."},
		{"one.test", dns.TypeA, "NOERROR"},
		{"mx2.one.test", dns.TypeA, "NOERROR 127.16.0.2"},
		{"mx2.one.test", dns.TypeAAAA, "NOERROR"},
		{"d42.example", dns.TypeMX, "NOERROR 5 in.many.test."},
		{"d1.example", dns.TypeMX, "NOERROR 10 mx1.exact.test."}, // a name beats a pattern
		{"in.many.test", dns.TypeA, "NOERROR 127.17.0.1"},
		{"unknown.test", dns.TypeMX, "NXDOMAIN"},
		{"_mta-sts.one.test", dns.TypeTXT, "NXDOMAIN"},
		{"servfail.test", dns.TypeMX, "SERVFAIL"},
		{"nx.test", dns.TypeMX, "NXDOMAIN"},
		{"null.test", dns.TypeMX, "NOERROR 0 ."},
		{"nomx.test", dns.TypeMX, "NOERROR"},
		{"nomx.test", dns.TypeA, "NOERROR 127.22.0.1 127.22.0.2"},
		{"noaddr.test", dns.TypeMX, "NOERROR 10 mx1.noaddr.test."},
		{"mx1.noaddr.test", dns.TypeA, "NOERROR"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := brief(ask(t, n, network, c.name, c.kind)); got != c.want {
				t.Errorf("%s %s %s: %s, want %s", network, c.name, dns.TypeToString[c.kind], got, c.want)
			}
		}
	}
	if r := ask(t, n, "udp", "one.test", dns.TypeMX); len(r.Extra) != 2 {
		t.Errorf("additional %v", r.Extra)
	}
	if got := n.Stats().Lookups; got != 2*17+1 {
		t.Errorf("%d lookups counted", got)
	}
}

func TestDNSChangesWhileItRuns(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{TTL: 7 * time.Second})
	if ttl := ask(t, n, "udp", "x.test", dns.TypeMX).Answer[0].Header().Ttl; ttl != 7 {
		t.Errorf("TTL %d", ttl)
	}
	if err := n.Change("p", func(b *Behaviour) { b.DNS = ServFail }); err != nil {
		t.Fatal(err)
	}
	if got := brief(ask(t, n, "udp", "x.test", dns.TypeMX)); got != "SERVFAIL" {
		t.Errorf("got %s", got)
	}
	if err := n.Change("p", func(b *Behaviour) { b.DNS = Silent }); err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	m.SetQuestion("x.test.", dns.TypeMX)
	c := dns.Client{Timeout: 20 * time.Millisecond}
	if r, _, err := c.Exchange(m, n.DNSAddr()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silent server: %v, %v", r, err)
	}
}

func TestDNSDelay(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{DNSDelay: 30 * time.Millisecond})
	at := time.Now()
	ask(t, n, "udp", "x.test", dns.TypeMX)
	if took := time.Since(at); took < 30*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
}

func TestLongAnswerIsTruncatedOnUDP(t *testing.T) {
	t.Parallel()
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Add(Provider{Name: "big", Domains: []string{"big.test"}, Hosts: 60}); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, n, "udp", "big.test", dns.TypeMX); !r.Truncated {
		t.Error("whole on UDP")
	}
	if r := ask(t, n, "tcp", "big.test", dns.TypeMX); r.Truncated || len(r.Answer) != 60 {
		t.Errorf("on TCP %d records", len(r.Answer))
	}
}
