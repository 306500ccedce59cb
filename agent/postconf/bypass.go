package postconf

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// What an admin can do about mail that must not be diverted.
const (
	byRule   = `leave such mail with Postfix by a [[milter.rule]] with action = "leave"`
	byDomain = "add the domains concerned to [milter] host_domains"
)

// mailPath is a path that mail takes to Millrace.
type mailPath struct {
	entry   *service // smtpd, or pickup for mail of sendmail(1)
	cleanup *service // of that service: the parameters of cleanup(8) are its own
}

// ways are all of them to Millrace; without any, what main.cf would do to mail.
func (p *Postfix) ways(m milters) []mailPath {
	entries := m.through
	if m.command {
		entries = append(slices.Clone(entries), p.service("pickup", "unix"))
	}
	if len(entries) == 0 {
		entries = []*service{nil}
	}
	var all []mailPath
	for _, s := range entries {
		all = append(all, mailPath{s, p.service(cmp.Or(p.value(s, "cleanup_service_name"), "cleanup"), "unix")})
	}
	return all
}

// overrides reports whether a service has a receive_override_options.
func (p *Postfix) overrides(s *service, option string) bool {
	return slices.Contains(list(p.value(s, "receive_override_options")), option)
}

// place says which service reads a parameter.
type place int

const (
	everywhere place = iota // main.cf: trivial-rewrite(8) and qmgr(8)
	mapping                 // cleanup(8), unless no_address_mappings is set
	checking                // cleanup(8), unless no_header_body_checks is set
	entering                // smtpd(8) and pickup(8)
	sending                 // the transport that sends
)

// setting is a parameter's value as one service sees it.
type setting struct {
	reader *service
	value  string
}

// settings are the values that a parameter has on the ways to Millrace, without
// the empty ones, each once.
func (p *Postfix) settings(ways []mailPath, at place, parameter string) []setting {
	var all []setting
	for _, w := range ways {
		var s *service
		switch at {
		case mapping, checking:
			if at == mapping && p.overrides(w.entry, "no_address_mappings") || at == checking && p.overrides(w.entry, "no_header_body_checks") {
				continue
			}
			s = w.cleanup
		case entering:
			s = w.entry
		case sending:
			s = p.sender()
		}
		v := p.value(s, parameter)
		if v != "" && !slices.ContainsFunc(all, func(x setting) bool { return x.value == v }) {
			all = append(all, setting{s, v})
		}
	}
	return all
}

// stop is a hard stop: a setting that acts on a message after the milter, or on
// its envelope.
type stop struct {
	parameter string
	at        place
	classes   string // counts only if this parameter has an envelope class
	tables    bool   // the value is a list of lookup tables, no finding if all are empty
	keys      bool   // which are looked up by recipient
	meaning   string
	remedy    string
}

// stops are the hard stops that are known by being set.
func stops() []stop {
	return []stop{
		{parameter: "content_filter", at: entering,
			meaning: "diverted mail does not pass it, so it is neither scanned nor signed there",
			remedy:  "scan and sign in a milter before Millrace, or " + byRule},
		{parameter: "smtpd_proxy_filter", at: entering,
			meaning: "Postfix shows milters no content of mail that passes it, and Millrace diverts none of it",
			remedy:  "give programs that send bulk a port without it (-o smtpd_proxy_filter= -o milter_macro_daemon_name=ORIGINATING)"},
		{parameter: "virtual_alias_maps", at: mapping, tables: true, keys: true, remedy: byDomain,
			meaning: "a diverted recipient gets mail at the address that the client named, not where the map sends it"},
		{parameter: "canonical_maps", at: mapping, classes: "canonical_classes", tables: true, remedy: byRule,
			meaning: "diverted mail keeps its envelope addresses; only the header is rewritten"},
		{parameter: "sender_canonical_maps", at: mapping, classes: "sender_canonical_classes", tables: true, remedy: byRule,
			meaning: "diverted mail keeps its envelope sender (no SRS); only the header is rewritten"},
		{parameter: "recipient_canonical_maps", at: mapping, classes: "recipient_canonical_classes", tables: true, remedy: byRule,
			meaning: "diverted mail keeps its envelope recipients; only the header is rewritten"},
		{parameter: "masquerade_domains", at: mapping, classes: "masquerade_classes", remedy: byRule,
			meaning: "diverted mail keeps its envelope sender; only the header is masqueraded"},
		{parameter: "relocated_maps", tables: true, keys: true, remedy: byDomain,
			meaning: "diverted mail to an address there goes out, and is not returned with the new address"},
		{parameter: "smtp_generic_maps", at: sending, tables: true, remedy: byRule,
			meaning: "diverted mail leaves with its addresses as they are, in envelope and header"},
		{parameter: "sender_dependent_default_transport_maps", tables: true, remedy: byRule,
			meaning: "mail of the senders there is diverted, and goes to its own domain directly"},
		{parameter: "sender_dependent_relayhost_maps", tables: true, remedy: byRule,
			meaning: "mail of the senders there is diverted, and goes to its own domain directly"},
	}
}

