package milter

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// gate is a TCP listener that takes connections of this host and of
// [milter] peers, whatever address it listens at and whoever opened it, systemd
// included: a peer has mail sent in anybody's name. It takes the peers anew for each
// connection, so a reload counts at once.
type gate struct {
	net.Listener
	peers     func() []netip.Prefix
	log       *slog.Logger
	strangers *throttle
}

// gated puts the gate before a listener that other hosts may reach.
func (s *Server) gated(ln net.Listener) net.Listener {
	if _, ok := ln.Addr().(*net.TCPAddr); !ok {
		return ln
	}
	return gate{ln, func() []netip.Prefix { return s.setup.Load().cfg.Milter.Peers }, s.log, &s.strangers}
}

// Accept returns the next connection that may be served. Strangers are closed
// without a word, and one a minute is logged.
func (g gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted(c, g.peers()) {
			return c, nil
		}
		from := c.RemoteAddr().String()
		c.Close()
		if g.strangers.pass(time.Now()) {
			g.log.Warn("connection of another host to the milter refused; remedy: if an MTA runs there, list it in [milter] peers", "from", from)
		}
	}
}

// admitted reports whether a connection comes from this host or from a peer. Over
// TCP nobody else can have the address at both ends: what claims to come from an
// address of this host, and arrives from outside, is not answered there.
func admitted(c net.Conn, peers []netip.Prefix) bool {
	from, to := ip(c.RemoteAddr()), ip(c.LocalAddr())
	return from.IsLoopback() || from == to ||
		slices.ContainsFunc(peers, func(p netip.Prefix) bool { return p.Contains(from) })
}

func ip(a net.Addr) netip.Addr {
	if a, ok := a.(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
