package route

import "net/netip"

// refusedRanges are the special-purpose ranges (IANA registries, RFC 6890), and
// what clouds keep elsewhere, that no mail of ours goes to unless the admin lists
// them: a domain's owner chooses its addresses, and must not make us talk to what
// only this host can reach.
var refusedRanges = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carrier-grade NAT
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), // link-local, cloud metadata
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), // documentation
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarking
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast

	// Not special-purpose by any registry, but kept by clouds for what only their
	// customers' machines reach. What else they keep lies in the ranges above:
	// 169.254.0.0/16 (metadata nearly everywhere), 100.64.0.0/10 (Alibaba's
	// 100.100.100.200), 192.0.0.0/24 (Oracle Classic's 192.0.0.192); and in IPv6
	// outside globalV6 (the ULAs fd00:ec2::254 of AWS, fd20:ce::254 of Google,
	// fd00:c1::a9fe:a9fe of Oracle, fd00:100::100:200 of Alibaba, fd00:42::42 of
	// Scaleway, fd00:a9fe:a9fe::1 of Akamai).
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's platform: learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
	netip.MustParsePrefix("161.26.0.0/16"),    // IBM Cloud's infrastructure services: cloud.ibm.com/docs/vpc, service endpoints
	netip.MustParsePrefix("166.8.0.0/14"),     // IBM Cloud's service endpoints: the same
	netip.MustParsePrefix("199.36.153.4/30"),  // restricted.googleapis.com: cloud.google.com/vpc/docs/configure-private-google-access
	netip.MustParsePrefix("199.36.153.8/30"),  // private.googleapis.com: the same

	netip.MustParsePrefix("2001::/23"),     // IETF protocols: Teredo, ORCHID, benchmarking
	netip.MustParsePrefix("2001:db8::/32"), // documentation
	netip.MustParsePrefix("2002::/16"),     // 6to4: any IPv4 address inside
	netip.MustParsePrefix("3fff::/20"),     // documentation
}

var (
	// globalV6 is all that is allocated as global unicast. What lies outside
	// (loopback, ULA, link-local, site-local, multicast, v4-compatible) is refused.
	globalV6 = netip.MustParsePrefix("2000::/3")
	// nat64 holds IPv4 addresses in its last 32 bits (RFC 6052). A DNS64
	// resolver gives such addresses for ordinary hosts.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// refuses reports whether no mail may go to an address.
func (r *Resolver) refuses(a netip.Addr) bool {
	if a.Zone() != "" { // no prefix ever contains an address with a zone
		return true
	}
	a = a.Unmap()
	if r.allowed(a) {
		return false
	}
	if nat64.Contains(a) {
		b := a.As16()
		return r.refuses(netip.AddrFrom4([4]byte(b[12:])))
	}
	if a.Is6() && !globalV6.Contains(a) {
		return true
	}
	for _, p := range refusedRanges {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (r *Resolver) allowed(a netip.Addr) bool {
	for _, p := range r.allow {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Special reports whether an address is loopback, link-local, private or otherwise special:
// no stranger's name for it may have us connect to it.
func Special(a netip.Addr) bool { return new(Resolver).refuses(a) }
