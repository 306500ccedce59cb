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
