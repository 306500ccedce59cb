package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/settings"
)

// names is the part of the DNS that identity asks.
type names interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dnsTime bounds all look-ups of a check.
const dnsTime = 10 * time.Second

// resolver asks the servers that the agent asks.
func resolver(c *config.Config) records {
	if len(c.Agent.Resolvers) == 0 {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.Agent.Resolvers[0])
	}}
}

// identity says where an address that mail leaves from and the name it greets with do
// not belong together: big receivers want the address to resolve to a name, and that
// name back to the address (forward-confirmed reverse DNS), and the greeting to be
// it. Addresses that receivers never see, behind a NAT, are left out.
func identity(ctx context.Context, c *config.Config, dns names) (wrong []string) {
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	for _, s := range greetings(c) {
		if s.addr.IsPrivate() || s.addr.IsLoopback() || s.addr.IsLinkLocalUnicast() {
			continue
		}
		if w := identityOf(ctx, s.addr, s.hello, dns); w != "" {
			wrong = append(wrong, w)
		}
	}
	return wrong
}

// greeting is an address that mail leaves from, and what it greets with.
type greeting struct {
	addr  netip.Addr
	hello string
}

// greetings are those of source_addresses and of all pools; where some mail has none of these,
// also what the system would send from.
func greetings(c *config.Config) (list []greeting) {
	add := func(addrs []netip.Addr, hellos []string) {
		for i, addr := range addrs {
			g := greeting{addr, c.Hostname}
			if i < len(hellos) {
				g.hello = hellos[i]
			}
			list = append(list, g)
		}
	}
	sources := c.Agent.SourceAddresses
	if len(sources) == 0 && c.General.Pool == "" {
		sources = defaultSources(c)
	}
	add(sources, c.Agent.SourceHostnames)
	for i := range c.Pools {
		add(c.Pools[i].Addresses, c.Pools[i].Hostnames)
	}
	return list
}

// absent says which addresses of pools are not this host's at the moment. They may come later
// (VRRP, IPv6), and the agent starts without them.
func absent(c *config.Config, here func(netip.Addr) bool) (wrong []string) {
	for i := range c.Pools {
		p := &c.Pools[i]
		for _, a := range p.Addresses {
			if !here(a) {
				wrong = append(wrong, fmt.Sprintf("%s:%d: pool %q: %s is not an address of this host at the moment: until it is, mail leaves from others of the pool, or waits where there are none; remedy: give the host the address, or take it out of addresses",
					p.File, p.Line, p.Name, a))
			}
		}
	}
	return wrong
}

// isHere says whether an address can be bound.
func isHere(a netip.Addr) bool {
	p := settings.NewPresence()
	p.Look([]netip.Addr{a})
	return p.Here(a)
}

func identityOf(ctx context.Context, addr netip.Addr, hello string, dns names) string {
	const remedy = "; remedy: have whoever gives you the address point it to %s, and that name to the address"
	found, err := dns.LookupAddr(ctx, addr.String())
	var no *net.DNSError
	if errors.As(err, &no) && !no.IsNotFound {
		return fmt.Sprintf("mail leaves from %s; whether that is %s could not be looked up: %v", addr, hello, err)
	}
	confirmed := ""
	for _, name := range found {
		name = strings.TrimSuffix(name, ".")
		back, err := dns.LookupNetIP(ctx, "ip", name)
		if err != nil {
			continue
		}
		for _, b := range back {
			if b.Unmap() == addr && (confirmed == "" || strings.EqualFold(name, hello)) {
				confirmed = name
			}
		}
	}
	switch {
	case len(found) == 0:
		return fmt.Sprintf("mail leaves from %s, which has no name (PTR record): many receivers refuse that"+remedy, addr, hello)
	case confirmed == "":
		return fmt.Sprintf("mail leaves from %s, whose name %s does not resolve back to it: many receivers refuse that"+remedy, addr, strings.TrimSuffix(found[0], "."), hello)
	case !strings.EqualFold(confirmed, hello):
		return fmt.Sprintf("mail leaves from %s, which is %s, and greets as %s: some receivers distrust that; remedy: set hostname = %q, or have the address point to %s",
			addr, confirmed, hello, confirmed, hello)
	}
	return ""
}

// defaultSources are the addresses that the system would send from: none where it has
// no way to the internet. Nothing is sent to find out.
func defaultSources(c *config.Config) (list []netip.Addr) {
	for _, protocol := range c.Agent.Protocols {
		// Documentation's networks (RFC 5737, 3849) are routed as the internet is.
		far := "192.0.2.1:25"
		if protocol == "ipv6" {
			far = "[2001:db8::1]:25"
		}
		conn, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			list = append(list, a.Addr().Unmap())
		}
		conn.Close()
	}
	return list
}
