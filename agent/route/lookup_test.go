package route

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestLookupFindsTheWay(t *testing.T) {
	t.Parallel()
	z := zone{
		"mx1.example A":    {"300 A 192.0.2.1"},
		"mx1.example AAAA": {"300 AAAA 2001:db8::1"},
		"mx2.example A":    {"300 A 192.0.2.2", "300 A 192.0.2.3", "300 A 192.0.2.3"},
		"dead.example A":   {"SERVFAIL"},

		"two.example MX":      {"300 MX 20 mx1.example.", "300 MX 10 MX2.Example."},
		"equal.example MX":    {"300 MX 10 mx2.example.", "300 MX 10 mx1.example."},
		"twice.example MX":    {"300 MX 20 mx1.example.", "300 MX 10 mx1.example."},
		"implicit.example A":  {"300 A 192.0.2.4"},
		"denied.example MX":   {"NXDOMAIN"}, // by name servers that know no MX, and have the name all the same
		"denied.example A":    {"300 A 192.0.2.5"},
		"numeric.example MX":  {"300 MX 10 192.0.2.6.", "300 MX 20 mx1.example."},
		"alias.example MX":    {"300 CNAME two.example.", "300 @two.example. MX 10 mx1.example."},
		"stray.example MX":    {"300 @other.example. MX 5 mx2.example.", "300 MX 10 mx1.example."},
		"target.example MX":   {"300 MX 10 cname.example."},
		"cname.example A":     {"300 CNAME c2.example.", "300 @c2.example. CNAME mx1.example.", "300 @mx1.example. A 192.0.2.1"},
		"partly.example MX":   {"300 MX 10 dead.example.", "300 MX 20 mx1.example."},
		"nowhere.example MX":  {"300 MX 10 gone.example.", "300 MX 20 mx1.example."},
		"dotted.example MX":   {"300 MX 0 .", "300 MX 20 mx1.example."},
		"strange.example MX":  {"300 MX 0 a\\;b.example.", "300 MX 20 mx1.example."},
		"mapped.example MX":   {"300 MX 0 mapped-host.example."},
		"private.example MX":  {"300 MX 5 private-host.example.", "300 MX 10 mx1.example."},
		"loop.example MX":     {"300 MX 10 mx2.example.", "300 MX 20 self.example.", "300 MX 20 mx1.example.", "300 MX 30 mx1.example."},
		"loopaddr.example MX": {"300 MX 10 mx2.example.", "300 MX 20 selfaddr.example.", "300 MX 30 mx1.example."},

		"mapped-host.example AAAA":  {"300 AAAA ::ffff:192.0.2.9"},
		"private-host.example A":    {"300 A 10.1.2.3"},
		"private-host.example AAAA": {"300 AAAA fd00::1"},
		"selfaddr.example A":        {"300 A 192.0.2.250"},
	}
	self := func(o *Options) {
		o.SelfNames = []string{"Self.Example."}
		o.SelfAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.250")}
	}
	tests := []struct {
		domain, hosts, key string
	}{
		{"two.example", "mx2.example=192.0.2.2,192.0.2.3 mx1.example=192.0.2.1,2001:db8::1", "mx2.example;mx1.example"},
		{"TWO.example.", "mx2.example=192.0.2.2,192.0.2.3 mx1.example=192.0.2.1,2001:db8::1", "mx2.example;mx1.example"},
		{"equal.example", "mx1.example=192.0.2.1,2001:db8::1 mx2.example=192.0.2.2,192.0.2.3", "mx1.example,mx2.example"},
		{"twice.example", "mx1.example=192.0.2.1,2001:db8::1", "mx1.example"},
		{"implicit.example", "implicit.example=192.0.2.4", "implicit.example"},
		{"denied.example", "denied.example=192.0.2.5", "denied.example"},
		{"numeric.example", "192.0.2.6=192.0.2.6 mx1.example=192.0.2.1,2001:db8::1", "192.0.2.6;mx1.example"},
		{"alias.example", "mx1.example=192.0.2.1,2001:db8::1", "mx1.example"},
		{"stray.example", "mx1.example=192.0.2.1,2001:db8::1", "mx1.example"},
		{"target.example", "cname.example=192.0.2.1", "cname.example"},
		{"partly.example", "mx1.example=192.0.2.1,2001:db8::1", "dead.example;mx1.example"},
		{"nowhere.example", "mx1.example=192.0.2.1,2001:db8::1", "gone.example;mx1.example"},
		{"dotted.example", "mx1.example=192.0.2.1,2001:db8::1", "mx1.example"},
		{"strange.example", "mx1.example=192.0.2.1,2001:db8::1", "mx1.example"},
		{"mapped.example", "mapped-host.example=192.0.2.9", "mapped-host.example"},
		{"private.example", "mx1.example=192.0.2.1,2001:db8::1", "private-host.example;mx1.example"},
		{"loop.example", "mx2.example=192.0.2.2,192.0.2.3", "mx2.example;mx1.example,self.example"},
		{"loopaddr.example", "mx2.example=192.0.2.2,192.0.2.3", "mx2.example;selfaddr.example;mx1.example"},
		{"[192.0.2.7]", "=192.0.2.7", "[192.0.2.7]"},
		{"[ipv6:2001:db8::7]", "=2001:db8::7", "[IPv6:2001:db8::7]"},
		{"[IPv6:::ffff:192.0.2.7]", "=192.0.2.7", "[192.0.2.7]"},
	}
	for _, tt := range tests {
		t.Run(tt.domain, func(t *testing.T) {
			t.Parallel()
			p, err := newResolver(t, newFake(z), self).Lookup(t.Context(), tt.domain)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(p); got != tt.hosts {
				t.Errorf("hosts %q, want %q", got, tt.hosts)
			}
			if got := p.Key(); got != tt.key {
				t.Errorf("key %q, want %q", got, tt.key)
			}
		})
	}
}

