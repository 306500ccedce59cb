package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Queue returns the queue of that name, "general" for the general one; nil if
// there is none.
func (c *Config) Queue(name string) *Queue {
	if name == generalName {
		return &c.General
	}
	for i := range c.Queues {
		if c.Queues[i].Name == name {
			return &c.Queues[i]
		}
	}
	return nil
}

// Match returns the specific queue that lists a domain; nil means the general
// queue, unless the domain's mail exchangers say otherwise (MatchMX). Case does
// not matter, U-labels and A-labels mean the same, a final dot is ignored. A
// listed "*.example.com" takes every subdomain that nothing longer takes.
func (c *Config) Match(domain string) *Queue {
	return c.domains.match(domain)
}

// MatchMX returns the first queue, in the order of the files, whose mx patterns
// match every one of a domain's mail exchangers; nil if there is none or hosts
// is empty. Ask Match first: a listed domain stays where it is listed.
func (c *Config) MatchMX(hosts []string) *Queue {
	if len(hosts) == 0 {
		return nil
	}
	for i := range c.Queues {
		if c.Queues[i].claims(hosts) {
			return &c.Queues[i]
		}
	}
	return nil
}

func (q *Queue) claims(hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(host string) bool { return !MatchesAny(q.MX, host) })
}

// MatchesAny reports whether one of a queue's mx patterns matches the name of a host.
func MatchesAny(patterns []string, host string) bool {
	host = strings.TrimSuffix(host, ".")
	return slices.ContainsFunc(patterns, func(glob string) bool { return matchGlob(glob, host) })
}

// matchGlob reports whether the whole of s matches the glob: * is any run of
// characters, the empty one and dots too, ? is any one character, everything
// else is itself, and case does not matter.
func matchGlob(glob, s string) bool {
	g, t := []rune(strings.ToLower(glob)), []rune(strings.ToLower(s))
	// On a mismatch, let the last star take one character more and go on from
	// there. Earlier stars need no second look, so the time is at most the
	// product of the two lengths, whatever a hostile header holds.
	gi, ti, star, mark := 0, 0, -1, 0
	for ti < len(t) {
		switch {
		case gi < len(g) && g[gi] == '*':
			star, mark = gi, ti
			gi++
		case gi < len(g) && (g[gi] == '?' || g[gi] == t[ti]):
			gi++
			ti++
		case star >= 0:
			mark++
			gi, ti = star+1, mark
		default:
			return false
		}
	}
	for gi < len(g) && g[gi] == '*' {
		gi++
	}
	return gi == len(g)
}

// domainSet maps listed domains to the queue that lists them. A wildcard
// "*.example.com" is stored as ".example.com", so that a lookup needs slices only.
type domainSet map[string]*Queue

// domainKey is the key of a listed domain.
func domainKey(listed string) string { return strings.TrimPrefix(listed, "*") }

func (d domainSet) match(domain string) *Queue {
	domain = strings.TrimSuffix(domain, ".")
	if isASCII(domain) {
		domain = strings.ToLower(domain)
	} else if a, err := toALabels(domain); err == nil {
		domain = a
	}
	if q := d[domain]; q != nil {
		return q
	}
	for rest := domain; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			return nil
		}
		if q := d[rest[i:]]; q != nil {
			return q
		}
		rest = rest[i+1:]
	}
}

// ListedDomain returns a domain of a list in the form that is compared: lower
// case A-labels, no final dot, "*." kept in front.
func ListedDomain(s string) (string, error) {
	if rest, ok := strings.CutPrefix(s, "."); ok {
		return "", fmt.Errorf("%q is not a domain; remedy: for all subdomains write \"*.%s\"", s, rest)
	}
	star := ""
	domain := strings.TrimSuffix(s, ".")
	if rest, ok := strings.CutPrefix(domain, "*."); ok {
		star, domain = "*.", rest
	}
	switch {
	case strings.Contains(domain, "@"):
		return "", fmt.Errorf("%q is an address; remedy: list its domain only", s)
	case strings.ContainsAny(domain, "*?"):
		return "", fmt.Errorf("%q has a wildcard inside; remedy: only \"*.\" in front of a domain is understood", s)
	}
	if lower := strings.ToLower(domain); isASCII(lower) && isHostname(strings.ReplaceAll(lower, "_", "x")) {
		return star + lower, nil // Postfix delivers to names with an underscore, though RFC 5321 has none
	}
	domain, err := asciiDomain(domain)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain: %w; remedy: write it like \"example.com\"", s, err)
	}
	return star + domain, nil
}

// asciiDomain returns a domain as lower case A-labels (RFC 5891).
func asciiDomain(s string) (string, error) {
	if !isASCII(s) {
		a, err := toALabels(s)
		if err != nil {
			return "", err
		}
		s = a
	}
	s = strings.ToLower(s)
	if !isHostname(s) {
		return "", errors.New("labels of letters, digits and hyphens, separated by dots, are expected")
	}
	return s, nil
}

// IsHostname reports whether s can stand in hostname.
func IsHostname(s string) bool { return isHostname(s) }

// isHostname reports whether s follows the syntax of RFC 1123 2.1. A last label
// of digits only is refused, since it would be read as an address.
func isHostname(s string) bool {
	if strings.Trim(s[strings.LastIndexByte(s, '.')+1:], "0123456789") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return len(s) <= 253
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
