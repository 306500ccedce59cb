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