func TestLookupSaysWhyThereIsNoWay(t *testing.T) {
	t.Parallel()
	z := zone{
		"mx1.example A":    {"300 A 192.0.2.1"},
		"v6.example AAAA":  {"300 AAAA 2001:db8::1"},
		"dead.example A":   {"SERVFAIL"},
		"priv.example A":   {"300 A 192.168.0.1"},
		"local.example A":  {"300 A 127.0.0.1"},
		"me.example A":     {"300 A 192.0.2.250"},
		"bare.example TXT": {"300 TXT x"},

		"denied.example MX":    {"NXDOMAIN"},
		"denied.example A":     {"SERVFAIL"},
		"denied2.example MX":   {"NXDOMAIN"},
		"denied2.example A":    {"300 A 10.1.2.3"},
		"denied3.example MX":   {"NXDOMAIN"},
		"denied3.example TXT":  {"300 TXT x"},
		"numeric.example MX":   {"300 MX 10 10.1.2.3."},
		"null.example MX":      {"300 MX 0 ."},
		"null10.example MX":    {"300 MX 10 ."},
		"servfail.example MX":  {"SERVFAIL"},
		"refused.example MX":   {"REFUSED"},
		"timeout.example MX":   {"TIMEOUT"},
		"nohost.example MX":    {"300 MX 10 gone.example.", "300 MX 20 gone2.example."},
		"deadmx.example MX":    {"300 MX 10 gone.example.", "300 MX 20 dead.example."},
		"onlyv6.example MX":    {"300 MX 10 v6.example."},
		"privmx.example MX":    {"300 MX 10 priv.example.", "300 MX 20 local.example."},
		"privdead.example MX":  {"300 MX 10 priv.example.", "300 MX 20 dead.example."},
		"self.example MX":      {"300 MX 10 self.example.", "300 MX 10 mx1.example.", "300 MX 20 mx1.example."},
		"selfaddr.example MX":  {"300 MX 10 me.example.", "300 MX 20 mx1.example."},
		"cnameloop.example MX": {"300 CNAME b.example.", "300 @b.example. CNAME cnameloop.example."},
		"unusable.example MX":  {"300 MX 10 a\\;b.example."},
	}
	tests := []struct {
		domain string
		reason Reason
		text   string
	}{
		{"gone.example", NXDomain, "domain gone.example does not exist"},
		{"denied.example", Temporary, "A query for denied.example: SERVFAIL"},
		{"denied2.example", RefusedAddress, "denied2.example is 10.1.2.3"},
		{"denied3.example", NXDomain, "does not exist"},
		{"numeric.example", RefusedAddress, "10.1.2.3 is 10.1.2.3"},
		{"null.example", NullMX, "domain null.example takes no mail (null MX, RFC 7505)"},
		{"null10.example", NullMX, "null MX"},
		{"servfail.example", Temporary, "MX query for servfail.example: SERVFAIL"},
		{"refused.example", Temporary, "REFUSED"},
		{"timeout.example", Temporary, "i/o timeout"},
		{"bare.example", NoAddress, "no MX record and no address"},
		{"nohost.example", NoAddress, "MX: gone.example, gone2.example"},
		{"deadmx.example", Temporary, "A query for dead.example: SERVFAIL"},
		{"onlyv6.example", NoAddress, "no mail exchanger with a usable address"},
		{"privmx.example", RefusedAddress, "priv.example is 192.168.0.1"},
		{"privdead.example", Temporary, "dead.example"},
		{"self.example", Loop, "loops back to this host (mail exchanger self.example is this host)"},
		{"selfaddr.example", Loop, "me.example is this host"},
		{"me.example", Loop, "loops back"},
		{"cnameloop.example", NoAddress, "no MX record"},
		{"unusable.example", NoAddress, "MX: "},
		{"", NoAddress, "not a domain name"},
		{"a b.example", NoAddress, "not a domain name"},
		{"a..example", NoAddress, "not a domain name"},
		{strings.Repeat("a", 64) + ".example", NoAddress, "not a domain name"},
		{strings.Repeat("a.", 130) + "example", NoAddress, "not a domain name"},
		{"\xff.example", NoAddress, "not a domain name"},
		{"[127.0.0.1]", RefusedAddress, "[127.0.0.1]"},
		{"[IPv6:::ffff:127.0.0.1]", RefusedAddress, "[127.0.0.1]"},
		{"[192.0.2.250]", Loop, "[192.0.2.250]"},
		{"[IPv6:2001:db8::1]", NoAddress, "protocol is not in use"},
		{"[192.0.2.1", NoAddress, "closing bracket"},
		{"[2001:db8::1]", NoAddress, "not an address literal"},
		{"[IPv6:192.0.2.1]", NoAddress, "not an address literal"},
		{"[IPv6:2001:db8::1%eth0]", NoAddress, "not an address literal"},
		{"[x:y]", NoAddress, "not an address literal"},
	}
	for _, tt := range tests {
		t.Run(tt.domain, func(t *testing.T) {
			t.Parallel()
			r := newResolver(t, newFake(z), func(o *Options) {
				o.Protocols = []string{"ipv4"}
				o.SelfNames = []string{"self.example"}
				o.SelfAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.250")}
			})
			p, err := r.Lookup(t.Context(), tt.domain)
			if err == nil {
				t.Fatalf("found %s", show(p))
			}
			if got := reasonOf(t, err); got != tt.reason {
				t.Errorf("reason %v, want %v (%v)", got, tt.reason, err)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not say %q", err, tt.text)
			}
		})
	}
}

