package main

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// zone is a DNS: names of addresses, addresses of names.
type zone struct{ reverse, forward map[string][]string }

func (z zone) LookupAddr(_ context.Context, addr string) ([]string, error) {
	switch list := z.reverse[addr]; {
	case list == nil:
		return nil, &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}
	case list[0] == "SERVFAIL":
		return nil, &net.DNSError{Err: "server misbehaving", Name: addr, IsTemporary: true}
	default:
		return list, nil
	}
}

func (z zone) LookupNetIP(_ context.Context, _, host string) (list []netip.Addr, err error) {
	for _, a := range z.forward[host] {
		list = append(list, netip.MustParseAddr(a))
	}
	return list, nil
}

func TestIdentityIsForwardConfirmed(t *testing.T) {
	t.Parallel()
	z := zone{
		reverse: map[string][]string{
			"198.51.100.1": {"mail.example.com."}, "198.51.100.2": {"other.example.net.", "mail.example.com."},
			"198.51.100.3": {"host3.provider.example."}, "198.51.100.4": {"liar.example."}, "198.51.100.6": {"SERVFAIL"},
		},
		forward: map[string][]string{
			"mail.example.com": {"198.51.100.1", "198.51.100.2"}, "other.example.net": {"198.51.100.2"},
			"host3.provider.example": {"198.51.100.3"}, "liar.example": {"203.0.113.9"},
		},
	}
	for addr, want := range map[string]string{
		"198.51.100.1": "", "198.51.100.2": "", "10.0.0.1": "",
		"198.51.100.3": `which is host3.provider.example, and greets as mail.example.com`,
		"198.51.100.4": "whose name liar.example does not resolve back to it",
		"198.51.100.5": "which has no name (PTR record)",
		"198.51.100.6": "could not be looked up",
	} {
		c := &config.Config{Hostname: "mail.example.com", Agent: config.Agent{SourceAddresses: []netip.Addr{netip.MustParseAddr(addr)}}}
		got := strings.Join(identity(t.Context(), c, z), "\n")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}

// Each address of a pool greets with its own name, and is looked at like the others.
func TestIdentityOfPools(t *testing.T) {
	t.Parallel()
	z := zone{
		reverse: map[string][]string{"198.51.100.1": {"out1.example.com."}, "198.51.100.2": {"out1.example.com."}},
		forward: map[string][]string{"out1.example.com": {"198.51.100.1", "198.51.100.2"}},
	}
	c := &config.Config{Hostname: "mail.example.com", General: config.Queue{Pool: "news"}, Pools: []config.Pool{{
		Name: "news", File: "millrace.toml", Line: 3,
		Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")},
		Hostnames: []string{"out1.example.com", "out2.example.com"},
	}}}
	got := identity(t.Context(), c, z)
	if len(got) != 1 || !strings.Contains(got[0], "198.51.100.2, which is out1.example.com, and greets as out2.example.com") {
		t.Errorf("%q", got)
	}
	got = absent(c, func(a netip.Addr) bool { return a == netip.MustParseAddr("198.51.100.1") })
	if len(got) != 1 || !strings.HasPrefix(got[0], `millrace.toml:3: pool "news": 198.51.100.2 is not an address of this host`) || !strings.Contains(got[0], "; remedy: ") {
		t.Errorf("%q", got)
	}
	if isHere(netip.MustParseAddr("192.0.2.77")) || !isHere(netip.MustParseAddr("127.0.0.1")) {
		t.Error("what can be bound is not what is here")
	}
}
