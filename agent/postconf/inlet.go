package postconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// Inlet says what keeps the inlet from spooling mail: what of Postfix's own work such mail
// would pass by and nobody has accepted, beside the findings that were accepted. The inlet
// stands in for the service at [inlet] pass_to; where Postfix has none there, main.cf's own
// settings count.
//
// What is set, and does not let clients of this host through unasked, counts as passed by:
// which mail a policy service or a map would have changed, nobody can tell from outside.
func (p *Postfix) Inlet(c *config.Config) []Finding {
	if !c.Inlet.On() {
		return nil
	}
	s := p.at(endpoint(c.Inlet.PassTo))
	severity := inDivert(c)
	var findings []Finding
	if s == nil {
		findings = append(findings, Finding{Severity: Contradiction, Where: "master.cf",
			Wrong:  fmt.Sprintf("no service listens on [inlet] pass_to %s: mail of the inlet that is not bulk has nowhere to go", c.Inlet.PassTo),
			Remedy: "name the port where Postfix takes mail of this host's programs"})
	}
	if networks := p.value(s, "mynetworks"); !hasLoopback(networks) {
		findings = append(findings, Finding{Severity: severity, Where: p.where(s, "mynetworks"),
			Wrong:  fmt.Sprintf("mynetworks is %q, without 127.0.0.0/8: clients of the inlet may not send to everywhere by Postfix, so all their mail is passed to it", networks),
			Remedy: "let these programs use the submission port, or add 127.0.0.0/8 to mynetworks"})
	}
	for _, x := range []struct {
		parameter, key, unit string
		ours                 int64
		forGood              bool // what is above it is refused with 5xx
	}{
		{"message_size_limit", "max_message_size", "octets", int64(c.Inlet.MaxMessageSize), true},
		{"smtpd_recipient_limit", "max_recipients", "recipients", int64(c.Inlet.MaxRecipients), false},
	} {
		limit, err := strconv.ParseInt(p.value(s, x.parameter), 10, 64)
		switch {
		case err != nil:
		case limit > 0 && x.ours > limit:
			findings = append(findings, Finding{Severity: severity, Where: p.where(s, x.parameter),
				Wrong:  fmt.Sprintf("%s is %d, and the inlet takes messages of %d %s", x.parameter, limit, x.ours, x.unit),
				Remedy: fmt.Sprintf("until then all mail of the inlet goes to Postfix; write %s = %d in [inlet]", x.key, limit)})
		case x.forGood && (limit <= 0 || x.ours < limit):
			findings = append(findings, Finding{Severity: Warning, Where: p.where(s, x.parameter),
				Wrong:  fmt.Sprintf("%s is %d, and the inlet refuses messages of more than %d %s", x.parameter, limit, x.ours, x.unit),
				Remedy: fmt.Sprintf("if its clients send larger ones, raise %s in [inlet]", x.key)})
		}
	}
	var seen []string
	for _, parameter := range append(config.Bypasses(), config.InletBypasses()...) {
		reader := s
		if parameter == "non_smtpd_milters" {
			continue // are of sendmail(1)
		}
		if strings.HasPrefix(parameter, "smtp_") {
			reader = p.sender()
		} else if slices.Contains([]string{"header_checks", "mime_header_checks", "nested_header_checks", "body_checks", "always_bcc", "sender_bcc_maps",
			"recipient_bcc_maps", "canonical_maps", "sender_canonical_maps", "recipient_canonical_maps", "masquerade_domains", "virtual_alias_maps"}, parameter) {
			reader = p.cleanupOf(s)
		}
		value := p.value(reader, parameter)
		wrong := fmt.Sprintf("%s is %s: mail that the inlet spools never sees it", parameter, value)
		switch {
		case value == "" || value == p.defaults[parameter] && !strings.HasSuffix(parameter, "_restrictions"):
			continue
		case strings.HasSuffix(parameter, "_checks") && slices.Contains(seen, value):
			continue // mime_header_checks is $header_checks
		case strings.HasSuffix(parameter, "_restrictions"):
			asked := beforePermit(tokens(value))
			if asked == "" {
				continue
			}
			wrong = fmt.Sprintf("%s asks %s before it lets clients of this host through: mail that the inlet spools is not asked about", parameter, asked)
		case parameter == "smtpd_milters":
			var others []string
			for _, text := range list(value) {
				m := parseMilter(text)
				if named, _ := p.isOurs(m.address, c.Milter.Listen, s != nil && s.chroot); !named {
					others = append(others, m.address)
				}
			}
			if len(others) == 0 {
				continue
			}
			wrong = fmt.Sprintf("%s has %s beside Millrace: what they refuse, add or sign is missing from mail that the inlet spools", parameter, strings.Join(others, ", "))
		}
		seen = append(seen, value)
		f := Finding{Severity: severity, Where: p.where(reader, parameter), Wrong: wrong, Bypass: parameter,
			Remedy: fmt.Sprintf("until then all mail of the inlet goes to Postfix; if it needs none of it, add %q to [inlet] accept_bypass", parameter)}
		if slices.Contains(c.Inlet.AcceptBypass, parameter) {
			f.Severity, f.Remedy = Accepted, ""
		}
		findings = append(findings, f)
	}
	return findings
}

