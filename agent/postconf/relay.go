package postconf

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// ports is how many of them set-up tries for the hand-back service.
const ports = 50

// RelayOptions say where the hand-back service may listen.
type RelayOptions struct {
	// Fixed: the admin has set [handback] relay, and no other will do.
	Fixed bool
	// Others are the host's further instances, which may be stopped: their ports are taken.
	Others []*Postfix
	// Listen tells whether a port is free; nil is net.Listen.
	Listen func(network, address string) (net.Listener, error)
}

// Relay is where mail is to come back to this Postfix: where it does already; or where
// [handback] relay says, if master(8) could listen there and nobody does; or else, if
// the admin has not set it, on another loopback port.
func (p *Postfix) Relay(c *config.Config, o RelayOptions) (string, error) {
	relay := c.Handback.Relay
	if at := p.handbackAt(); at != "" && !o.Fixed {
		relay = at
	}
	if p.takesBack(relay) {
		return relay, nil
	}
	host, port, err := net.SplitHostPort(relay)
	if err != nil || !isLocalhost(host) {
		return relay, nil // no port of this host, and so none to be chosen
	}
	why := p.taken(relay, o)
	if why == "" {
		return relay, nil
	}
	first, err := strconv.Atoi(port)
	if o.Fixed || err != nil {
		return "", fmt.Errorf("[handback] relay %s: %s; remedy: set another loopback port", relay, why)
	}
	if p.disables(relay, "inet") {
		return "", fmt.Errorf("nothing can come back to Postfix: %s; remedy: leave inet out of master_service_disable", why)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		for n := first; n < first+ports; n++ {
			if at := net.JoinHostPort(host, strconv.Itoa(n)); p.taken(at, o) == "" {
				return at, nil
			}
		}
	}
	return "", fmt.Errorf("no loopback port for the hand-back service: %s: %s; remedy: free one, and set [handback] relay to it", relay, why)
}

// takesBack reports whether a service of master.cf takes mail at an endpoint.
func (p *Postfix) takesBack(endpoint string) bool {
	return slices.ContainsFunc(p.services, func(s service) bool { return s.command == "smtpd" && p.listens(&s, endpoint) })
}

// handbackAt is the endpoint of the hand-back service in master.cf, as set-up writes it.
func (p *Postfix) handbackAt() string {
	for i := range p.services {
		if s := &p.services[i]; s.kind == "inet" && s.command == "smtpd" && s.set["syslog_name"] == "postfix/handback" {
			if _, _, err := net.SplitHostPort(s.name); err == nil {
				return s.name
			}
		}
	}
	return ""
}

// taken says why the hand-back service cannot have an endpoint; "" if it can.
func (p *Postfix) taken(endpoint string, o RelayOptions) string {
	if why := p.cannotListen(endpoint); why != "" {
		return why
	}
	for i := range p.services {
		if s := &p.services[i]; p.listens(s, endpoint) {
			return fmt.Sprintf("master.cf has it for %s", s.command)
		}
	}
	for _, other := range o.Others {
		for i := range other.services {
			if other.listens(&other.services[i], endpoint) {
				return fmt.Sprintf("the Postfix of %s has it", other.dir)
			}
		}
	}
	listen := o.Listen
	if listen == nil {
		listen = net.Listen
	}
	l, err := listen("tcp", endpoint)
	if err != nil {
		return err.Error()
	}
	l.Close()
	return ""
}

// cannotListen says why master(8) would not listen at an endpoint, or not start with a
// service there; "" if it would.
func (p *Postfix) cannotListen(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil || strings.HasPrefix(endpoint, "unix:") {
		return ""
	}
	if p.disables(endpoint, "inet") {
		return fmt.Sprintf("master_service_disable is %s, and no such service listens", p.main["master_service_disable"])
	}
	ip := net.ParseIP(host)
	protocols := list(p.main["inet_protocols"])
	if ip == nil || slices.Contains(protocols, "all") {
		return ""
	}
	family := "ipv6"
	if ip.To4() != nil {
		family = "ipv4"
	}
	if !slices.Contains(protocols, family) {
		return fmt.Sprintf("inet_protocols is %s, and Postfix does not start with an address of %s", p.main["inet_protocols"], family)
	}
	return ""
}