func TestRefusedRanges(t *testing.T) {
	t.Parallel()
	allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("fd00:1::/32")}
	r := newResolver(t, newFake(nil), func(o *Options) { o.Allow = allow })
	for addr, want := range map[string]bool{
		"0.0.0.0": true, "10.0.0.1": true, "100.64.0.1": true, "100.127.255.255": true, "127.0.0.1": true,
		"169.254.169.254": true, "172.16.0.1": true, "172.31.255.255": true, "192.0.0.1": true, "192.0.2.1": true,
		"192.168.1.1": true, "198.18.0.1": true, "198.19.255.255": true, "198.51.100.1": true, "203.0.113.1": true,
		"224.0.0.1": true, "239.255.255.255": true, "240.0.0.1": true, "255.255.255.255": true,
		"8.8.8.8": false, "100.63.255.255": false, "100.128.0.0": false, "172.15.255.255": false, "172.32.0.0": false,
		"192.0.1.1": false, "198.17.255.255": false, "223.255.255.255": false,
		"127.0.0.2": false, "::ffff:127.0.0.2": false, "fd00:1::1": false, "fd00:2::1": true,

		"::": true, "::1": true, "::7f00:1": true, "fe80::1": true, "fe80::1%lo": true, "2600::1%lo": true, "fec0::1": true,
		"fc00::1": true, "fdff::1": true, "ff02::1": true, "2001:db8::1": true, "2002:7f00:1::": true, "2001::1": true,
		"2001:10::1": true, "3fff::1": true, "100::1": true, "64:ff9b:1::1": true, "5f00::1": true,
		"::ffff:10.0.0.1": true, "::ffff:8.8.8.8": false,
		"64:ff9b::7f00:1": true, "64:ff9b::a00:1": true, "64:ff9b::808:808": false, "64:ff9b::7f00:2": false,
		"2001:200::1": false, "2a00:1450::1": false, "2600::1": false,
	} {
		if got := r.refuses(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s refused: %v, want %v", addr, got, want)
		}
	}
}

