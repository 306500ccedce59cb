package config

import (
	"fmt"
	"net"
	"net/netip"
)

// remark adds notices about a good configuration.
func (l *loader) remark() {
	path, listen := "agent.http.listen", l.cfg.Agent.HTTP.Listen
	if !l.given(path) || listen == "" || onLoopback(listen) {
		return
	}
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