// bypassed says what diverted mail does not meet.
func (p *Postfix) bypassed(c *config.Config, m milters) []Finding {
	ways := p.ways(m)
	var findings []Finding
	for _, x := range stops() {
		if x.classes != "" && !strings.Contains(p.main[x.classes], "envelope_") {
			continue
		}
		for _, v := range p.settings(ways, x.at, x.parameter) {
			if x.tables && p.nothingIn(c, m, v.value, x.keys) {
				continue
			}
			findings = append(findings, hardStop(c, x.parameter, p.where(v.reader, x.parameter),
				fmt.Sprintf("%s is %s: %s", x.parameter, v.value, x.meaning), x.remedy))
		}
	}
	return slices.Concat(findings, p.headerChecks(c, ways), p.access(c, m.through), p.changes(c), p.brakes())
}

// nothingIn reports whether lookup tables cannot concern diverted mail: they
// are empty, or looked up by recipient and have only recipients that are never
// diverted.
func (p *Postfix) nothingIn(c *config.Config, m milters, value string, keys bool) bool {
	for _, name := range tokens(value) {
		entries, err := p.table(name)
		if err != nil || len(entries) > 0 && !keys {
			return false
		}
		for _, e := range entries {
			if e.pattern || !p.stays(c, m, e.key) {
				return false
			}
		}
	}
	return true
}

// stays reports whether mail for a table's key is never diverted.
func (p *Postfix) stays(c *config.Config, m milters, key string) bool {
	own := slices.Clone(c.Milter.HostDomains)
	remote := slices.ContainsFunc(c.Milter.Remote, func(mailer string) bool { return mailer != "smtp" && mailer != "esmtp" })
	if p.main["transport_maps"] == "" && !m.command && !remote {
		// Postfix tells the milter of each recipient that its domain is not
		// remote. It does not for sendmail(1), and a transport map could say
		// that it is.
		own = append(own, p.ownDomains()...)
	}
	domains := []string{""}
	if i := strings.LastIndexByte(key, '@'); i >= 0 {
		domains[0] = strings.ToLower(key[i+1:])
	} else { // "user" is of all these domains, see virtual(5)
		domains = append(tokens(p.main["mydestination"]), p.origin())
		if m.command && strings.Contains(key, ".") {
			domains = append(domains, key) // or it makes a virtual alias domain
		}
	}
	for _, d := range domains {
		if d = strings.ToLower(d); d != "localhost" && !matchDomain(own, d) {
			return false
		}
	}
	return true
}