// What clouds keep at well-known addresses, and every IPv6 form that carries an
// IPv4 address there; their neighbours are ordinary hosts.
func TestWhatCloudsKeepIsRefused(t *testing.T) {
	t.Parallel()
	r := newResolver(t, newFake(nil))
	for _, a := range []string{
		"168.63.129.16",                                                                                         // Azure
		"169.254.169.254", "169.254.169.253", "169.254.170.2", "fd00:ec2::254", "fd00:ec2::23", "fd00:ec2::253", // AWS
		"fd20:ce::254", "199.36.153.4", "199.36.153.7", "199.36.153.8", "199.36.153.11", // Google
		"192.0.0.192", "fd00:c1::a9fe:a9fe", // Oracle
		"100.100.100.200", "100.100.2.136", "fd00:100::100:200", // Alibaba
		"169.254.0.23", "169.254.10.10", // Tencent
		"161.26.0.10", "161.26.255.255", "166.8.0.1", "166.11.255.255", // IBM
		"169.254.42.42", "fd00:42::42", "fd00:a9fe:a9fe::1", "fe80::a9fe:a9fe", // Scaleway, Akamai, OpenStack
	} {
		addr := netip.MustParseAddr(a)
		forms := []netip.Addr{addr}
		if addr.Is4() {
			b := addr.As4()
			for _, form := range []struct {
				head string // the prefix
				at   int    // where the address stands in it
			}{
				{"::ffff:0:0", 12},   // IPv4-mapped
				{"::", 12},           // IPv4-compatible
				{"::ffff:0:0:0", 12}, // IPv4-translated, RFC 2765
				{"64:ff9b::", 12},    // NAT64, RFC 6052
				{"64:ff9b:1::", 12},  // NAT64 of the network's own, RFC 8215
				{"2002::", 2},        // 6to4, RFC 3056
				{"2001::", 4},        // Teredo's server, RFC 4380
			} {
				x := netip.MustParseAddr(form.head).As16()
				copy(x[form.at:], b[:])
				forms = append(forms, netip.AddrFrom16(x))
			}
			x := netip.MustParseAddr("2001::").As16() // Teredo's client, its bits inverted
			for i := range b {
				x[12+i] = ^b[i]
			}
			forms = append(forms, netip.AddrFrom16(x))
		}
		for _, f := range forms {
			if !r.refuses(f) {
				t.Errorf("%s, a form of %s, is not refused", f, a)
			}
		}
	}
	for _, a := range []string{"168.63.129.15", "168.63.129.17", "161.25.255.255", "161.27.0.0", "166.7.255.255", "166.12.0.0", "199.36.153.3", "199.36.153.12"} {
		if r.refuses(netip.MustParseAddr(a)) {
			t.Errorf("%s is refused", a)
		}
	}
	listed := newResolver(t, newFake(nil), func(o *Options) { o.Allow = []netip.Prefix{netip.MustParsePrefix("161.26.0.0/16")} })
	if listed.refuses(netip.MustParseAddr("161.26.0.10")) {
		t.Error("refused although the admin lists it")
	}
}

func TestUnusedProtocolIsNotAsked(t *testing.T) {
	t.Parallel()
	f := newFake(zone{
		"d.example MX":    {"300 MX 10 mx.example."},
		"mx.example A":    {"300 A 192.0.2.1"},
		"mx.example AAAA": {"300 AAAA 2001:db8::1", "300 AAAA ::ffff:192.0.2.2"},
	})
	r := newResolver(t, f, func(o *Options) { o.Protocols = []string{"ipv6"} })
	p, err := r.Lookup(t.Context(), "d.example")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(p), "mx.example=2001:db8::1"; got != want {
		t.Errorf("hosts %q, want %q", got, want)
	}
	if n := f.count("mx.example A"); n != 0 {
		t.Errorf("%d queries for IPv4 addresses", n)
	}
}

