package sink

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func TestADomainMayPointAnywhere(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{}, "a")
	shared := n.hostNamed("a").addr
	n.Point("X.test", Exchanger{Name: "mail.x.test", Preference: 10, Addr: []netip.Addr{shared}}, Exchanger{Name: "gone.x.test", Preference: 20})
	for _, x := range []struct {
		name string
		kind uint16
		want string
	}{
		{"x.test", dns.TypeMX, "NOERROR 10 mail.x.test. 20 gone.x.test."},
		{"mail.x.test", dns.TypeA, "NOERROR " + shared.String()},
		{"mail.x.test", dns.TypeAAAA, "NOERROR"},
		{"gone.x.test", dns.TypeA, "NXDOMAIN"},
		{"other.test", dns.TypeMX, "NOERROR 10 a."},
	} {
		if got := brief(ask(t, n, "udp", x.name, x.kind)); got != x.want {
			t.Errorf("%s %s: %q, want %q", x.name, dns.TypeToString[x.kind], got, x.want)
		}
	}
}

func TestAHostMayBehaveUnlikeTheOthers(t *testing.T) {
	t.Parallel()
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	p := Provider{Name: "p", Domains: []string{"*"}, Host: []Host{{Name: "a"}, {Name: "b", Behaviour: &Behaviour{HostConnections: 1}}}}
	if err := n.Add(p); err != nil {
		t.Fatal(err)
	}
	dial(t, n, "a")
	dial(t, n, "a")
	dial(t, n, "b")
	dialOnly(t, n, "b").wants("421 ")
	q := Provider{Name: "q", Domains: []string{"q.test"}, Host: []Host{{Name: "c", Behaviour: &Behaviour{Drop: 2}}}}
	if err := n.Add(q); err == nil {
		t.Error("a share of 2 is taken")
	}
}

// At MAIL all connections count, those too many as well, and one that has begun stays.
func TestTooManyAreToldAtTheFirstMail(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 1, OverLimit: AtFirstMail})
	first := dial(t, n, "mx1")
	first.mail("1", "u@x.test", "250")
	second := dial(t, n, "mx1")
	first.mail("2", "u@x.test", "250")
	second.says("MAIL FROM:<a@x>", "421 ")
	second.wants("")
	dial(t, n, "mx1")
	if st := hostStats(t, n, "mx1"); st.Refused[CauseConnections] != 1 || st.Peak != 2 {
		t.Errorf("%+v", st)
	}
}
