package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Fleet joins hosts that each have their Postfix and their Millrace. They share limits that are
// declared so (shared = true of a [[queue]], a [[stream]], a [[pool]]), the quotas of streams,
// what admins order, and one view; never a queue of mail. Limits are lent by a store, Valkey or
// Redis from 6.2 on, with which each node speaks every five seconds. No node needs it to start
// or to send: while it is away each has its part of each limit. millrace-fleet(7) says what
// happens in which failure.
type Fleet struct {
	// Name names the fleet, and its keys in the store: letters, digits, hyphens. Default: "",
	// this host is of no fleet, and nothing of this table counts.
	Name string `toml:"name"`
	// Node is the name of this host in the fleet, which no other has: lower case letters, digits
	// and hyphens, 63 at most. A host that takes the name of another shares its part, and then
	// limits are exceeded. Default: the first label of the host's own name.
	Node string `toml:"node"`
	// Servers are the store's, asked in this order; the first that is not a replica is used:
	// "valkey://192.0.2.7:6379", with TLS "valkeys://store.example.com:6379"; "redis" and
	// "rediss" mean the same. Required with name.
	Servers []string `toml:"servers"`
	// User and PasswordFile are for the store: a user of its ACL, and a file with the password
	// as its only line, for root and the agent's group only. millrace check says what that user
	// must be allowed. Default: none; a password alone is the default user's.
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`
	// TLSCAFile is a PEM file with the authorities of the fleet. Only they vouch for other
	// nodes; for the store those of the system do, too. Default: none.
	TLSCAFile string `toml:"tls_ca_file"`
	// TLSCertFile and TLSKeyFile are PEM files with this node's certificate, of that authority,
	// with node among its DNS names, and its key, for root and the agent's group only. It signs
	// what admins order here, and is shown to other nodes and to the store. Without it, or if it
	// cannot be used, this node shares limits, and neither gives nor takes orders. Default: none.
	TLSCertFile string `toml:"tls_cert_file"`
	TLSKeyFile  string `toml:"tls_key_file"`
	// Listen is "address:port" for other nodes of the fleet, by mutual TLS. Default: "", this
	// node shows nothing to others and takes no mail of theirs.
	Listen string `toml:"listen"`
	// Advertise is "host:port" under which other nodes reach Listen. Default: listen.
	Advertise string `toml:"advertise"`
	// Nodes is how many hosts the fleet is to have. A node that the store has never granted
	// anything uses so great a part of each limit: the limit divided by Nodes. 0 is nothing, its
	// mail for what is shared waits. Default: 0.
	Nodes Count `toml:"nodes"`

	Stores   []FleetStore `toml:"-"` // of Servers
	Password string       `toml:"-"` // of PasswordFile
	// StoreRefused says why the store is not asked, KeyRefused why the certificate is not used;
	// "": they are.
	StoreRefused, KeyRefused string `toml:"-"`
}

// FleetStore is a server of the store.
type FleetStore struct {
	Address string // "host:port"
	TLS     bool
}

// On reports whether this host is of a fleet.
func (f *Fleet) On() bool { return f.Name != "" }

// Alone says why a node of a fleet neither gives nor takes orders, with its remedy; "": it does, or is
// of none.
func (f *Fleet) Alone() string {
	switch {
	case !f.On():
		return ""
	case f.TLSCAFile == "" || f.TLSCertFile == "":
		return remedy("this node has no certificate of the fleet: what is ordered on it is in force here only, and orders of other nodes do not reach it",
			"name tls_ca_file, tls_cert_file and tls_key_file in [fleet], see millrace-fleet(7), and restart millrace-agent")
	case f.KeyRefused != "":
		return remedy("this node uses no certificate of the fleet, so what is ordered on it is in force here only, and orders of other nodes do not reach it: "+f.KeyRefused,
			"mend that (millrace check), and restart millrace-agent")
	}
	return ""
}

// SharedQueue reports whether the fleet shares the sessions of a queue's sites.
func (c *Config) SharedQueue(q *Queue) bool { return c.Fleet.On() && q.Shared }

func (l *loader) checkFleet(f *Fleet) {
	if f.Name != "" && !l.bad["fleet.name"] && !isLabel(f.Name) {
		l.fail("fleet.name", remedy(fmt.Sprintf("name: %q cannot name a fleet", f.Name), `use lower case letters, digits and hyphens, 63 at most: name = "mail"`))
	}
	l.checkFleetNode(f)
	if f.On() && len(f.Servers) == 0 && !l.bad["fleet.servers"] {
		l.fail("fleet.name", remedy("a fleet without a store", `add servers = ["valkey://192.0.2.7:6379"], or write name = "" for none`))
	}
	for i, s := range f.Servers {
		if l.bad["fleet.servers"] {
			break
		}
		store, text := fleetStore(s)
		if text != "" {
			l.failElement("fleet.servers", i, "servers: "+text)
			continue
		}
		f.Stores = append(f.Stores, store)
	}
	for _, at := range []struct{ key, value string }{{"listen", f.Listen}, {"advertise", f.Advertise}} {
		if at.value != "" && !isHostPort(at.value) {
			l.fail("fleet."+at.key, remedy(fmt.Sprintf("%s: %q is not \"host:port\"", at.key, at.value), `write it like "192.0.2.7:8892"`))
		}
	}
	host, _, _ := net.SplitHostPort(f.Listen)
	switch ip := net.ParseIP(host); {
	case f.Listen == "" && f.Advertise != "":
		l.fail("fleet.advertise", remedy("advertise: this node listens nowhere", "add listen, or remove the line"))
	case f.Listen != "" && f.Advertise == "" && ip != nil && ip.IsUnspecified():
		l.fail("fleet.listen", remedy(fmt.Sprintf("listen: other nodes cannot call %s", f.Listen), `name the address, or say where they reach it: advertise = "192.0.2.7:8892"`))
	case f.Listen != "" && (f.TLSCAFile == "" || f.TLSCertFile == ""):
		l.fail("fleet.listen", remedy("listen: nodes know each other by certificates, and none is named", "add tls_ca_file, tls_cert_file and tls_key_file"))
	}
	if f.Advertise == "" {
		f.Advertise = f.Listen
	}
	if f.On() { // what is off needs no files
		l.checkFleetPassword(f)
		l.checkFleetTLS(f)
	}
}

// checkFleetNode looks at the node's name, and finds one where none is given.
func (l *loader) checkFleetNode(f *Fleet) {
	const hint = `use lower case letters, digits and hyphens, 63 at most: node = "mx1"`
	switch {
	case l.bad["fleet.node"]:
	case f.Node == "" && f.On():
		name, err := os.Hostname()
		first, _, _ := strings.Cut(strings.ToLower(name), ".")
		if err != nil || !isLabel(first) || first == "localhost" {
			l.fail("fleet.name", remedy(fmt.Sprintf("the host's own name %q cannot name a node", name), hint))
			return
		}
		f.Node = first
	case f.Node != "" && !isLabel(f.Node):
		l.fail("fleet.node", remedy(fmt.Sprintf("node: %q cannot name a node", f.Node), hint))
	}
}

// isLabel reports whether s may stand in the store's keys, in orders and, as a DNS name, in
// a certificate (RFC 1123 2.1).
func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// fleetStore reads a server's URL, or says what is wrong with it, without the password that may
// stand in it.
func fleetStore(s string) (FleetStore, string) {
	const like = `write it like "valkey://192.0.2.7:6379", or with TLS "valkeys://store.example.com:6379"`
	scheme, _, _ := strings.Cut(s, "://")
	secure := scheme == "valkeys" || scheme == "rediss"
	if !secure && scheme != "valkey" && scheme != "redis" {
		return FleetStore{}, remedy("this is no URL of valkey, valkeys, redis or rediss", like)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
		return FleetStore{}, remedy("this is no URL of "+scheme, like)
	case u.User != nil:
		return FleetStore{}, remedy("a password in a URL is shown with it", "write user and password_file")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return FleetStore{}, remedy(fmt.Sprintf("%q has more than a host and a port", s), like+"; the fleet uses database 0, and keys with its name")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	if !isHostPort(address) {
		return FleetStore{}, remedy(fmt.Sprintf("%q names no host and port", s), like)
	}
	return FleetStore{Address: address, TLS: secure}, ""
}

func (l *loader) checkFleetPassword(f *Fleet) {
	switch {
	case f.User != "" && f.PasswordFile == "":
		l.fail("fleet.user", remedy("user: a user without a password", "name the file that has it in password_file"))
	case f.PasswordFile == "":
	default:
		text, refused, ok := l.secretFile("fleet.password_file", f.PasswordFile, "the store is not asked, and this node uses its part of each limit")
		switch {
		case refused != "":
			f.StoreRefused = refused
		case !ok: // told, or not this user's business
			f.StoreRefused = fmt.Sprintf("password_file: %q may not be read by this user", f.PasswordFile)
		case text == "" || strings.ContainsAny(text, "\r\n\x00"):
			l.fail("fleet.password_file", remedy(fmt.Sprintf("password_file: %q is not one line", f.PasswordFile), "write the password, nothing else"))
		default:
			f.Password = text
		}
	}
}

// checkFleetTLS looks at whether the certificates can be used. A user who may not read them
// (the milter's, an admin's) has no business with them. Files that are missing or damaged must not
// keep a host from starting: it is a node without certificates then.
func (l *loader) checkFleetTLS(f *Fleet) {
	lost := func(key, text, todo string) {
		f.KeyRefused = key + ": " + text
		l.refuse("fleet."+key, remedy(f.KeyRefused+"; this node shares limits, and nothing is ordered or shown to other nodes from here", todo+", then restart millrace-agent"))
	}
	wrong := func(key, text, todo string) { l.fail("fleet."+key, remedy(key+": "+text, todo)) }
	for _, file := range []struct{ key, name string }{{"tls_ca_file", f.TLSCAFile}, {"tls_cert_file", f.TLSCertFile}, {"tls_key_file", f.TLSKeyFile}} {
		if file.name != "" && !filepath.IsAbs(file.name) {
			wrong(file.key, fmt.Sprintf("%q is not an absolute path", file.name), "begin it with /")
			return
		}
	}
	roots := x509.NewCertPool()
	if f.TLSCAFile != "" {
		text, err := os.ReadFile(f.TLSCAFile)
		switch {
		case errors.Is(err, fs.ErrPermission):
		case err != nil:
			lost("tls_ca_file", fmt.Sprintf("%q cannot be read: %s", f.TLSCAFile, cause(err)), "create it, or correct its name")
		case !roots.AppendCertsFromPEM(text):
			lost("tls_ca_file", fmt.Sprintf("%q has no certificate", f.TLSCAFile), "put the certificate of the fleet's authority there in PEM")
		}
	}
	switch {
	case f.TLSCertFile == "" && f.TLSKeyFile == "":
		return
	case f.TLSKeyFile == "":
		wrong("tls_cert_file", "a certificate without its key", "name the key in tls_key_file")
		return
	case f.TLSCertFile == "":
		wrong("tls_key_file", "a key without its certificate", "name the certificate in tls_cert_file")
		return
	}
	pair, err := tls.LoadX509KeyPair(f.TLSCertFile, f.TLSKeyFile)
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.KeyRefused = "tls_key_file: it may not be read by this user"
		return
	case f.KeyRefused != "": // told
		return
	case err != nil:
		lost("tls_cert_file", fmt.Sprintf("certificate and key cannot be used: %v", err), "give two PEM files that belong together, readable by the agent's user")
		return
	}
	if who := l.exposed(f.TLSKeyFile); who != "" {
		f.KeyRefused = fmt.Sprintf("tls_key_file: %s can read %q", who, f.TLSKeyFile)
		l.refuse("fleet.tls_key_file", remedy(f.KeyRefused+", and so pass for this node; it is not used, and nothing is ordered or shown to other nodes from here", ownReaders+"; then get a new key"))
	}
	if err := pair.Leaf.VerifyHostname(f.Node); err != nil && f.Node != "" && f.KeyRefused == "" {
		lost("tls_cert_file", fmt.Sprintf("%q is not for node %q: %v", f.TLSCertFile, f.Node, err), "get one with this node's name as a DNS name")
	}
}

// remarkFleet is about what is shared with nobody, and what goes over the wire unprotected.
func (l *loader) remarkFleet() {
	f := &l.cfg.Fleet
	remark := func(path, text, todo string) {
		at := l.place(path)
		at.Text = remedy(text, todo)
		l.notices = append(l.notices, at)
	}
	if !f.On() {
		const text, todo = "shared: this host is of no fleet, and the limit is its own alone", "add [fleet] with a name and servers, or remove the line"
		for i := range l.cfg.Queues {
			if path := fmt.Sprintf("queue[%d].shared", i); l.given(path) && l.cfg.Queues[i].Shared {
				remark(path, text, todo)
			}
		}
		if l.cfg.General.Shared {
			remark("general.shared", text, todo)
		}
		for i := range l.cfg.Streams {
			if l.cfg.Streams[i].Shared {
				remark(fmt.Sprintf("stream[%d].shared", i), text, todo)
			}
		}
		for i := range l.cfg.Pools {
			if l.cfg.Pools[i].Shared {
				remark(fmt.Sprintf("pool[%d].shared", i), text, todo)
			}
		}
		return
	}
	if f.TLSCAFile == "" || f.TLSCertFile == "" {
		at := l.place("fleet.name")
		at.Text = f.Alone()
		l.notices = append(l.notices, at)
	}
	for i, s := range f.Stores {
		if !s.TLS && !onLoopback(s.Address) {
			remark(fmt.Sprintf("fleet.servers[%d]", i), fmt.Sprintf("servers: what goes to %s, a password too, can be read and changed on the way", s.Address),
				`write "valkeys://", unless that network is the fleet's alone`)
		}
	}
}
