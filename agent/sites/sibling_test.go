package sites

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// The sites of one receiver have one name, each with its source behind it, in whatever order
// their domains are looked up.
func TestSitesOfOneReceiverAreNamedAlike(t *testing.T) {
	t.Parallel()
	b := New()
	now := time.Now()
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	ask := func(domain, host, addr string, source netip.Addr) string {
		name, _ := b.Site(now, &Answer{
			Domain: domain, Source: source, Several: true, Alike: true, Sources: []netip.Addr{first, second},
			Groups: []Group{{Hosts: []string{host}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}},
		})
		return name
	}
	for _, x := range []struct {
		domain, host, addr string
		source             netip.Addr
		want               string
	}{
		{"a.example", "mx1.isp.example", "198.51.100.1", first, "isp.example:192.0.2.1"},
		{"b.example", "mx2.isp.example", "198.51.100.2", first, "isp.example-2:192.0.2.1"},
		{"b.example", "mx2.isp.example", "198.51.100.2", second, "isp.example-2:192.0.2.2"},
		{"a.example", "mx1.isp.example", "198.51.100.1", second, "isp.example:192.0.2.2"},
		{"c.example", "mx3.isp.example", "198.51.100.3", second, "isp.example-3:192.0.2.2"},
		{"c.example", "mx3.isp.example", "198.51.100.3", first, "isp.example-3:192.0.2.1"},
	} {
		if got := ask(x.domain, x.host, x.addr, x.source); got != x.want {
			t.Errorf("%s from %v is %s, want %s", x.host, x.source, got, x.want)
		}
	}
	// What all of them are called means all of them.
	for text, want := range map[string][]string{
		"ISP.example-2": {"isp.example-2:192.0.2.1", "isp.example-2:192.0.2.2"}, "isp.example-2:192.0.2.1": {"isp.example-2:192.0.2.1"}, "isp.example-4": nil,
	} {
		var got []string
		for _, x := range b.Find(text) {
			got = append(got, x.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s means %q, want %q", text, got, want)
		}
	}
}

// A question is answered as by Site where that has a name already, and else with none; the Book
// stays as it was.
func TestQuestionsMakeNoSites(t *testing.T) {
	t.Parallel()
	b := New()
	now := time.Now()
	source := netip.MustParseAddr("192.0.2.1")
	addrs := func(list ...string) (all []netip.Addr) {
		for _, x := range list {
			all = append(all, netip.MustParseAddr(x))
		}
		return all
	}
	both := []Group{{Hosts: []string{"mx.isp.example"}, Addrs: addrs("198.51.100.1", "198.51.100.2")}, {Hosts: []string{"backup.isp.example"}, Addrs: addrs("198.51.100.3")}}
	answer := func(provider string, groups ...Group) *Answer {
		return &Answer{Domain: "d.example", Provider: provider, Source: source, Several: true, Groups: groups}
	}
	ask := func(a *Answer, want string) {
		t.Helper()
		if got, _ := b.Known(now, a); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	ask(answer("", both...), "")
	ask(answer("big", both...), "")
	if got := b.Find("mx.isp.example"); got != nil {
		t.Errorf("a question has left %+v", got)
	}
	name, _ := b.Site(now, answer("", both...))
	provider, _ := b.Site(now, answer("big", both...))
	ask(answer("", both...), name)
	ask(answer("big", both...), provider)
	ask(answer("", both[1]), "") // a worse host's set has no name
	ask(answer("", Group{Hosts: []string{"mx.isp.example"}, Addrs: addrs("198.51.100.2")}), name)
	ask(answer("", Group{Hosts: []string{"mx.isp.example"}}, both[1]), name)
	ask(answer("", Group{Hosts: []string{"mail.example"}, Addrs: addrs("198.51.100.2", "198.51.100.1")}), name)
	ask(answer("", Group{Hosts: []string{"mail.example"}, Addrs: addrs("198.51.100.2")}), "")
	ask(answer("", Group{Hosts: []string{"mail.example"}}, both[0]), name)
}
