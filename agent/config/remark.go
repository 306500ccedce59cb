package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// remark adds notices about a good configuration, and what of it is refused.
func (l *loader) remark() {
	l.refuseStrangers(&l.cfg.Milter)
	l.remarkRelays()
	l.remarkPools()
	l.remarkWarmups()
	l.remarkFleet()
	path := "agent.http.listen"
	if !l.given(path) {
		return
	}
	for i, listen := range l.cfg.Agent.HTTP.Listen {
		if !strings.HasPrefix(listen, "unix:") && !onLoopback(listen) {
			l.remarkOpen(fmt.Sprintf("%s[%d]", path, i), listen)
		}
	}
}

// remarkOpen is about an address that others reach.
func (l *loader) remarkOpen(path, listen string) {
	n := l.place(path)
	n.Text = remedy(fmt.Sprintf("listen: %s is open to others than this host: whoever reaches it sees the status page (no mail addresses) and the metrics", listen),
		`write "127.0.0.1:8891" and go there through ssh or a proxy that asks for a password, if this is not meant`)
	l.notices = append(l.notices, n)
}

// onLoopback reports whether only this host reaches a listen address.
func onLoopback(listen string) bool {
	host, _, _ := net.SplitHostPort(listen) // it was checked
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// remarkRelays names the queues whose TLS is raised for the sake of a password.
func (l *loader) remarkRelays() {
	remark := func(q *Queue, path string) {
		host, _, _ := net.SplitHostPort(q.Route.Relay)
		if q.Route.Kind != RouteRelay || q.RelayAuthFile == "" || q.TLS == TLSVerify || q.RelayAuthTLS != TLSVerify || onLoopback(q.Route.Relay) {
			return
		}
		at := path + ".relay_auth_file"
		if !l.given(at) {
			at = path + ".route"
		}
		n := l.place(at)
		n.Text = remedy(fmt.Sprintf("relay_auth_file: the password goes to %s only if its certificate is valid for that name, although tls = %q; else the mail waits", host, q.TLS),
			`write tls = "verify", or relay_auth_tls = "required" to trust any certificate`)
		l.notices = append(l.notices, n)
	}
	remark(&l.cfg.General, generalName)
	for i := range l.cfg.Queues {
		remark(&l.cfg.Queues[i], fmt.Sprintf("queue[%d]", i))
	}
}

// refuseStrangers notes sockets that other hosts could reach without being named.
func (l *loader) refuseStrangers(m *Milter) {
	if len(m.Peers) > 0 {
		return
	}
	for i, s := range m.Listen {
		network, addr, _ := ParseListen(s) // it was checked
		if network == "unix" || onLoopback(addr) {
			continue
		}
		n := l.place(fmt.Sprintf("milter.listen[%d]", i))
		n.Text = remedy(fmt.Sprintf("listen: %q is open to other hosts, and whoever reaches it sends mail as anybody; connections of this host alone are taken", s),
			`list the hosts of the MTA in [milter] peers, or write "unix:/path" or an address of loopback`)
		l.cfg.Refused = append(l.cfg.Refused, n)
	}
}
