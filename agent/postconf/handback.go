package postconf

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// handback looks at the port where mail goes back to Postfix.
func (p *Postfix) handback(c *config.Config) []Finding {
	relay := c.Handback.Relay
	s := p.at(relay)
	if s == nil {
		return p.noHandback(c)
	}
	var findings []Finding
	note := func(sev Severity, wrong, remedy string) {
		findings = append(findings, Finding{Severity: sev, Where: s.where(), Wrong: wrong, Remedy: remedy})
	}
	if wrong := Exposed(relay, p.files); wrong != "" {
		note(Warning, wrong, "run "+p.millraceSetup()+": it shows the change to a socket that only Postfix can make (take a relay of your own out of millrace.toml first)")
	}
	if s.command != "smtpd" {
		note(Contradiction, fmt.Sprintf("[handback] relay %s is a %s service, and must be smtpd", relay, s.command), "take the service of contrib/postfix/master.cf")
		return findings
	}
	set := func(name, value string) string { return p.postconfP(s, name, value) }
	if v := p.value(s, "smtpd_milters"); v != "" && !p.noMilters(s) {
		us := slices.ContainsFunc(list(v), func(text string) bool {
			named, _ := p.isOurs(parseMilter(text).address, c.Milter.Listen, s.chroot)
			return named
		})
		if us {
			note(Contradiction, "mail that Millrace hands back passes Millrace again", "give it a port of its own, the service of contrib/postfix/master.cf")
			return findings
		}
		note(Warning, fmt.Sprintf("mail that Millrace hands back passes milters (%s) a second time", v), set("smtpd_milters", ""))
	}
	for _, name := range []string{"content_filter", "smtpd_proxy_filter"} {
		if v := p.value(s, name); v != "" {
			note(Warning, fmt.Sprintf("mail that Millrace hands back passes %s %s", name, v), set(name, ""))
		}
	}
	if v := p.value(s, "local_header_rewrite_clients"); v != "" {
		note(Warning, "the header of mail that Millrace hands back is rewritten, which breaks its signatures", set("local_header_rewrite_clients", ""))
	}
	var restrictions []string
	for _, stage := range []string{"client", "helo", "sender", "data", "end_of_data"} {
		if name := "smtpd_" + stage + "_restrictions"; p.value(s, name) != "" {
			restrictions = append(restrictions, name)
		}
	}
	if len(restrictions) > 0 {
		note(Warning, fmt.Sprintf("%s apply to mail that Millrace hands back, and may refuse it", strings.Join(restrictions, ", ")), "make them empty for this service, as in contrib/postfix/master.cf")
	}
	for _, name := range []string{"smtpd_relay_restrictions", "smtpd_recipient_restrictions"} {
		if l := list(p.value(s, name)); len(l) > 0 && l[0] != "permit_mynetworks" && l[0] != "permit" {
			note(Warning, fmt.Sprintf("%s does not begin with permit_mynetworks, and may refuse mail that Millrace hands back", name), set(name, "permit_mynetworks,reject"))
		}
	}
	if !p.overrides(s, "no_header_body_checks") {
		if v := p.value(s, "header_checks") + p.value(s, "body_checks"); v != "" {
			note(Warning, "header_checks and body_checks apply to mail that Millrace hands back a second time",
				set("receive_override_options", "no_milters,no_header_body_checks,no_unknown_recipient_checks"))
		}
	}
	if p.value(s, "smtpd_tls_security_level") == "encrypt" {
		note(inDivert(c), "nothing can return: Millrace does not speak TLS to this port, which demands it", set("smtpd_tls_security_level", "none"))
	}
	const own = "give this service a cleanup service of its own, as in contrib/postfix/master.cf"
	cleanup := p.service(cmp.Or(p.value(s, "cleanup_service_name"), "cleanup"), "unix")
	if maps := p.copies(cleanup); len(maps) > 0 {
		note(Warning, fmt.Sprintf("mail that Millrace hands back is copied by %s a second time", strings.Join(maps, ", ")), own)
	}
	if v := p.value(cleanup, "remote_header_rewrite_domain"); v != "" {
		note(Warning, fmt.Sprintf("remote_header_rewrite_domain is %s: the header of mail that Millrace hands back is rewritten, which breaks its signatures", v), own)
	}
	return findings
}

