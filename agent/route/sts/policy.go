package sts

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mode says how a policy is to be applied.
type Mode string

// The modes of RFC 8461 section 5.
const (
	Enforce Mode = "enforce" // only matching hosts, only with a valid certificate
	Testing Mode = "testing" // as ever, but failures are reported
	None    Mode = "none"    // the domain gives MTA-STS up
)

// maxMaxAge is the longest a policy may count: about a year (RFC 8461 section 3.2).
const maxMaxAge = 31557600 * time.Second

// Policy is a domain's policy as it was fetched.
type Policy struct {
	ID      string // of the TXT record that announced it
	Mode    Mode
	MX      []string // host names and "*.example.com", lower case
	Fetched time.Time
	MaxAge  time.Duration
}

// leastLife is how long a policy counts at least, whatever max_age it names: one of 0
// seconds would be over before the first message has gone by it, and be fetched for each.
const leastLife = 10 * time.Minute

// life is how long the policy counts.
func (p *Policy) life() time.Duration { return max(p.MaxAge, leastLife) }

// refresh is the age from which it is fetched anew.
func (p *Policy) refresh() time.Duration { return min(refreshAfter, p.life()/2) }

// Expires is when the policy counts no longer.
func (p *Policy) Expires() time.Time { return p.Fetched.Add(p.life()) }

// Matches reports whether a mail exchanger is one the policy names. A wildcard
// stands for exactly one label (RFC 8461 section 4.1).
func (p *Policy) Matches(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, parent, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(p.MX, func(pattern string) bool {
		if rest, wild := strings.CutPrefix(pattern, "*."); wild {
			return parent != "" && parent == rest
		}
		return pattern == host
	})
}

// parsePolicy reads a policy document (RFC 8461 section 3.2). Of a key that
// stands there more than once the first counts, except mx; unknown keys, and mx
// that can be no host, are passed over.
func parsePolicy(text string) (*Policy, error) {
	p := &Policy{}
	seen := make(map[string]bool)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n \t")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %q is not \"key: value\"", clip(line))
		}
		key, value = strings.TrimRight(key, " \t"), strings.Trim(value, " \t")
		if key != "mx" && seen[key] {
			continue
		}
		seen[key] = true
		switch key {
		case "version":
			if value != "STSv1" {
				return nil, fmt.Errorf("version %q is not STSv1", clip(value))
			}
		case "mode":
			p.Mode = Mode(value)
			if p.Mode != Enforce && p.Mode != Testing && p.Mode != None {
				return nil, fmt.Errorf("mode %q is unknown", clip(value))
			}
		case "max_age":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("max_age %q is not a number of seconds", clip(value))
			}
			p.MaxAge = min(time.Duration(n)*time.Second, maxMaxAge)
		case "mx":
			pattern := strings.ToLower(strings.TrimSuffix(value, "."))
			if isName(strings.TrimPrefix(pattern, "*.")) {
				p.MX = append(p.MX, pattern)
			}
		}
	}
	switch {
	case !seen["version"]:
		return nil, errors.New("no version")
	case p.Mode == "":
		return nil, errors.New("no mode")
	case !seen["max_age"]:
		return nil, errors.New("no max_age")
	case len(p.MX) == 0 && p.Mode != None:
		return nil, errors.New("no mx")
	}
	return p, nil
}

// isName reports whether a lower case pattern's name can be a host's; no other matches one.
func isName(s string) bool {
	return len(s) <= 253 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" &&
		!strings.HasPrefix(s, ".") && !strings.HasSuffix(s, ".") && !strings.Contains(s, "..") && s != ""
}

// recordID returns the id of a domain's TXT records at _mta-sts (RFC 8461
// section 3.1): "" unless exactly one of them is a valid STSv1 record.
func recordID(records []string) string {
	var found []string
	for _, r := range records {
		if r == "v=STSv1" || strings.HasPrefix(r, "v=STSv1;") || strings.HasPrefix(r, "v=STSv1 ") {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return ""
	}
	for field := range strings.SplitSeq(found[0], ";") {
		key, value, _ := strings.Cut(strings.Trim(field, " \t"), "=")
		if key != "id" {
			continue
		}
		if value == "" || len(value) > 32 || strings.Trim(strings.ToLower(value), "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return ""
		}
		return value
	}
	return ""
}

// clip keeps what a stranger wrote short in an error.
func clip(s string) string { return s[:min(len(s), 80)] }