// origin is the domain of addresses without one: myorigin, or the first line of
// the file that it names, as on Debian.
func (p *Postfix) origin() string {
	name := p.main["myorigin"]
	if !strings.HasPrefix(name, "/") {
		return name
	}
	text, err := fs.ReadFile(p.files, name[1:])
	if err != nil {
		return name
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}

// headerChecks looks at header_checks and its kin. cleanup(8) applies them
// before the milter sees the message, but acts on what they say afterwards.
func (p *Postfix) headerChecks(c *config.Config, ways []mailPath) []Finding {
	var findings []Finding
	var seen []string
	for _, parameter := range []string{"header_checks", "mime_header_checks", "nested_header_checks", "body_checks", "milter_header_checks"} {
		for _, v := range p.settings(ways, checking, parameter) {
			if slices.Contains(seen, v.value) {
				continue // mime_header_checks is $header_checks
			}
			seen = append(seen, v.value)
			var found checks
			for _, name := range tokens(v.value) {
				p.lookInto(name, false, &found)
			}
			findings = append(findings, found.findings(c, parameter, p.where(v.reader, parameter))...)
		}
	}
	return findings
}

// access looks at the access maps of smtpd's restrictions.
func (p *Postfix) access(c *config.Config, through []*service) []Finding {
	var findings []Finding
	said := map[string]bool{}
	for _, stage := range []string{"client", "helo", "sender", "relay", "recipient", "data", "end_of_data"} {
		parameter := "smtpd_" + stage + "_restrictions"
		for _, s := range through {
			var found checks
			p.restrictions(tokens(p.value(s, parameter)), p.exempt(c, s), &found)
			for _, f := range found.findings(c, parameter, p.where(s, parameter)) {
				if text := f.String(); !said[text] {
					said[text] = true
					findings = append(findings, f)
				}
			}
		}
	}
	return findings
}

// findings says what checks mean for diverted mail.
func (x *checks) findings(c *config.Config, parameter, where string) []Finding {
	var wrong []string
	if len(x.actions) > 0 {
		wrong = append(wrong, fmt.Sprintf("%s has %s, which does not keep a message from being diverted", parameter, strings.Join(x.actions, ", ")))
	}
	if len(x.unknown) > 0 {
		wrong = append(wrong, fmt.Sprintf("%s has %s: HOLD, FILTER, REDIRECT and BCC there would not keep a message from being diverted", parameter, strings.Join(x.unknown, ", ")))
	}
	var findings []Finding
	for _, text := range wrong {
		findings = append(findings, hardStop(c, parameter, where, text, byRule))
	}
	if len(x.policy) > 0 && !slices.Contains(c.Milter.AcceptBypass, parameter) {
		findings = append(findings, Finding{Where: where,
			Wrong:  fmt.Sprintf("%s asks %s: HOLD, FILTER, REDIRECT and BCC in its answers do not keep a message from being diverted", parameter, strings.Join(x.policy, ", ")),
			Remedy: fmt.Sprintf("if it gives none of these, add %q to [milter] accept_bypass", parameter)})
	}
	return findings
}

// difference is what Postfix does when it sends, and Millrace does not, by the parameters
// that say so.
type difference struct {
	parameters      []string
	meaning, remedy string
	same            func(c *config.Config, value string) bool // Millrace does it too; nil: it does not
}

// differences are all that Postfix's smtp(8) can be told about single receivers, or about
// mail on the wire, and that neither set-up carries over nor another check compares. What
// is left of its parameters is without meaning here (outbound_test.go has the list).
var differences = []difference{
	{parameters: []string{"smtp_header_checks", "smtp_mime_header_checks", "smtp_nested_header_checks", "smtp_body_checks"},
		meaning: "diverted mail leaves without what is changed there", remedy: byRule},
	{parameters: []string{"smtp_fallback_relay"},
		meaning: "diverted mail whose receivers are down waits, and never goes there", remedy: byRule},
	{parameters: []string{"smtp_reply_filter", "smtp_delivery_status_filter"},
		meaning: "replies to diverted mail are taken as they come", remedy: "tune the queue's retry and expire, if need be"},
	{parameters: []string{"smtp_discard_ehlo_keywords", "smtp_discard_ehlo_keyword_address_maps"},
		meaning: "Millrace takes what receivers announce at their word, but for CHUNKING where BDAT fails, PIPELINING where replies are missing and STARTTLS where TLS fails", remedy: byRule},
	{parameters: []string{"smtp_never_send_ehlo", "smtp_always_send_ehlo"},
		meaning: "Millrace says EHLO to all receivers, and HELO to those that refuse it", remedy: byRule},
	{parameters: []string{"smtp_host_lookup"},
		meaning: "Millrace finds receivers by DNS alone", remedy: byRule},
	{parameters: []string{"smtp_dns_reply_filter", "smtp_dns_resolver_options", "ignore_mx_lookup_error", "smtp_defer_if_no_mx_address_found"},
		meaning: "Millrace takes what the DNS says as it is", remedy: byRule},
	{parameters: []string{"smtp_address_preference"},
		meaning: "Millrace goes to a host's address of the favoured source's protocol first", remedy: `let the first of [agent] source_addresses be of the protocol that shall go first`},
	{parameters: []string{"smtp_pix_workarounds", "smtp_pix_workaround_maps"},
		meaning: "Millrace speaks to all receivers alike", remedy: byRule},
	{parameters: []string{"smtp_tcp_port"},
		meaning: "Millrace goes to another port of its receivers", remedy: "set [agent] port",
		same: func(c *config.Config, v string) bool {
			return v == fmt.Sprint(c.Agent.Port) || v == "smtp" && c.Agent.Port == 25
		}},
	{parameters: []string{"smtp_tls_wrappermode"},
		meaning: "Millrace speaks TLS from the first octet to a relay alone", remedy: byRule, same: says("no")},
	{parameters: []string{"smtp_tls_servername"},
		meaning: "Millrace sends the name of the host, where TLS needs one", remedy: byRule},
	{parameters: []string{"smtp_tls_cert_file", "smtp_tls_eccert_file", "smtp_tls_dcert_file", "smtp_tls_chain_files", "smtp_tls_key_file", "smtp_tls_eckey_file", "smtp_tls_dkey_file"},
		meaning: "receivers of diverted mail that ask for a certificate see none", remedy: "set [agent] tls_cert_file and tls_key_file",
		same: func(c *config.Config, _ string) bool { return c.Agent.TLSCertFile != "" }},
	{parameters: []string{"smtp_tls_CAfile", "smtp_tls_CApath", "smtp_tls_trust_anchor_file"},
		meaning: "Millrace trusts the system's authorities", remedy: "set [agent] tls_ca_file",
		same: func(c *config.Config, v string) bool {
			return c.Agent.TLSCAFile != "" || strings.HasPrefix(v, "/etc/ssl/certs") || strings.HasPrefix(v, "/etc/pki/")
		}},
	{parameters: []string{"smtp_tls_protocols", "smtp_tls_mandatory_protocols", "smtp_tls_ciphers", "smtp_tls_mandatory_ciphers", "smtp_tls_exclude_ciphers", "smtp_tls_mandatory_exclude_ciphers"},
		meaning: "Millrace takes any TLS where it is not required, and [agent] tls_min_version or newer where it is", remedy: "see that tls_min_version does"},
	{parameters: []string{"smtp_tls_secure_cert_match", "smtp_tls_verify_cert_match", "smtp_tls_fingerprint_cert_match"},
		meaning: "where Millrace verifies, a certificate must be valid for the name of the host", remedy: byRule},
	{parameters: []string{"smtp_sasl_auth_enable", "smtp_sender_dependent_authentication"},
		meaning: "diverted mail goes to its receivers without a password", remedy: `a relay gets one by relay_auth_file in its [[queue]]`, same: says("no")},
	{parameters: []string{"smtp_skip_5xx_greeting"},
		meaning: "Millrace passes a host by that greets with 5xx, and tries again", remedy: byRule, same: says("yes")},
	{parameters: []string{"smtp_connect_timeout", "smtp_helo_timeout", "smtp_starttls_timeout", "smtp_mail_timeout", "smtp_rcpt_timeout", "smtp_data_init_timeout",
		"smtp_data_xfer_timeout", "smtp_data_done_timeout", "smtp_min_data_rate", "smtp_per_request_deadline", "smtp_per_record_deadline"},
		meaning: "Millrace waits for receivers as long as RFC 5321 section 4.5.3.2 says, 30 s for a connect", remedy: byRule},
	{parameters: []string{"smtp_transport_rate_delay"},
		meaning: "diverted mail is not slowed down on the whole", remedy: "set max_message_rate in [general]", same: says("0s")},
}

func says(value string) func(*config.Config, string) bool {
	return func(_ *config.Config, v string) bool { return v == value }
}

// defaultOf are the values that parameters have when nobody has chosen one (postconf(5)),
// for when postconf was not asked.
var defaultOf = map[string]string{
	"smtp_host_lookup": "dns", "smtp_address_preference": "any", "smtp_pix_workarounds": "disable_esmtp,delay_dotcrlf",
}

// changes warns of what Postfix does when it sends, and Millrace does not.
func (p *Postfix) changes(c *config.Config) []Finding {
	var findings []Finding
	smtp := p.sender()
	for _, x := range differences {
		var seen []string
		for _, name := range x.parameters {
			v := p.value(smtp, name)
			if v == "" || v == p.defaults[name] || strings.ReplaceAll(v, " ", "") == defaultOf[name] ||
				slices.Contains(seen, v) || x.same != nil && x.same(c, v) { // smtp_mime_header_checks is $smtp_header_checks
				continue
			}
			seen = append(seen, v)
			findings = append(findings, Finding{Where: p.where(smtp, name), Remedy: x.remedy,
				Wrong: fmt.Sprintf("%s is %s: %s", name, v, x.meaning)})
		}
	}
	return findings
}

// brakes warns of an admin's brakes that do not reach diverted mail.
func (p *Postfix) brakes() []Finding {
	var findings []Finding
	if slices.Contains(list(p.main["defer_transports"]), "smtp") {
		findings = append(findings, Finding{Where: "main.cf",
			Wrong:  "defer_transports has smtp: this does not stop diverted mail",
			Remedy: `set [milter] mode = "observe" and stop millrace-agent while you brake`})
	}
	if p.main["soft_bounce"] == "yes" {
		findings = append(findings, Finding{Where: "main.cf",
			Wrong:  "soft_bounce is yes: Millrace returns diverted mail that a receiver refuses for good, and does not keep it",
			Remedy: `set [milter] mode = "observe" while you test with soft_bounce`})
	}
	return findings
}

// discards looks at what DISCARD costs and loses. It is the verdict for mail of
// sendmail(1), and where the configuration says so.
func (p *Postfix) discards(c *config.Config, m milters) []Finding {
	if c.Milter.Verdict != config.VerdictDiscard && (!m.command || len(c.Milter.HostDomains) == 0) {
		return nil
	}
	var findings []Finding
	ways := p.ways(m)
	for _, w := range ways {
		v, where := p.value(w.cleanup, "in_flow_delay"), p.where(w.cleanup, "in_flow_delay")
		remedy := p.postconfE("in_flow_delay", "0")
		if where != "main.cf" {
			remedy = p.postconfP(w.cleanup, "in_flow_delay", "0")
		}
		f := Finding{Where: where, Remedy: remedy,
			Wrong: fmt.Sprintf("in_flow_delay is %s: Postfix counts a discarded message as one that never leaves the incoming queue, and soon delays each client by so long a message", v)}
		if strings.Trim(v, "0smhdw") != "" && !slices.Contains(findings, f) {
			findings = append(findings, f)
		}
	}
	for _, name := range []string{"always_bcc", "sender_bcc_maps", "recipient_bcc_maps"} {
		for _, v := range p.settings(ways, mapping, name) {
			if name != "always_bcc" && p.nothingIn(c, m, v.value, false) {
				continue
			}
			findings = append(findings, hardStop(c, name, p.where(v.reader, name),
				fmt.Sprintf("%s is %s: the copies are lost with a message that Millrace discards", name, v.value),
				`set [milter] verdict = "delrcpt", and leave mail of sendmail(1) with Postfix (host_domains = [])`))
		}
	}
	return findings
}
