package postconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// Export is what of Postfix's settings has to hold for diverted mail too, in the
// terms of Millrace's configuration.
type Export struct {
	Hostname    string   // "" : nothing to be said
	HostDomains []string // nil: not wholly known
	Remote      []string // all transports to a recipient's own domain; nil: the default serves
	Sources     []netip.Addr
	Protocols   []string
	TLS         config.TLS // of the general queue; "" : the default serves
	General     Limits     // of the general queue
	Queues      []ExportedQueue
	// Notes are what could not be said.
	Notes []string
}

// Limits are Postfix's per-destination limits; zero values are its defaults.
type Limits struct {
	Sessions   int
	Recipients int
	Delay      time.Duration // between messages
}

// ExportedQueue are domains that transport_maps treat otherwise than the rest.
type ExportedQueue struct {
	Name    string // the transport, or "elsewhere"
	Domains []string
	Limits  Limits
	TLS     config.TLS
	// Handback: the mail goes where only Postfix knows.
	Handback bool
}

// Export looks at what Postfix does with mail that it sends itself. Domains that a
// specific queue of c lists are left out, with a note.
func (p *Postfix) Export(c *config.Config) *Export {
	smtp := p.sender()
	x := &Export{Hostname: p.value(smtp, "smtp_helo_name")}
	note := func(format string, args ...any) { x.Notes = append(x.Notes, fmt.Sprintf(format, args...)) }
	if x.Hostname != "" && !config.IsHostname(x.Hostname) {
		note("smtp_helo_name is %s, which is no host name: set hostname to one whose address receivers see", x.Hostname)
		x.Hostname = ""
	}

	if domains, err := p.everyOwnDomain(); err != nil {
		note("host_domains is left out, and mail of sendmail(1) stays with Postfix: %v", err)
	} else {
		x.HostDomains = domains
	}
	for _, protocol := range []string{"ipv4", "ipv6"} {
		theirs := list(p.value(smtp, "inet_protocols"))
		if slices.Contains(theirs, protocol) || slices.Contains(theirs, "all") {
			x.Protocols = append(x.Protocols, protocol)
		}
	}
	x.Sources = p.sources(smtp, x.Protocols)
	x.TLS = p.level(smtp)
	x.General = p.limits("smtp")

	if w := p.sendPath(); w.hop != "" {
		note("%s is %s: Millrace leaves all mail that goes there with Postfix", w.parameter, w.value)
	} else if smtp != nil && smtp.name == w.transport && w.transport != "smtp" {
		x.Remote = append(x.Remote, w.transport)
		x.General = p.limits(w.transport)
	}
	for _, name := range tokens(p.main["transport_maps"]) {
		entries, err := p.table(name)
		if err != nil {
			note("transport_maps %s: %v; mail that it sends elsewhere stays with Postfix", name, err)
			continue
		}
		for _, e := range entries {
			p.exportTransport(c, x, e, note)
		}
	}
	x.Remote = p.remote(smtp, x.Remote)
	return x
}

// remote is a [milter] remote with further transports beside the usual names; it has
// not the usual one where that sends otherwise than the one by which Millrace goes.
func (p *Postfix) remote(main *service, more []string) []string {
	usual := p.service("smtp", "unix")
	alike := usual == nil || main == nil || p.unlike(usual, main) == ""
	if len(more) == 0 && alike {
		return nil
	}
	slices.Sort(more)
	more = slices.Compact(more)
	if alike {
		more = append([]string{"smtp", "esmtp"}, more...)
	}
	return more
}

// transport is the service of master.cf that a transport names.
func (p *Postfix) transport(name string) *service { return p.service(name, "unix") }

