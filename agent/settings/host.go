package settings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

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
	Socket string // path of a Unix socket, which has no address
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
	from := source(&rt, p.Addr.Addr())
	o := smtp.Options{Hello: s.hello(from), Local: from, Socket: p.Socket, ImplicitTLS: rt.Queue.RelayWrappermode}
	if auth := rt.Queue.RelayAuth; auth != nil {
		o.Auth = &smtp.Auth{User: auth.User, Password: auth.Password, AnyCertificate: rt.Queue.RelayAuthTLS == config.TLSRequired}
	}
	s.tls.secure(&o, rt.Queue, p, report)
	return o
}

// hello is the EHLO name that goes with a source address.
func (s *Settings) hello(source netip.Addr) string {
	agent := &s.Config.Agent
	if i := slices.Index(agent.SourceAddresses, source); i >= 0 && i < len(agent.SourceHostnames) {
		return agent.SourceHostnames[i]
	}
	return s.Config.Hostname
}

// Hosts lists the addresses to try, in order, without the hosts that the
// domain's policies keep us from. When that leaves none, the error says why. A
// queue that wants no TLS minds no policy.
func (s *Settings) Hosts(ctx context.Context, rt queue.Route) ([]Host, error) {
	if rt.Plan == nil {
		if refused := rt.Queue.RelayAuthRefused; refused != "" {
			return nil, Withheld{Err: errors.New(refused)}
		}
		return relayPeers(ctx, rt.Relay)
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

// relayPeers resolves a configured relay, "host:port" or "unix:/path".
func relayPeers(ctx context.Context, relay string) ([]Host, error) {
	if path := config.RelaySocket(relay); path != "" {
		return []Host{{Name: "localhost", Socket: path}}, nil
	}
	host, port, err := net.SplitHostPort(relay)
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", relay, err)
	}
	no, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", relay, err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", relay, err)
	}
	var list []Host
	for _, x := range addrs {
		list = append(list, Host{Name: host, Addr: netip.AddrPortFrom(x.Unmap(), uint16(no))})
	}
	return list, nil
}
