package postconf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// TestSourceIsTheAddressPostfixBindsTo: inet_interfaces needs addresses that the
// host has, so postconf is not asked here.
func TestSourceIsTheAddressPostfixBindsTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		interfaces, bind, sources, protocols string
		want                                 []string // remedies
	}{
		{"all", "", "", "ipv4 ipv6", nil},
		{"loopback-only", "", "", "ipv4", nil},
		{"127.0.0.1", "", "", "ipv4", nil},
		{"mail.example.com", "", "", "ipv4", nil},
		{"192.0.2.7", "", "", "ipv4", []string{`["192.0.2.7"]`}},
		{"192.0.2.7", "", "192.0.2.7", "ipv4", nil},
		{"192.0.2.7", "", "192.0.2.6 192.0.2.7", "ipv4", nil},
		{"192.0.2.7, 192.0.2.8", "", "", "ipv4", nil},
		{"192.0.2.7, [2001:db8::7]", "", "", "ipv4 ipv6", []string{`["192.0.2.7"]`, `["2001:db8::7"]`}},
		{"192.0.2.7, [2001:db8::7]", "", "2001:db8::1", "ipv4 ipv6", []string{`["192.0.2.7", "2001:db8::1"]`, `["2001:db8::7"]`}},
		{"192.0.2.7, 2001:db8::7", "", "", "ipv6", []string{`["2001:db8::7"]`}},
		{"192.0.2.7", "192.0.2.1", "", "ipv4", []string{`["192.0.2.1"]`}},
		{"all", "192.0.2.1", "192.0.2.1", "ipv4", nil},
	} {
		p := &Postfix{main: map[string]string{"inet_interfaces": c.interfaces, "smtp_bind_address": c.bind}}
		cfg := &config.Config{Agent: config.Agent{Protocols: strings.Fields(c.protocols)}}
		for _, s := range strings.Fields(c.sources) {
			cfg.Agent.SourceAddresses = append(cfg.Agent.SourceAddresses, netip.MustParseAddr(s))
		}
		var got []string
		for _, f := range p.source(cfg, nil) {
			got = append(got, strings.TrimPrefix(f.Remedy, "set [agent] source_addresses = "))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
