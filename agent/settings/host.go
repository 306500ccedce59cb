package settings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/smtp"
)

// Host is the server at the other end, for log lines and reports, and what the
// domain's policies need there.
type Host struct {
	Name   string
	Addr   netip.AddrPort
	Socket string // path of a Unix socket, which has no address; "simulated" of [simulate]
	Need   route.Need

	Preference uint16 // of the MX record
	Otherwise  bool   // it is of another family than the route's favoured source
}

// Place is the address without its port, or the socket's path.
func (p Host) Place() string {
	if p.Socket != "" {
		return p.Socket
	}
	return p.Addr.Addr().String()
}

// Known says whether there is a host: the zero Host is none.
func (p Host) Known() bool { return p.Addr.IsValid() || p.Socket != "" }

// String writes it as Postfix does: "mx1.example.com[192.0.2.1]".
func (p Host) String() string { return fmt.Sprintf("%s[%s]", p.Name, p.Place()) }

// Relay writes it as Postfix does in relay=: with the port, if it has one.
func (p Host) Relay() string {
	if p.Socket != "" {
		return p.String()
	}
	return fmt.Sprintf("%s:%d", p, p.Addr.Port())
}

// HostNames are how a host is written: String in reports, Relay in log lines, Place in
// signals.
type HostNames struct{ Name, Relay, Place string }

// Names puts the names together, once for a connection.
func (p Host) Names() HostNames { return HostNames{p.String(), p.Relay(), p.Place()} }

// Options are how a connection to a host is opened. report is told what
// MTA-STS in testing mode finds.
func (s *Settings) Options(rt queue.Route, p Host, report func(string)) smtp.Options {
	from := rt.Source(p.Addr.Addr())
	o := smtp.Options{Hello: s.hello(from), Local: from, Socket: p.Socket, ImplicitTLS: rt.Queue.RelayWrappermode}
	if auth := rt.Queue.RelayAuth; auth != nil {
		o.Auth = &smtp.Auth{User: auth.User, Password: auth.Password, AnyCertificate: rt.Queue.RelayAuthTLS == config.TLSRequired}
	}
	if rt.Simulated {
		o.Dial = s.Simulated.Dial
	}
	s.tls.secure(&o, rt.Queue, p, report)
	if rt.Plan != nil && o.TLS < smtp.Verify && p.Need.Asks == route.Nothing {
		// Nobody's name is checked, so none is sent, as smtp(8) sends none: all whose mail
		// leads to the address share the session, and a stranger's name for it must not
		// decide about the others' TLS.
		o.ServerName = ""
	}
	return o
}

// Hosts lists the addresses of a route, in order, without the hosts that the domain's
// policies keep us from. When that leaves none, the error says why. A queue that wants no
// TLS minds no policy.
func (s *Settings) Hosts(rt queue.Route) ([]Host, error) {
	if rt.Simulated {
		return []Host{{Name: rt.Site, Socket: "simulated"}}, nil
	}
	if rt.Plan == nil {
		return relayHosts(rt)
	}
	var list []Host
	var kept error
	for _, x := range rt.Plan.Addresses(nil) {
		if rt.Queue.TLS == config.TLSNone {
			x.Need = route.Need{}
		}
		if x.Need.Asks == route.Avoid {
			kept = cmp.Or(kept, x.Need.Err)
			continue
		}
		list = append(list, Host{
			Name: x.Host, Addr: netip.AddrPortFrom(x.Addr, s.Config.Agent.Port), Need: x.Need, Preference: x.Preference,
			Otherwise: len(rt.Sources) > 0 && rt.Sources[0].Is4() != x.Addr.Is4(),
		})
	}
	if len(list) == 0 {
		return nil, kept
	}
	return list, nil
}

// Host is the server at one of a route's places. The error says that the policies in force
// keep us from it.
func (s *Settings) Host(rt queue.Route, at queue.Place) (Host, error) {
	list, err := s.Hosts(rt)
	if err != nil {
		return Host{}, err
	}
	for _, h := range list {
		if h.Addr == at.Addr {
			return h, nil
		}
	}
	return Host{}, Withheld{Err: fmt.Errorf("%v is no host of %s any more", at.Addr, rt.Site)}
}

// places are a route's hosts as the queue knows them: of a lower tier are those of a better
// preference; of these the favoured source's family; and of a host its first protocol.
func (s *Settings) places(rt queue.Route) []queue.Place {
	list, err := s.Hosts(rt)
	if err != nil {
		return nil // a connect will tell
	}
	first := make(map[string]bool) // host -> is its first address IPv4
	preferences := 0
	var places []queue.Place
	for i, h := range list {
		if i > 0 && h.Preference != list[i-1].Preference {
			preferences++
		}
		is4 := h.Addr.Addr().Is4()
		if _, known := first[h.Name]; !known {
			first[h.Name] = is4
		}
		if h.Socket != "" || slices.ContainsFunc(places, func(p queue.Place) bool { return p.Addr == h.Addr }) {
			continue // two names of one address: the better one
		}
		tier := 4 * preferences
		if h.Otherwise {
			tier += 2
		}
		if first[h.Name] != is4 {
			tier++
		}
		places = append(places, queue.Place{Addr: h.Addr, Source: rt.Source(h.Addr.Addr()), Tier: tier})
	}
	slices.SortStableFunc(places, func(a, b queue.Place) int { return cmp.Or(cmp.Compare(a.Tier, b.Tier), a.Addr.Compare(b.Addr)) })
	return places
}

// relayHosts are the addresses of a configured relay, "host:port" or "unix:/path".
func relayHosts(rt queue.Route) ([]Host, error) {
	if refused := rt.Queue.RelayAuthRefused; refused != "" {
		return nil, Withheld{Err: errors.New(refused)}
	}
	if path := config.RelaySocket(rt.Relay); path != "" {
		return []Host{{Name: "localhost", Socket: path}}, nil
	}
	host, _, _ := net.SplitHostPort(rt.Relay)
	var list []Host
	for _, p := range rt.Places {
		list = append(list, Host{Name: host, Addr: p.Addr})
	}
	return list, nil
}

// relayTTL is how long the addresses of a relay's name are used. The host's resolver does
// not tell.
const relayTTL = time.Minute

// relayed completes the route to a relay by its addresses.
func relayed(ctx context.Context, rt queue.Route) (queue.Route, error) {
	if config.RelaySocket(rt.Relay) != "" {
		return rt, nil
	}
	failed := func(err error) (queue.Route, error) {
		return queue.Route{}, &route.Error{Domain: rt.Relay, Reason: route.Temporary, Err: fmt.Errorf("relay %q: %w", rt.Relay, err)}
	}
	host, port, err := net.SplitHostPort(rt.Relay)
	if err != nil {
		return failed(err)
	}
	no, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return failed(err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return failed(err)
	}
	for _, x := range addrs {
		rt.Places = append(rt.Places, queue.Place{Addr: netip.AddrPortFrom(x.Unmap(), uint16(no))})
	}
	if _, err := netip.ParseAddr(host); err != nil {
		rt.Expires = time.Now().Add(relayTTL)
	}
	return rt, nil
}