// noHandback is what is to be said when master.cf does not have the port.
func (p *Postfix) noHandback(c *config.Config) []Finding {
	relay := c.Handback.Relay
	if config.RelaySocket(relay) != "" {
		name := p.publicName(relay)
		if name == "" {
			return []Finding{{
				Where:  "master.cf",
				Wrong:  fmt.Sprintf("[handback] relay %s is not in %s of this Postfix: what becomes of bounces and of mail that Millrace hands back was not checked", relay, p.public()),
				Remedy: "run " + p.millraceSetup() + ", if it should be there; otherwise see that it has no milter of Millrace",
			}}
		}
		if s := p.service(name, "unix"); s != nil && s.private {
			return []Finding{{
				Severity: inDivert(c),
				Where:    s.where(),
				Wrong:    fmt.Sprintf("this service is private, so nobody but Postfix reaches [handback] relay %s", relay),
				Remedy:   p.reachable(s),
			}}
		}
	} else if host, _, err := net.SplitHostPort(relay); err == nil && !isLocalhost(host) {
		return []Finding{{
			Where:  "master.cf",
			Wrong:  fmt.Sprintf("[handback] relay %s is not known to be of this Postfix: what becomes of bounces and of mail that Millrace hands back was not checked", relay),
			Remedy: "see that it has no milter of Millrace",
		}}
	}
	if why := p.cannotListen(relay); why != "" {
		return []Finding{{
			Severity: inDivert(c),
			Where:    "main.cf",
			Wrong:    fmt.Sprintf("nothing can come back to Postfix at [handback] relay %s: %s", relay, why),
			Remedy:   "set another relay, and run millrace setup",
		}}
	}
	return []Finding{{
		Severity: inDivert(c),
		Where:    "master.cf",
		Wrong:    fmt.Sprintf("no service listens on [handback] relay %s: bounces, and mail that Millrace hands back, cannot return to Postfix", relay),
		Remedy:   "run " + p.millraceSetup() + ", which adds one",
	}}
}

// at is the service that listens at a relay; nil if there is none.
func (p *Postfix) at(relay string) *service {
	for i := range p.services {
		if p.listens(&p.services[i], relay) {
			return &p.services[i]
		}
	}
	return nil
}

// handbackService is what a master.cf needs to take mail back at a relay, or why that is
// left to the admin; m is the text that it is added to.
func (p *Postfix) handbackService(relay string, m master) (text, byHand string, err error) {
	if config.RelaySocket(relay) != "" && p.publicName(relay) == "" {
		return "", fmt.Sprintf("[handback] relay %s is not in %s: nothing was set up for it", relay, p.public()), nil
	}
	if text, err = snippets.Handback(relay); err != nil {
		return "", fmt.Sprintf("[handback] relay: %v", err), nil
	}
	if why := p.occupied(relay); why != "" {
		return "", "", fmt.Errorf("[handback] relay %s: %s; remedy: set another one in millrace.toml, or leave relay out and set-up finds one", relay, why)
	}
	if m.has(snippets.Cleanup, "unix") {
		if s := p.service(snippets.Cleanup, "unix"); s == nil || s.command != "cleanup" {
			return "", "", fmt.Errorf("master.cf: %s/unix is another service, and Millrace's cleanup needs that name; remedy: see contrib/postfix/master.cf", snippets.Cleanup)
		}
		text = readMaster([]byte(text)).remove(snippets.Cleanup, "unix") // pasted before
	}
	return text, "", nil
}

// publicName is the name that a service of master.cf must have to listen on a relay
// that is a Unix socket; "" if none can: Postfix makes the sockets of services that others
// than itself may use in its queue directory's public/ (master(5)).
func (p *Postfix) publicName(relay string) string {
	name, ok := strings.CutPrefix(filepath.Clean(config.RelaySocket(relay)), p.public()+"/")
	if !ok || strings.ContainsAny(name, "/ \t") {
		return ""
	}
	return name
}

func (p *Postfix) public() string { return filepath.Join(p.main["queue_directory"], "public") }

// listens reports whether a service of master.cf takes connections to an
// endpoint ("host:port" or "unix:/path"). A service without an address has those of
// inet_interfaces; which ones "all" are is known of loopback only.
func (p *Postfix) listens(s *service, endpoint string) bool {
	if s.disabled {
		return false
	}
	if s.kind == "unix" && !s.private {
		return s.name == p.publicName(endpoint)
	}
	host, want, err := net.SplitHostPort(endpoint)
	if s.kind != "inet" || err != nil || !samePort(port(s.name), want) {
		return false
	}
	own := strings.TrimSuffix(strings.TrimSuffix(s.name, port(s.name)), ":")
	own = strings.TrimSuffix(strings.TrimPrefix(own, "["), "]")
	if own != "" {
		return same(own, host) || own == "0.0.0.0" || own == "::"
	}
	for _, i := range list(p.value(s, "inet_interfaces")) {
		i = strings.TrimSuffix(strings.TrimPrefix(i, "["), "]")
		if (i == "all" || i == "loopback-only") && isLocalhost(host) || i == "all" && strings.EqualFold(host, p.main["myhostname"]) || same(i, host) {
			return true
		}
	}
	return false
}

// same compares two hosts: names, or addresses in any spelling. localhost is
// every loopback address.
func same(a, b string) bool {
	if strings.EqualFold(a, b) || strings.EqualFold(a, "localhost") && isLocalhost(b) || strings.EqualFold(b, "localhost") && isLocalhost(a) {
		return true
	}
	x, y := net.ParseIP(a), net.ParseIP(b)
	return x != nil && x.Equal(y)
}

// port is the last part of a service's name: "10626" of "127.0.0.1:10626".
func port(name string) string { return name[strings.LastIndexByte(name, ':')+1:] }

// copies are the parameters that are set for a cleanup service and make copies of mail.
func (p *Postfix) copies(cleanup *service) []string {
	var set []string
	for _, name := range []string{"always_bcc", "sender_bcc_maps", "recipient_bcc_maps"} {
		if p.value(cleanup, name) != "" {
			set = append(set, name)
		}
	}
	return set
}
