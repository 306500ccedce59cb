package postconf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// This file is about whose mail it is: what the milter would take for mail of
// this host that it should not.

// reinjected looks for a port where a content filter gives mail back and that has
// our milter: all mail comes from loopback there, from wherever it came before,
// and with the recipients that aliases have become. Postfix does not say which
// port a filter uses; it is one on loopback that is set up as its FILTER_README
// and SMTPD_PROXY_README have it.
func (p *Postfix) reinjected(c *config.Config, m milters) []Finding {
	if !slices.Contains(c.Milter.Scope, "loopback") {
		return nil
	}
	filter := ""
	for i := range p.services {
		if s := &p.services[i]; filter == "" && (s.command == "smtpd" || s.command == "pickup") {
			filter = p.filter(s)
		}
	}
	var findings []Finding
	for _, s := range m.through {
		host := strings.Trim(strings.TrimSuffix(strings.TrimSuffix(s.name, port(s.name)), ":"), "[]")
		if filter == "" || s.kind != "inet" || !isLocalhost(host) || p.filter(s) != "" || !s.sets("content_filter", "smtpd_proxy_filter", "smtpd_authorized_xforward_hosts") {
			continue
		}
		findings = append(findings, Finding{Where: s.where(),
			Wrong:  fmt.Sprintf("if %s gives mail back here, Millrace takes mail from outside for this host's own, which has \"loopback\" in [milter] scope", filter),
			Remedy: postconfP(s, "smtpd_milters", "") + `, or write "daemon:NAME" for "loopback", with milter_macro_daemon_name=NAME where your own mail enters`})
	}
	return findings
}

// sets reports whether a service has one of these parameters of its own.
func (s *service) sets(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := s.set[name]; return ok })
}

// filter is the content filter that takes a service's mail, as it is set.
func (p *Postfix) filter(s *service) string {
	for _, name := range []string{"content_filter", "smtpd_proxy_filter"} {
		if v := p.value(s, name); v != "" {
			return name + "=" + v
		}
	}
	return ""
}

// domains looks at what the milter must know of mail of sendmail(1), for which
// Postfix does not say which recipients are its own.
func (p *Postfix) domains(c *config.Config, command bool) []Finding {
	if len(c.Milter.HostDomains) == 0 {
		if !command {
			return nil
		}
		return []Finding{{Where: "main.cf",
			Wrong:  "non_smtpd_milters has Millrace, but [milter] host_domains is empty: mail of sendmail(1) stays with Postfix",
			Remedy: "list the domains that this host delivers or relays, if it should be diverted: " + strings.Join(p.ownDomains(), ", ")}}
	}
	if !command {
		return nil // mail of sendmail(1) stays with Postfix
	}
	var findings []Finding
	var missing []string
	for _, d := range p.ownDomains() {
		if !matchDomain(c.Milter.HostDomains, d) {
			missing = append(missing, d)
		}
	}
	if len(missing) > 0 {
		findings = append(findings, Finding{Where: "main.cf",
			Wrong:  "Postfix delivers or relays mail to " + strings.Join(missing, ", ") + " itself, but [milter] host_domains does not say so: such mail of sendmail(1) would be diverted",
			Remedy: "add what is missing to host_domains"})
	}
	if v := p.main["transport_maps"]; v != "" {
		findings = append(findings, Finding{Where: "main.cf",
			Wrong:  fmt.Sprintf("transport_maps is set (%s): for mail of sendmail(1) Millrace does not see its answer", v),
			Remedy: byDomain})
	}
	if way := p.wayOut(); way.hop != "" && !way.direct(c) && !matchDomain(c.Milter.HostDomains, "any.example") {
		findings = append(findings, Finding{Severity: inDivert(c), Where: "main.cf",
			Wrong:  fmt.Sprintf("%s is %s, which Millrace does not see of mail of sendmail(1): with [milter] host_domains it diverts such mail and sends it past there", way.parameter, way.value),
			Remedy: fmt.Sprintf(`set host_domains = [], or add %q to remote if such mail may go to its own domain directly`, way.mailer())})
	}
	return findings
}

// ownDomains are the domains that Postfix delivers itself, as far as they are
// named and not looked up. Names without a dot are never diverted.
func (p *Postfix) ownDomains() []string {
	var own []string
	for _, name := range []string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains"} {
		for _, d := range list(p.main[name]) {
			d = strings.ToLower(d)
			if strings.Contains(d, ".") && !strings.ContainsAny(d, ":/!") && !slices.Contains(own, d) {
				own = append(own, d)
			}
		}
	}
	return own
}

// matchDomain reports whether a list has a domain; "*.example.com" there stands
// for all subdomains.
func matchDomain(list []string, domain string) bool {
	return slices.ContainsFunc(list, func(l string) bool {
		if rest, ok := strings.CutPrefix(l, "*"); ok {
			return strings.HasSuffix(domain, rest)
		}
		return l == domain
	})
}