// InletWithoutPostfix is Inlet for a host without Postfix, whose settings nobody can read: all
// that its MTA would do with the mail counts as passed by until it is accepted as a whole.
func InletWithoutPostfix(c *config.Config) []Finding {
	if !c.Inlet.On() {
		return nil
	}
	f := Finding{Severity: inDivert(c), Where: "[inlet]", Bypass: config.NotPostfix,
		Wrong:  "the host MTA is not Postfix, so nobody can tell which of its routers, filters and rules mail that the inlet spools never sees",
		Remedy: fmt.Sprintf("until then all mail of the inlet goes to the host MTA; if bulk mail of this host needs none of them, add %q to [inlet] accept_bypass", config.NotPostfix)}
	if slices.Contains(c.Inlet.AcceptBypass, config.NotPostfix) {
		f.Severity, f.Remedy = Accepted, ""
	}
	return []Finding{f}
}

// InletStops are those findings of Inlet, or of InletWithoutPostfix, that keep it from spooling.
func InletStops(found []Finding) []Finding {
	return slices.DeleteFunc(found, func(f Finding) bool { return f.Severity != Contradiction })
}

// cleanupOf is the cleanup service of an smtpd service.
func (p *Postfix) cleanupOf(s *service) *service {
	name := p.value(s, "cleanup_service_name")
	if name == "" {
		name = "cleanup"
	}
	return p.service(name, "unix")
}

// endpoint is a listening address in the notation of relays.
func endpoint(passTo string) string {
	network, address, err := config.ParseListen(passTo)
	if err == nil && network != "unix" {
		return address
	}
	return passTo
}

// beforePermit are the words of a restriction list that a client of mynetworks meets, up to
// the permit; "" if there are none but those that cannot refuse or change it.
func beforePermit(words []string) string {
	var met []string
	for _, w := range words {
		if w == "permit" || w == "permit_mynetworks" {
			break
		}
		// These let somebody through, or are of clients that have authenticated.
		if strings.HasPrefix(w, "permit_") || w == "reject_unauth_destination" || w == "defer_unauth_destination" {
			continue
		}
		met = append(met, w)
	}
	return strings.Join(met, " ")
}

// hasLoopback reports whether networks, as written out, have 127.0.0.1.
func hasLoopback(networks string) bool {
	return slices.ContainsFunc(tokens(networks), func(w string) bool {
		if strings.HasPrefix(w, "!") {
			return false
		}
		if n, err := netip.ParsePrefix(strings.NewReplacer("[", "", "]", "").Replace(w)); err == nil {
			return n.Contains(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		}
		return w == "127.0.0.1"
	})
}
