package postconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route"
)

// outbound compares how Postfix sends with how the agent does: diverted mail
// must not go where, or as whom, Postfix would not send it.
func (p *Postfix) outbound(c *config.Config) []Finding {
	smtp := p.sender()
	return slices.Concat(
		p.nexthop(c),
		p.hello(c, smtp),
		p.protocols(c, smtp),
		p.source(c, smtp),
		p.protection(c, smtp),
		p.otherSenders(c, smtp),
	)
}

// sender is the service that sends remote mail, unless a table says otherwise: what
// its -o options say counts, and not what another smtp(8) would do. It is the one named
// smtp where the mail goes to something else, such as error(8).
func (p *Postfix) sender() *service {
	if s := p.transport(p.sendPath().transport); s != nil && s.command == "smtp" {
		return s
	}
	return p.service("smtp", "unix")
}

// otherSenders looks at further transports whose mail is diverted: Millrace sends as
// the one that sends most, so another one must send alike.
func (p *Postfix) otherSenders(c *config.Config, main *service) []Finding {
	var findings []Finding
	for i := range p.services {
		s := &p.services[i]
		if s == main || s.kind != "unix" || s.command != "smtp" || !slices.Contains(c.Milter.Remote, s.name) || s.name == "smtp" && p.main["transport_maps"] == "" {
			continue
		}
		if odd := p.unlike(s, main); odd != "" {
			findings = append(findings, Finding{Severity: inDivert(c), Where: p.where(s, odd),
				Wrong:  fmt.Sprintf("the transport %s has another %s than %s, by which Millrace goes, and [milter] remote has both", s.name, odd, main.name),
				Remedy: fmt.Sprintf("take %q out of remote, and its mail stays with Postfix", s.name)})
		}
	}
	return findings
}

// unlike names a parameter by which two transports send differently; "" if there is none.
func (p *Postfix) unlike(a, b *service) string {
	for _, name := range []string{"smtp_bind_address", "smtp_bind_address6", "smtp_helo_name", "inet_protocols", "inet_interfaces", "smtp_generic_maps", "smtp_header_checks", "smtp_fallback_relay"} {
		if p.value(a, name) != p.value(b, name) {
			return name
		}
	}
	return ""
}

// sendPath is where Postfix sends remote mail, unless a table says otherwise.
type sendPath struct {
	parameter, value string // that says so
	transport, hop   string // hop: "" is the recipient's own domain
}

func (p *Postfix) sendPath() sendPath {
	w := sendPath{parameter: "default_transport", value: p.main["default_transport"]}
	w.transport, w.hop, _ = strings.Cut(w.value, ":")
	if relayhost := p.main["relayhost"]; w.hop == "" && relayhost != "" {
		w.parameter, w.value, w.hop = "relayhost", relayhost, relayhost
	}
	return w
}

// mailer is the way as [milter] remote names it.
func (w sendPath) mailer() string {
	if w.hop == "" {
		return w.transport
	}
	return w.transport + ":" + w.hop
}

// direct reports whether mail that goes there may go to its own domain instead.
func (w sendPath) direct(c *config.Config) bool { return slices.Contains(c.Milter.Remote, w.mailer()) }

// nexthop looks at what Postfix does with remote mail on the whole.
func (p *Postfix) nexthop(c *config.Config) []Finding {
	w := p.sendPath()
	if w.transport == "" || w.direct(c) {
		return nil
	}
	return []Finding{{Where: "main.cf",
		Wrong:  fmt.Sprintf("%s is %s, and [milter] remote does not have %q: Millrace leaves all mail that goes there with Postfix", w.parameter, w.value, w.mailer()),
		Remedy: fmt.Sprintf("if that mail may go to its own domain directly, add %q to remote", w.mailer())}}
}

func (p *Postfix) hello(c *config.Config, smtp *service) []Finding {
	name := p.value(smtp, "smtp_helo_name")
	if name == "" || strings.EqualFold(name, c.Hostname) {
		return nil
	}
	return []Finding{{Where: p.where(smtp, "smtp_helo_name"),
		Wrong:  fmt.Sprintf("Postfix greets receivers as %s (smtp_helo_name), Millrace as %s: a name that does not fit the address harms its reputation", name, c.Hostname),
		Remedy: fmt.Sprintf("set hostname = %q", name)}}
}

func (p *Postfix) protocols(c *config.Config, smtp *service) []Finding {
	value := p.value(smtp, "inet_protocols")
	theirs := list(value)
	if len(theirs) == 0 || slices.Contains(theirs, "all") {
		return nil
	}
	var more []string
	for _, protocol := range c.Agent.Protocols {
		if !slices.Contains(theirs, protocol) {
			more = append(more, protocol)
		}
	}
	if len(more) == 0 {
		return nil
	}
	return []Finding{{Where: p.where(smtp, "inet_protocols"),
		Wrong:  fmt.Sprintf("inet_protocols is %s, but diverted mail goes over %s too", value, strings.Join(more, ", ")),
		Remedy: fmt.Sprintf(`set [agent] protocols = ["%s"]`, strings.Join(theirs, `", "`))}}
}

// families are the protocols, and where smtp(8) finds the address for each.
var families = []struct {
	protocol, parameter string
	is                  func(netip.Addr) bool
}{
	{"ipv4", "smtp_bind_address", netip.Addr.Is4},
	{"ipv6", "smtp_bind_address6", netip.Addr.Is6},
}

