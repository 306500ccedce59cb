package route

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// domainName returns a domain as the DNS is asked for it: lower case A-labels
// without a final dot.
func domainName(domain string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(domain, "."))
	if !ascii(name) {
		// Only names with other letters pass through IDNA: its rules for ASCII
		// are stricter than what the DNS holds (underscores, hyphens 3 and 4).
		a, err := toALabels(name)
		if err != nil {
			return "", fmt.Errorf("not a domain name: %w", err)
		}
		name = a
	}
	if !isHostName(name) {
		return "", errors.New("not a domain name")
	}
	return name, nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// isHostName reports whether a lower case name can be a host's: letters,
// digits, hyphens and the underscore that is seen in practice. The DNS can hold
// any octets; such names would only trouble logs and TLS.
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// parseLiteral reads an address literal with its brackets (RFC 5321 section
// 4.1.3). A v4-mapped IPv6 address is the IPv4 address in it.
func parseLiteral(s string) (netip.Addr, error) {
	in, ok := strings.CutSuffix(strings.TrimPrefix(s, "["), "]")
	if !ok {
		return netip.Addr{}, errors.New("address literal without closing bracket")
	}
	v6 := false
	if len(in) > 5 && strings.EqualFold(in[:5], "IPv6:") {
		in, v6 = in[5:], true
	}
	a, err := netip.ParseAddr(in)
	if err != nil || a.Is4() == v6 || a.Zone() != "" {
		return netip.Addr{}, errors.New("not an address literal")
	}
	return a.Unmap(), nil
}