func TestAddressOrder(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	p := &Plan{Hosts: []Host{
		{Name: "a", Preference: 10, Addrs: []netip.Addr{addr("2001:db8::1"), addr("2001:db8::2"), addr("192.0.2.1")}},
		{Name: "b", Preference: 10, Addrs: []netip.Addr{addr("192.0.2.2")}},
		{Name: "c", Preference: 20, Addrs: []netip.Addr{addr("192.0.2.3")}},
	}}
	orders := make(map[string]int)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		var s []string
		for _, a := range p.Addresses(rng) {
			s = append(s, fmt.Sprintf("%s:%s", a.Host, a.Addr))
		}
		orders[strings.Join(s, " ")]++
	}
	want := []string{
		"a:2001:db8::1 a:2001:db8::2 a:192.0.2.1 b:192.0.2.2 c:192.0.2.3",
		"a:2001:db8::2 a:2001:db8::1 a:192.0.2.1 b:192.0.2.2 c:192.0.2.3",
		"b:192.0.2.2 a:2001:db8::1 a:2001:db8::2 a:192.0.2.1 c:192.0.2.3",
		"b:192.0.2.2 a:2001:db8::2 a:2001:db8::1 a:192.0.2.1 c:192.0.2.3",
	}
	for order, n := range orders {
		if !slices.Contains(want, order) {
			t.Errorf("order %q", order)
		}
		if n < 50 { // of 100 expected
			t.Errorf("order %q only %d times in 400", order, n)
		}
	}
	if len(orders) != len(want) {
		t.Errorf("%d orders, want %d", len(orders), len(want))
	}
	if got := p.Addresses(nil); len(got) != 5 || got[4].Host != "c" {
		t.Errorf("without a generator: %v", got)
	}
	if got, want := p.Key(), "a,b;c"; got != want {
		t.Errorf("key of a hand-made plan %q, want %q", got, want)
	}
}

func TestDomainsWithTheSameExchangersShareAKey(t *testing.T) {
	t.Parallel()
	r := newResolver(t, newFake(zone{
		"one.example MX":   {"300 MX 10 a.example.", "300 MX 20 b.example."},
		"two.example MX":   {"300 MX 7 B.example.", "300 MX 5 A.example."},
		"three.example MX": {"300 MX 5 b.example.", "300 MX 5 a.example."},
		"a.example A":      {"300 A 192.0.2.1"},
		"b.example A":      {"300 A 192.0.2.2"},
	}))
	var keys []string
	for _, d := range []string{"one.example", "two.example", "three.example"} {
		p, err := r.Lookup(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, p.Key())
		if got := p.Names(); !slices.Contains(got, "a.example") || !slices.Contains(got, "b.example") || len(got) != 2 {
			t.Errorf("names of %s: %v", d, got)
		}
	}
	if keys[0] != keys[1] || keys[0] == keys[2] {
		t.Errorf("keys %q", keys)
	}
}

func TestManyRecordsAreCut(t *testing.T) {
	t.Parallel()
	z := zone{}
	for i := range 100 {
		z["big.example MX"] = append(z["big.example MX"], fmt.Sprintf("300 MX %d mx%d.example.", i, i))
		z["mx0.example A"] = append(z["mx0.example A"], fmt.Sprintf("300 A 192.0.2.%d", i+1))
	}
	f := newFake(z)
	p, err := newResolver(t, f).Lookup(t.Context(), "big.example")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.MX) != maxExchangers || len(p.Hosts[0].Addrs) != maxAddresses || f.count("mx99.example A") != 0 {
		t.Errorf("%d exchangers, %d addresses", len(p.MX), len(p.Hosts[0].Addrs))
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Protocols: []string{"ipv5"}},
		{Resolvers: []string{"dns.example:53"}},
		{Resolvers: []string{"192.0.2.1:0"}},
		{Resolvers: []string{""}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestLookupEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFake(zone{})
	f.hold = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newResolver(t, f).Lookup(ctx, "d.example")
	if reasonOf(t, err) != Temporary || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
