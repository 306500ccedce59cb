package config

import (
	"fmt"
	"strings"
)

// Simulate has a receiver inside the agent, to try what becomes of outcomes: webhooks,
// suppression, charts. It is for no mail of anybody's.
type Simulate struct {
	// Domain is a domain below .test or .invalid, which no mail on the Internet can have
	// (RFC 2606). Mail for it and for what is below it goes to a receiver in the agent, and
	// no octet of it leaves the host. That does as the local part says, up to a "+" or "-":
	// "bounce" is refused for good, "defer" for now, "complain" is taken, and a complaint
	// comes back a second later; everybody else is taken. Events, outcomes and the log are
	// as those of others and say "simulated"; reports of bounces go to their senders. Only
	// what the milter diverts gets there. Where Postfix has reject_unknown_recipient_domain
	// before permit_mynetworks, put check_recipient_access inline:{simulated.test=permit_mynetworks}
	// before it: there is no such domain in the DNS. Default: none.
	Domain string `toml:"domain"`
}

// Simulates reports whether a domain's receiver is that of [simulate].
func (c *Config) Simulates(domain string) bool {
	d := c.Simulate.Domain
	if d == "" {
		return false
	}
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	return domain == d || strings.HasSuffix(domain, "."+d)
}

func (l *loader) checkSimulate(s *Simulate) {
	const path = "simulate.domain"
	if s.Domain == "" || l.bad[path] {
		return
	}
	domain, err := ListedDomain(s.Domain)
	if err != nil {
		l.fail(path, "domain: "+err.Error())
		return
	}
	if !strings.HasSuffix(domain, ".test") && !strings.HasSuffix(domain, ".invalid") || strings.HasPrefix(domain, "*") {
		l.fail(path, remedy(fmt.Sprintf("domain: mail for %q may be somebody's", s.Domain), `write a domain below .test or .invalid, like "simulated.test"`))
		return
	}
	s.Domain = domain
}
