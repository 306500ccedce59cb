package classify

import (
	"strings"

	"github.com/millrace/millrace/agent/address"
)

// remoteOnes marks the recipients that the host would send to their own domain
// over the internet. If there is none, or the mail cannot be split and not all
// are, it returns nil and why.
func (c *Classifier) remoteOnes(m *Message) ([]bool, string) {
	if m.Command {
		return c.allOrNone(m, "sendmail(1) mail")
	}
	if m.Inlet {
		return c.allOrNone(m, "mail of the inlet")
	}
	divert := make([]bool, len(m.Recipients))
	any := false
	for i := range m.Recipients {
		divert[i] = c.remoteOne(&m.Recipients[i])
		any = any || divert[i]
	}
	if !any {
		return nil, "no remote recipient"
	}
	return divert, ""
}

// remoteOne judges by the transport the host chose: it must be a plain remote
// one, and its next hop the recipient's own domain. A next hop in brackets, with
// a port or of another name is a transport map, a relayhost or a smarthost; the
// admin may name such a next hop in milter.remote.
func (c *Classifier) remoteOne(r *Recipient) bool {
	domain := domainOf(r.Address)
	if !address.Plain(r.Address) || c.hostDomains.match(domain) {
		return false
	}
	// Sendmail writes a domain that it has looked up with a final dot.
	mailer, host := strings.ToLower(r.Mailer), strings.ToLower(strings.TrimSuffix(r.Host, "."))
	if c.remote[nexthop{mailer, host}] && host != "" {
		return true
	}
	return c.remote[nexthop{mailer, ""}] && host == domain
}

// Remote reports whether mail with such a mailer leaves over the internet, to
// whichever host.
func (c *Classifier) Remote(mailer string) bool { return c.mailers[strings.ToLower(mailer)] }

// allOrNone judges mail of sendmail(1) and of the inlet, for which no transport is
// known: its recipients are remote if their domains are none of the host's, and
// only when the host's domains have been listed. The MTA cannot be told to keep
// some of sendmail(1)'s, and a message of the inlet has one owner, so it is all or none.
func (c *Classifier) allOrNone(m *Message, what string) ([]bool, string) {
	if len(c.hostDomains) == 0 {
		return nil, what + ", and host_domains is empty"
	}
	if len(m.Recipients) == 0 {
		return nil, "no remote recipient"
	}
	divert := make([]bool, len(m.Recipients))
	for i := range m.Recipients {
		if !c.MayBeRemote(m.Recipients[i].Address) {
			return nil, what + " with a recipient that is not remote"
		}
		divert[i] = true
	}
	return divert, ""
}

// MayBeRemote reports whether an address without a known transport is one that the host
// does not deliver itself, by the list of its domains; without that list, none is.
func (c *Classifier) MayBeRemote(a string) bool {
	return len(c.hostDomains) > 0 && address.Plain(a) && !c.hostDomains.match(domainOf(a))
}