// source compares the addresses that connections come from. Where each queue names a [[pool]],
// it has been said where all mail leaves from.
func (p *Postfix) source(c *config.Config, smtp *service) []Finding {
	if c.General.Pool != "" && !slices.ContainsFunc(c.Queues, func(q config.Queue) bool { return q.Pool == "" }) {
		return nil
	}
	var findings []Finding
	for _, family := range families {
		if !slices.Contains(c.Agent.Protocols, family.protocol) {
			continue
		}
		name := family.parameter
		addr, ok := p.bound(smtp, name)
		if !ok {
			name = "inet_interfaces"
			var err error
			if addr, err = p.onlyInterface(smtp, family.is); err != nil {
				continue
			}
		}
		if addr = addr.Unmap(); slices.Contains(c.Agent.SourceAddresses, addr) {
			continue
		}
		all := []string{fmt.Sprintf("%q", addr)}
		for _, a := range c.Agent.SourceAddresses {
			if !family.is(a) {
				all = append(all, fmt.Sprintf("%q", a))
			}
		}
		findings = append(findings, Finding{Where: p.where(smtp, name),
			Wrong:  fmt.Sprintf("Postfix sends from %s (%s), Millrace from another address: SPF, reverse DNS and reputation belong to the address", addr, name),
			Remedy: fmt.Sprintf("set [agent] source_addresses = [%s]", strings.Join(all, ", "))})
	}
	return findings
}

// bound is the address that smtp(8) is told to bind to. 0.0.0.0 and :: are none.
func (p *Postfix) bound(smtp *service, parameter string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.Trim(p.value(smtp, parameter), "[]"))
	return addr, err == nil && !addr.IsUnspecified()
}

// onlyInterface returns the address of a family that smtp(8) binds to because
// inet_interfaces has no other, and an error if there is none. A list with names
// in it would need a resolver and counts as none.
func (p *Postfix) onlyInterface(smtp *service, is func(netip.Addr) bool) (netip.Addr, error) {
	var only netip.Addr
	err := fmt.Errorf("no sole address in inet_interfaces")
	n := 0
	for _, i := range list(p.value(smtp, "inet_interfaces")) {
		a, bad := netip.ParseAddr(strings.Trim(i, "[]"))
		if bad != nil {
			return netip.Addr{}, bad
		}
		if is(a) {
			n, only = n+1, a
		}
	}
	if n != 1 || only.IsLoopback() || only.IsUnspecified() {
		return netip.Addr{}, err
	}
	return only, nil
}

// protection compares TLS levels.
func (p *Postfix) protection(c *config.Config, smtp *service) []Finding {
	level := p.value(smtp, "smtp_tls_security_level")
	name := "smtp_tls_security_level"
	if level == "" { // the settings of old, see TLS_README
		switch {
		case p.value(smtp, "smtp_enforce_tls") == "yes":
			name, level = "smtp_enforce_tls", "encrypt"
		case p.value(smtp, "smtp_use_tls") == "yes":
			name, level = "smtp_use_tls", "may"
		}
	}
	where := p.where(smtp, name)
	var findings []Finding
	need := map[string]config.TLS{
		"may": config.TLSOpportunistic, "dane": config.TLSOpportunistic, "encrypt": config.TLSRequired,
		"dane-only": config.TLSVerify, "fingerprint": config.TLSVerify, "verify": config.TLSVerify, "secure": config.TLSVerify,
	}[level]
	if weaker := weakerThan(c, need); len(weaker) > 0 {
		findings = append(findings, Finding{Where: where,
			Wrong:  fmt.Sprintf("%s makes TLS %q for Postfix, but not for queues %s", name, level, strings.Join(weaker, ", ")),
			Remedy: fmt.Sprintf("set tls = %q there; [[queue]] tables without tls have that of [general]", need)})
	}
	if (level == "dane" || level == "dane-only") && !trustsDNSSEC(c) {
		findings = append(findings, Finding{Where: where,
			Wrong:  fmt.Sprintf("smtp_tls_security_level is %s, but Millrace looks for no TLSA records: dane is %s, and not every resolver is on this host", level, c.Agent.DANE),
			Remedy: "run a validating resolver here, such as unbound, and set [agent] resolvers = [\"127.0.0.1:53\"]; dane = true trusts any resolver"})
	}
	for _, name := range []string{"smtp_tls_policy_maps", "smtp_tls_per_site"} {
		if v := p.value(smtp, name); v != "" {
			findings = append(findings, Finding{Where: p.where(smtp, name),
				Wrong:  fmt.Sprintf("%s is set (%s): diverted mail does not follow it", name, v),
				Remedy: "say the same by a [[queue]] with tls, or with route = \"handback\""})
		}
	}
	return findings
}

// trustsDNSSEC reports whether the agent will use DANE.
func trustsDNSSEC(c *config.Config) bool {
	o := route.Options{Resolvers: c.Agent.Resolvers}
	switch c.Agent.DANE {
	case config.DANETrue:
		o.DANE = route.TrustAlways
	case config.DANEFalse:
		o.DANE = route.TrustNever
	}
	r, err := route.New(o)
	return err == nil && r.TrustsDNSSEC()
}

// weakerThan names the queues that send by themselves, and with less protection.
func weakerThan(c *config.Config, need config.TLS) []string {
	order := []config.TLS{config.TLSNone, config.TLSOpportunistic, config.TLSRequired, config.TLSVerify}
	rank := slices.Index(order, need)
	var names []string
	note := func(q *config.Queue) {
		if q.Route.Kind == config.RouteMX && slices.Index(order, q.TLS) < rank {
			names = append(names, q.Name)
		}
	}
	note(&c.General)
	for i := range c.Queues {
		note(&c.Queues[i])
	}
	return names
}
