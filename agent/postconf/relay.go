package postconf

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// ports is how many of them set-up tries for a hand-back service that cannot have a socket.
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

// Relay is where mail is to come back to this Postfix. Where the admin has not set it,
// that is a socket, and where Postfix can have none a loopback port; why says so then.
// Where he has, the error says why it cannot be.
func (p *Postfix) Relay(c *config.Config, o RelayOptions) (relay, why string, err error) {
	if relay = c.Handback.Relay; o.Fixed {
		return relay, "", p.fits(relay, o)
	}
	relay = "unix:" + filepath.Join(p.public(), snippets.Socket)
	if p.takesBack(relay) {
		return relay, "", nil
	}
	why = p.taken(relay, o)
	if why == "" {
		return relay, "", nil
	}
	port, err := p.port(c.Handback.Relay, o)
	return port, fmt.Sprintf("mail comes back at the port %s, not at %s: %s", port, relay, why), err
}

// fits says why a relay that the admin has set cannot be.
func (p *Postfix) fits(relay string, o RelayOptions) error {
	host, _, err := net.SplitHostPort(relay)
	socket := config.RelaySocket(relay) != ""
	if p.takesBack(relay) || socket && p.publicName(relay) == "" || !socket && (err != nil || !isLocalhost(host)) {
		return nil // as it should be, or not of this Postfix, and so none to be chosen
	}
	switch why := p.taken(relay, o); {
	case why == "":
		return nil
	case socket:
		return fmt.Errorf("[handback] relay %s: %s; remedy: set another socket in %s, or leave relay out and set-up finds one", relay, why, p.public())
	default:
		return fmt.Errorf("[handback] relay %s: %s; remedy: set another loopback port, or leave relay out and set-up finds one", relay, why)
	}
}

// port is a loopback port for the hand-back service: the one where mail comes back
// already, or the first from that of the default relay on which master(8) could listen
// and nobody does.
func (p *Postfix) port(relay string, o RelayOptions) (string, error) {
	if at := p.handbackAt(); at != "" {
		relay = at
	}
	if p.takesBack(relay) {
		return relay, nil
	}
	why := p.taken(relay, o)
	if why == "" {
		return relay, nil
	}
	if p.disables(relay, "inet") {
		return "", fmt.Errorf("nothing can come back to Postfix: %s; remedy: leave inet out of master_service_disable", why)
	}
	_, port, err := net.SplitHostPort(relay)
	if err != nil {
		return "", err
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return "", err
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
	s := p.at(endpoint)
	return s != nil && s.command == "smtpd"
}

// handbackAt is the port of the hand-back service in master.cf, as earlier set-ups
// wrote it.
func (p *Postfix) handbackAt() string {
	for i := range p.services {
		if s := &p.services[i]; s.kind == "inet" && s.command == "smtpd" && s.set["syslog_name"] == snippets.SyslogName {
			if _, _, err := net.SplitHostPort(s.name); err == nil {
				return s.name
			}
		}
	}
	return ""
}

// taken says why the hand-back service cannot have an endpoint; "" if it can. A socket
// in public/ is only Postfix's own to make, so nobody else can have it.
func (p *Postfix) taken(endpoint string, o RelayOptions) string {
	if why := p.occupied(endpoint); why != "" || strings.HasPrefix(endpoint, "unix:") {
		return why
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

// occupied says why this Postfix's configuration leaves no room for the hand-back
// service at an endpoint; "" if it does.
func (p *Postfix) occupied(endpoint string) string {
	if strings.HasPrefix(endpoint, "unix:") && config.RelaySocket(endpoint) == "" {
		return "a socket's path has at most 107 bytes (unix(7))"
	}
	if why := p.cannotListen(endpoint); why != "" {
		return why
	}
	s := p.at(endpoint)
	if name := p.publicName(endpoint); name != "" {
		s = p.service(name, "unix")
	}
	switch {
	case s == nil:
		return ""
	case s.kind == "unix" && s.private && s.command == "smtpd":
		return fmt.Sprintf("master.cf has it for a private smtpd, which nobody but Postfix reaches: %s", p.reachable(s))
	default:
		return "master.cf has it for " + s.command
	}
}

// cannotListen says why master(8) would not listen at an endpoint, or not start with a
// service there; "" if it would.
func (p *Postfix) cannotListen(endpoint string) string {
	if name := p.publicName(endpoint); name != "" && p.disables(name, "unix") {
		return fmt.Sprintf("master_service_disable is %s, and that service does not run", p.main["master_service_disable"])
	}
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
