package settings

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/sites"
)

// Without [[pool]] each of 10,000 domains has the addresses, the site and the destination that the
// agent before there were pools gave it: these sums are of that agent's answers.
func TestWithoutPoolsEachDomainKeepsItsAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sources []netip.Addr
		sum     string
	}{
		{nil, "efcc641b91ac6237"},
		{addresses("192.0.2.1"), "abaff559ec4d247d"},
		{addresses("192.0.2.1", "192.0.2.2", "192.0.2.3"), "69c9e563e89d5a0f"},
		{addresses("192.0.2.1", "2001:db8::1"), "5c6afd63d25f11c5"},
		{addresses("2001:db8::1", "192.0.2.1", "192.0.2.2", "2001:db8::2", "2001:db8::3"), "09ba4af631869c3b"},
	} {
		c := &config.Config{Hostname: "mail.test", Agent: config.Agent{SourceAddresses: tt.sources}}
		s := &Settings{Config: c, Sites: sites.New()}
		q := &config.Queue{Name: "general", TLS: config.TLSOpportunistic}
		sum := fnv.New64a()
		for i := range 10_000 {
			domain := fmt.Sprintf("d%d.example", i)
			host := route.Host{Name: fmt.Sprintf("mx%d.h%d.example", i%3, i/7)}
			if i%3 != 1 {
				host.Addrs = append(host.Addrs, netip.AddrFrom4([4]byte{198, 51, byte(i / 7 >> 8), byte(i / 7)}))
			}
			if i%3 != 0 {
				host.Addrs = append(host.Addrs, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 9, byte(i / 7 >> 8), byte(i / 7)}))
			}
			rt := s.MXRoute(domain, q, &route.Plan{Domain: domain, Hosts: []route.Host{host}})
			fmt.Fprintln(sum, domain, rt.Sources, rt.Site, rt.Key)
		}
		if got := fmt.Sprintf("%016x", sum.Sum64()); got != tt.sum {
			t.Errorf("%v: %s, want %s", tt.sources, got, tt.sum)
		}
	}
}
