package classify

import (
	"fmt"
	"net/netip"
	"strings"
)

// scope says whose mail may be diverted at all.
type scope struct {
	authenticated bool
	loopback      bool
	clients       []netip.Prefix
	daemons       map[string]bool
}

func newScope(entries []string) (scope, error) {
	s := scope{daemons: map[string]bool{}}
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e, "daemon:"); ok {
			s.daemons[name] = true
			continue
		}
		switch e {
		case "authenticated":
			s.authenticated = true
		case "loopback":
			s.loopback = true
		default:
			p, err := netip.ParsePrefix(e)
			if err != nil {
				a, err := netip.ParseAddr(e)
				if err != nil {
					return s, fmt.Errorf("milter.scope: %q is neither authenticated, loopback, daemon:NAME nor a CIDR", e)
				}
				p = netip.PrefixFrom(a, a.BitLen())
			}
			s.clients = append(s.clients, p.Masked())
		}
	}
	return s, nil
}

// holds reports whether a message is in scope. sendmail(1) is run on the host
// itself, which is what loopback means, and so are the clients of the inlet.
func (s *scope) holds(m *Message) bool {
	if m.Inlet && m.Daemon != "" && s.daemons[m.Daemon] {
		return true
	}
	if m.Command || m.Inlet {
		return s.loopback
	}
	return s.authenticated && m.AuthUser != "" ||
		s.loopback && m.Client.IsLoopback() ||
		m.Daemon != "" && s.daemons[m.Daemon] ||
		contains(s.clients, m.Client)
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
