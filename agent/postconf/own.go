package postconf

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// This file is about whose mail it is: what the milter would take for mail of
// this host that it should not.

// reinjected looks for ports where a content filter gives mail back and that have
// our milter: all mail comes from loopback there, from wherever it came before,
// and with the recipients that aliases have become.
func (p *Postfix) reinjected(c *config.Config, m milters) []Finding {
	if !slices.Contains(c.Milter.Scope, "loopback") {
		return nil
	}
	var findings []Finding
	for _, s := range m.through {
		filter, found := p.reinjection(c, s)
		if !found {
			continue
		}
		findings = append(findings, Finding{Severity: inDivert(c), Where: s.where(),
			Wrong:  fmt.Sprintf("mail comes back here from %s, and Millrace takes mail from outside among it for this host's own, which has \"loopback\" in [milter] scope", filter),
			Remedy: "run " + p.millraceSetup() + `, which keeps Millrace from that port, or write "daemon:NAME" for "loopback", with milter_macro_daemon_name=NAME where your own mail enters`,
		})
	}
	if filter := p.pipedFilter(); filter != "" && m.command {
		findings = append(findings, Finding{Severity: inDivert(c), Where: "main.cf",
			Wrong:  fmt.Sprintf("%s runs a program, which gives mail back by sendmail(1): Millrace takes mail from outside among it for this host's own", filter),
			Remedy: "take Millrace out of non_smtpd_milters, or set [milter] host_domains = []"})
	}
	return findings
}

// reinjection reports whether a service is where a content filter gives mail back,
// and names the filter. Postfix does not say which port a filter uses. It is one of
// this master.cf that is itself a filter's target, or a port beside the usual ones
// that is set up as FILTER_README and SMTPD_PROXY_README have it: it turns the filter
// off, or believes what the filter says of the client, or spares a second look. Chained
// filters have such a port each, with the next one's filter.
func (p *Postfix) reinjection(c *config.Config, s *service) (filter string, found bool) {
	if s.command != "smtpd" || s.kind != "inet" || p.listens(s, c.Handback.Relay) {
		return "", false
	}
	filters := p.filters()
	for _, f := range filters {
		if p.listens(s, f.target()) {
			return f.String(), true
		}
	}
	if slices.Contains([]string{"smtp", "25", "submission", "587", "submissions", "smtps", "465"}, port(s.name)) || s.set["smtpd_sasl_auth_enable"] == "yes" {
		return "", false
	}
	if s.sets("milter_macro_daemon_name") {
		return "", false // the customary mark of a port for one's own mail
	}
	options := list(s.set["receive_override_options"])
	believes := s.sets("smtpd_authorized_xforward_hosts") || slices.Contains(options, "no_unknown_recipient_checks") ||
		slices.Contains(options, "no_address_mappings") || slices.Contains(options, "no_header_body_checks")
	next := p.value(s, "content_filter") + p.value(s, "smtpd_proxy_filter")
	if !believes && !s.sets("content_filter", "smtpd_proxy_filter") {
		return "", false
	}
	for _, f := range filters {
		if f.value != next {
			return f.String(), true
		}
	}
	// FILTER in a table may name one, and amavis' port may stand there without any.
	return "a content filter", p.ofLoopback(s) && (believes || next == "")
}

// ofLoopback reports whether only this host can reach a service.
func (p *Postfix) ofLoopback(s *service) bool {
	return isLocalhost(strings.Trim(strings.TrimSuffix(strings.TrimSuffix(s.name, port(s.name)), ":"), "[]"))
}

// filterOf is a content filter as it is set.
type filterOf struct{ parameter, value string }

func (f filterOf) String() string { return f.parameter + "=" + f.value }

// target is where it listens, as "host:port": the value is "transport:host:port" or
// "host:port", the host in brackets or not, or a port of this host's. "" if it is none.
func (f filterOf) target() string {
	rest, port := "", f.value
	if i := strings.LastIndexByte(f.value, ':'); i >= 0 {
		rest, port = f.value[:i], f.value[i+1:]
	}
	if _, err := strconv.Atoi(port); err != nil {
		return ""
	}
	host := rest[strings.LastIndexByte(rest, ':')+1:]
	if strings.HasSuffix(rest, "]") {
		host = strings.Trim(rest[strings.LastIndexByte(rest, '['):], "[]")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// filters are all content filters, of main.cf and of services, each once.
func (p *Postfix) filters() (all []filterOf) {
	for i := range p.services {
		s := &p.services[i]
		if s.command != "smtpd" && s.command != "pickup" {
			continue
		}
		for _, name := range []string{"content_filter", "smtpd_proxy_filter"} {
			if f := (filterOf{name, p.value(s, name)}); f.value != "" && !slices.Contains(all, f) {
				all = append(all, f)
			}
		}
	}
	return all
}

// pipedFilter is a content filter that is a program, run by pipe(8): what it lets
// through comes back by sendmail(1), as its own man page has it. "" if there is none.
func (p *Postfix) pipedFilter() string {
	for _, f := range p.filters() {
		transport, _, _ := strings.Cut(f.value, ":")
		if s := p.service(transport, "unix"); s != nil && s.command == "pipe" {
			return f.String()
		}
	}
	return ""
}

// sets reports whether a service has one of these parameters of its own.
func (s *service) sets(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := s.set[name]; return ok })
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
	if way := p.sendPath(); way.hop != "" && !way.direct(c) && !matchDomain(c.Milter.HostDomains, "any.example") {
		findings = append(findings, Finding{Severity: inDivert(c), Where: "main.cf",
			Wrong:  fmt.Sprintf("%s is %s, which Millrace does not see of mail of sendmail(1): with [milter] host_domains it diverts such mail and sends it past there", way.parameter, way.value),
			Remedy: fmt.Sprintf(`set host_domains = [], or add %q to remote if such mail may go to its own domain directly`, way.mailer())})
	}
	return findings
}

// ownDomains are the domains that Postfix delivers itself, as far as they are
// named and not looked up. Names without a dot are never diverted, nor are
// addresses in brackets.
func (p *Postfix) ownDomains() []string {
	var own []string
	for _, name := range []string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains"} {
		for _, d := range list(p.main[name]) {
			if !strings.ContainsAny(d, ":/![") {
				addDomain(&own, d)
			}
		}
	}
	return own
}

// addDomain adds a domain as [milter] host_domains has it: ".example.com" of a list
// or table of Postfix's is what we write as "*.example.com".
func addDomain(to *[]string, d string) {
	d = strings.TrimSuffix(strings.ToLower(d), ".")
	if strings.HasPrefix(d, ".") {
		d = "*" + d
	}
	// What is no domain there is none of a recipient's either.
	if _, err := config.ListedDomain(d); err == nil && strings.Contains(strings.TrimPrefix(d, "*."), ".") {
		add(to, d)
	}
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
