package settings

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/sites"
)

// What receivers have learned of a domain's mail from an address stays true over
// an upgrade: a domain has the address that the first release gave it wherever that
// could reach its hosts, and with it a site of its own.
func TestDomainsKeepTheAddressTheyHad(t *testing.T) {
	t.Parallel()
	four, six, both := addresses("192.0.2.1"), addresses("2001:db8::1"), addresses("192.0.2.1", "2001:db8::1")
	before := func(pool []netip.Addr, name string) netip.Addr {
		h := fnv.New32a()
		h.Write([]byte(name))
		return pool[h.Sum32()%uint32(len(pool))]
	}
	for _, pool := range [][]netip.Addr{
		addresses("198.51.100.1"),
		addresses("198.51.100.1", "198.51.100.2"),
		addresses("198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5", "198.51.100.6", "198.51.100.7"),
		addresses("2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::3"),
		addresses("198.51.100.1", "2001:db8:1::1"),
		addresses("198.51.100.1", "2001:db8:1::1", "198.51.100.2", "2001:db8:1::2"),
	} {
		s := &Settings{Config: &config.Config{Agent: config.Agent{SourceAddresses: pool}}, Sites: sites.New()}
		used := make(map[netip.Addr]int) // by domains with IPv4 hosts, or IPv6 hosts, alone
		for i := range 10_000 {
			name := fmt.Sprintf("d%d.example", i)
			had := before(pool, name)
			for _, hosts := range [][]netip.Addr{four, six, both} {
				plan := &route.Plan{Domain: name, Hosts: []route.Host{{Name: "mx.example", Addrs: hosts}}}
				rt := s.MXRoute(name, &config.Queue{Name: "general"}, plan)
				for _, h := range hosts {
					from := rt.Source(h)
					if from.IsValid() && from.Is4() != h.Is4() {
						t.Fatalf("pool %v, %s: from %v to %v", pool, name, from, h)
					}
					if has := slices.ContainsFunc(pool, func(a netip.Addr) bool { return a.Is4() == h.Is4() }); has != from.IsValid() {
						t.Fatalf("pool %v, %s: from %v to %v", pool, name, from, h)
					}
					named := strings.HasPrefix(rt.Site, "mx.example") && strings.HasSuffix(rt.Site, ":"+had.String()) == (len(pool) > 1)
					if h.Is4() == had.Is4() && (from != had || !named) {
						t.Fatalf("pool %v, %s: from %v, site %q; it was from %v", pool, name, from, rt.Site, had)
					}
					if len(hosts) == 1 && from.IsValid() {
						used[from]++
					}
				}
			}
		}
		for _, a := range pool {
			family := 0
			for _, b := range pool {
				if a.Is4() == b.Is4() {
					family++
				}
			}
			if n := used[a]; n < 9_000/family || n > 11_000/family {
				t.Errorf("pool %v: %v has %d of 10000 domains of its family", pool, a, n)
			}
		}
	}
}

func TestEachSourceAddressHasItsName(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	c := &config.Config{Hostname: "mail.test", Agent: config.Agent{SourceAddresses: []netip.Addr{a, b}}}
	for source, want := range map[netip.Addr][2]string{a: {"mail.test", "out1.test"}, b: {"mail.test", "out2.test"}, {}: {"mail.test", "mail.test"}} {
		c.Agent.SourceHostnames = nil
		if got := (&Settings{Config: c}).hello(source); got != want[0] {
			t.Errorf("%v: %q", source, got)
		}
		c.Agent.SourceHostnames = []string{"out1.test", "out2.test"}
		if got := (&Settings{Config: c}).hello(source); got != want[1] {
			t.Errorf("%v: %q", source, got)
		}
	}
}

func addresses(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}