// exportTransport puts an entry of transport_maps into a queue.
func (p *Postfix) exportTransport(c *config.Config, x *Export, e entry, note func(string, ...any)) {
	transport, hop, _ := strings.Cut(e.result, ":")
	if transport == "" {
		transport, _, _ = strings.Cut(p.main["default_transport"], ":")
		if hop == "" {
			return // the same as for all others
		}
	}
	domain := strings.ToLower(e.key)
	switch {
	case e.pattern || strings.Contains(domain, "@") || domain == "*":
		note("transport_maps sends %s to %s: say the same by a [[queue]], or leave such mail with Postfix by a [[milter.rule]]", e.key, e.result)
		return
	case strings.HasPrefix(domain, "."):
		domain = "*" + domain
	case slices.Contains(x.HostDomains, domain):
		return
	}
	if _, err := config.ListedDomain(domain); err != nil {
		return // a name without a dot, an address in brackets: never diverted
	}
	if q := c.Match(strings.TrimPrefix(domain, "*.")); q != nil {
		note("transport_maps sends %s to %s, and queue %s lists it already: see that its limits fit", e.key, e.result, q.Name)
		return
	}
	s := p.transport(transport)
	// Millrace sends as one: what another transport sends otherwise stays with Postfix.
	direct := s != nil && s.command == "smtp" && hop == ""
	if main := p.sender(); direct && main != nil {
		if odd := p.unlike(s, main); odd != "" {
			note("transport_maps sends %s to %s, which has another %s than %s: such mail stays with Postfix", e.key, e.result, odd, main.name)
			direct = false
		}
	}
	name := transport
	if !direct {
		name = "elsewhere"
	}
	i := slices.IndexFunc(x.Queues, func(q ExportedQueue) bool { return q.Name == name })
	if i < 0 {
		q := ExportedQueue{Name: name, Handback: !direct}
		if direct {
			q.Limits, q.TLS = p.limits(transport), p.level(s)
			if transport != "smtp" {
				x.Remote = append(x.Remote, transport)
			}
		}
		i, x.Queues = len(x.Queues), append(x.Queues, q)
	}
	if q := &x.Queues[i]; !slices.Contains(q.Domains, domain) {
		q.Domains = append(q.Domains, domain)
	}
}

// limits are those of one transport, as qmgr(8) looks them up.
func (p *Postfix) limits(transport string) (l Limits) {
	get := func(what string) string {
		if v := p.main[transport+"_"+what]; v != "" {
			return v
		}
		return p.main["default_"+what]
	}
	if n, err := strconv.Atoi(get("destination_concurrency_limit")); err == nil && n != 20 {
		l.Sessions = n
	}
	if n, err := strconv.Atoi(get("destination_recipient_limit")); err == nil && n != 50 {
		l.Recipients = n
	}
	if d, err := seconds(get("destination_rate_delay")); err == nil {
		l.Delay = d
	}
	return l
}

// level is the protection that an smtp(8) service insists on.
func (p *Postfix) level(s *service) config.TLS {
	switch p.value(s, "smtp_tls_security_level") {
	case "encrypt":
		return config.TLSRequired
	case "dane-only", "fingerprint", "verify", "secure":
		return config.TLSVerify
	}
	return ""
}

// sources are the addresses that smtp(8) binds to.
func (p *Postfix) sources(smtp *service, protocols []string) (all []netip.Addr) {
	for _, f := range families {
		if !slices.Contains(protocols, f.protocol) {
			continue
		}
		addr, ok := p.bound(smtp, f.parameter)
		if !ok {
			var err error
			if addr, err = p.onlyInterface(smtp, f.is); err != nil {
				continue
			}
		}
		all = append(all, addr.Unmap())
	}
	return all
}

// everyOwnDomain are the domains that Postfix delivers or relays, those in tables
// too. The error says which are not known.
func (p *Postfix) everyOwnDomain() ([]string, error) {
	own := p.ownDomains()
	for _, name := range []string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains"} {
		for _, t := range tokens(p.main[name]) {
			if strings.HasPrefix(t, "/") {
				return nil, fmt.Errorf("%s names a file, %s", name, t)
			}
			if !strings.Contains(t, ":") || strings.HasPrefix(t, "[") {
				continue
			}
			entries, err := p.table(t)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", name, t, err)
			}
			for _, e := range entries {
				if e.pattern {
					return nil, fmt.Errorf("%s %s has patterns", name, t)
				}
				// virtual_alias_domains is virtual_alias_maps by default: addresses.
				if !strings.ContainsAny(e.key, "@[") {
					addDomain(&own, e.key)
				}
			}
		}
	}
	return own, nil
}
