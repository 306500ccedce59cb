package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// What an admin can do about mail that must not be diverted.
const (
	byRule   = `leave such mail with Postfix by a [[milter.rule]] with action = "leave"`
	byDomain = "add the domains concerned to [milter] host_domains"
)

// bypass is a setting of Postfix that diverted mail does not meet.
type bypass struct {
	names     []string
	transport bool   // of the smtp transport
	classes   string // counts only if this parameter has an envelope class
	meaning   string
	remedy    string
}

// bypasses are the settings that act between the milter and the receiver, or on
// the envelope. cleanup(8) applies header_checks before the milter, but their
// decisions after it.
func bypasses() []bypass {
	return []bypass{
		{names: []string{"virtual_alias_maps"}, remedy: byDomain,
			meaning: "a diverted recipient gets mail at the address that the client named, not where the map sends it"},
		{names: []string{"canonical_maps"}, classes: "canonical_classes", remedy: byRule,
			meaning: "diverted mail keeps its envelope addresses; only the header is rewritten"},
		{names: []string{"sender_canonical_maps"}, classes: "sender_canonical_classes", remedy: byRule,
			meaning: "diverted mail keeps its envelope sender (no SRS); only the header is rewritten"},
		{names: []string{"recipient_canonical_maps"}, classes: "recipient_canonical_classes", remedy: byRule,
			meaning: "diverted mail keeps its envelope recipients; only the header is rewritten"},
		{names: []string{"masquerade_domains"}, classes: "masquerade_classes", remedy: byRule,
			meaning: "diverted mail keeps its envelope sender; only the header is masqueraded"},
		{names: []string{"relocated_maps"}, remedy: byDomain,
			meaning: "diverted mail to an address there goes out, and is not returned with the new address"},
		{names: []string{"smtp_generic_maps"}, transport: true, remedy: byRule,
			meaning: "diverted mail leaves with its addresses as they are, in envelope and header"},
		{names: []string{"header_checks", "mime_header_checks", "nested_header_checks", "body_checks"}, remedy: byRule,
			meaning: "HOLD, FILTER, REDIRECT and BCC there do not keep a message from being diverted"},
		{names: []string{"smtp_header_checks", "smtp_mime_header_checks", "smtp_nested_header_checks", "smtp_body_checks"}, transport: true, remedy: byRule,
			meaning: "diverted mail leaves without what is changed there"},
		{names: []string{"sender_dependent_default_transport_maps", "sender_dependent_relayhost_maps"}, remedy: byRule,
			meaning: "mail of the senders there is diverted, and goes to its own domain directly"},
		{names: []string{"smtp_fallback_relay"}, transport: true, remedy: byRule,
			meaning: "diverted mail whose receivers are down waits, and never goes there"},
		{names: []string{"smtp_reply_filter", "smtp_delivery_status_filter"}, transport: true,
			meaning: "replies to diverted mail are taken as they come", remedy: "tune the queue's retry and expire, if need be"},
	}
}

// bypassed warns of what diverted mail does not meet.
func (p *postfix) bypassed(through []*service) []finding {
	var findings []finding
	smtp := p.service("smtp", "unix")
	for _, b := range bypasses() {
		var s *service
		if b.transport {
			s = smtp
		}
		var names, values []string
		for _, name := range b.names {
			if v := p.value(s, name); v != "" && !slices.Contains(values, v) { // mime_header_checks is $header_checks
				names, values = append(names, name), append(values, v)
			}
		}
		if len(names) == 0 || b.classes != "" && !strings.Contains(p.main[b.classes], "envelope_") {
			continue
		}
		verb := "is"
		if len(names) > 1 {
			verb = "are"
		}
		findings = append(findings, finding{where: p.where(s, names[0]), remedy: b.remedy,
			wrong: fmt.Sprintf("%s %s set (%s): %s", strings.Join(names, ", "), verb, strings.Join(values, ", "), b.meaning)})
	}
	return slices.Concat(findings, p.brakes(), p.access(through))
}

// brakes warns of an admin's brakes that do not reach diverted mail.
func (p *postfix) brakes() []finding {
	var findings []finding
	if slices.Contains(list(p.main["defer_transports"]), "smtp") {
		findings = append(findings, finding{where: "main.cf",
			wrong:  "defer_transports has smtp: this does not stop diverted mail",
			remedy: `set [milter] mode = "observe" and stop millrace-agent while you brake`})
	}
	if p.main["soft_bounce"] == "yes" {
		findings = append(findings, finding{where: "main.cf",
			wrong:  "soft_bounce is yes: Millrace returns diverted mail that a receiver refuses for good, and does not keep it",
			remedy: `set [milter] mode = "observe" while you test with soft_bounce`})
	}
	return findings
}

// access warns of access maps: what stands in them is not for us to know.
func (p *postfix) access(through []*service) []finding {
	var names []string
	for _, s := range through {
		for _, stage := range []string{"client", "helo", "sender", "relay", "recipient", "data", "end_of_data"} {
			name := "smtpd_" + stage + "_restrictions"
			maps := slices.ContainsFunc(list(p.value(s, name)), func(r string) bool {
				return strings.HasPrefix(r, "check_") && strings.HasSuffix(r, "_access")
			})
			if maps && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []finding{{where: "main.cf",
		wrong:  "HOLD, FILTER, REDIRECT and BCC in the access maps of " + strings.Join(names, ", ") + " do not keep a message from being diverted",
		remedy: byRule + ", if there are such entries"}}
}

// discards looks at what makes DISCARD costly. It is the verdict for mail of
// sendmail(1), and where the configuration says so.
func (p *postfix) discards(c *config.Config, command bool) []finding {
	if c.Milter.Verdict != config.VerdictDiscard && (!command || len(c.Milter.HostDomains) == 0) {
		return nil
	}
	var findings []finding
	cleanup := p.service("cleanup", "unix")
	if v := p.value(cleanup, "in_flow_delay"); strings.Trim(v, "0smhdw") != "" {
		findings = append(findings, finding{
			where:  p.where(cleanup, "in_flow_delay"),
			wrong:  fmt.Sprintf("in_flow_delay is %s: Postfix counts a discarded message as one that never leaves the incoming queue, and soon delays each client by so long a message", v),
			remedy: "postconf -e in_flow_delay=0"})
	}
	if maps := p.copies(); len(maps) > 0 {
		findings = append(findings, finding{
			where:  "main.cf",
			wrong:  "the copies of " + strings.Join(maps, ", ") + " are lost with a message that Millrace discards",
			remedy: `set [milter] verdict = "delrcpt", and leave mail of sendmail(1) with Postfix (host_domains = [])`})
	}
	return findings
}

// domains looks at what the milter must know of mail of sendmail(1), for which
// Postfix does not say which recipients are its own.
func (p *postfix) domains(c *config.Config, command bool) []finding {
	if len(c.Milter.HostDomains) == 0 {
		if !command {
			return nil
		}
		return []finding{{where: "main.cf",
			wrong:  "non_smtpd_milters has Millrace, but [milter] host_domains is empty: mail of sendmail(1) stays with Postfix",
			remedy: "list the domains that this host delivers or relays, if it should be diverted: " + strings.Join(p.ownDomains(), ", ")}}
	}
	if !command {
		return []finding{{where: "main.cf",
			wrong:  "non_smtpd_milters does not have Millrace: mail of sendmail(1) is not diverted, although [milter] host_domains is set",
			remedy: postconfE("non_smtpd_milters", "$smtpd_milters") + ", if it should be"}}
	}
	var findings []finding
	var missing []string
	for _, d := range p.ownDomains() {
		if !matchDomain(c.Milter.HostDomains, d) {
			missing = append(missing, d)
		}
	}
	if len(missing) > 0 {
		findings = append(findings, finding{where: "main.cf",
			wrong:  "Postfix delivers or relays mail to " + strings.Join(missing, ", ") + " itself, but [milter] host_domains does not say so: such mail of sendmail(1) would be diverted",
			remedy: "add what is missing to host_domains"})
	}
	if v := p.main["transport_maps"]; v != "" {
		findings = append(findings, finding{where: "main.cf",
			wrong:  fmt.Sprintf("transport_maps is set (%s): for mail of sendmail(1) Millrace does not see its answer", v),
			remedy: byDomain})
	}
	return findings
}

// ownDomains are the domains that Postfix delivers itself, as far as they are
// named and not looked up. Names without a dot are never diverted.
func (p *postfix) ownDomains() []string {
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
