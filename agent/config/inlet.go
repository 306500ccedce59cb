package config

import (
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Inlet configures the SMTP listener of millrace-milter: mail that is bulk as a whole goes
// into the spool without the host MTA, all other mail through to it.
type Inlet struct {
	// Listen is where list software hands mail in: "unix:/path", "inet:port@address" or
	// "inet6:port@[address]", of loopback only. Who may connect there sends mail as anybody:
	// every user of this host at an address of loopback, those of allow at a Unix socket.
	// Other hosts use the submission port of the MTA. Default: none, there is no inlet.
	Listen []string `toml:"listen"`
	// PassTo is the SMTP port of the host MTA that gets all mail that is not bulk:
	// "inet:port@address" or "inet6:port@[address]" of loopback, or "unix:/path". It must be a
	// port where the MTA asks the milter, as it would for mail of these clients.
	// Default: "inet:25@127.0.0.1".
	PassTo string `toml:"pass_to"`
	// Allow are the users who may send at a Unix socket, by name or number; the kernel says who
	// has connected. At least one is needed for a Unix socket, "*" is every user that the
	// socket's mode lets in. Default: none.
	Allow []string `toml:"allow"`
	// AcceptBypass names settings of the host MTA that never see mail that the inlet has
	// spooled, and that may be passed by: those of [milter] accept_bypass and
	// "smtpd_sender_login_maps", "transport_maps", "relayhost"; on a host without Postfix,
	// whose settings cannot be read, "not-postfix" for all that its MTA would do. While one is in use that is not named here, all mail is passed to the host,
	// and "millrace check" says which. Default: none.
	AcceptBypass []string `toml:"accept_bypass"`
	// MaxConnections is how many clients are served at a time, and half of it how many of one
	// user at a Unix socket; more are told 421. Whose a connection to an address is the kernel
	// does not say, so any user of this host can take all of them there. Default: 100 (Postfix's default_process_limit).
	MaxConnections int `toml:"max_connections"`
	// MaxRecipients is how many recipients a message may have; more are told 452. While it is
	// above the limit of a host's Postfix all mail is passed, and of a host MTA that takes
	// fewer the limit is learnt. Default: 1000 (Postfix's smtpd_recipient_limit).
	MaxRecipients int `toml:"max_recipients"`
	// MaxMessageSize is the size of a message, in octets, that is announced and above which it
	// is refused. While it is above the limit of a host's Postfix all mail is passed. Default: 10240000 (Postfix's
	// message_size_limit).
	MaxMessageSize Size `toml:"max_message_size"`
	// Timeout is how long a client may take over a command, or be silent within a message.
	// Default: "5m" (Postfix's smtpd_timeout).
	Timeout time.Duration `toml:"timeout"`

	// UIDs are the numbers of the users of Allow; Anybody is "*".
	UIDs    []uint32 `toml:"-"`
	Anybody bool     `toml:"-"`
}

// On reports whether there is an inlet.
func (i *Inlet) On() bool { return len(i.Listen) > 0 }

// Host is where mail goes that does not go by the inlet, as it is set in a client:
// "127.0.0.1 port 25", or "the socket /path".
func (i *Inlet) Host() string {
	network, addr, err := ParseListen(i.PassTo)
	if err != nil || network == "unix" {
		return "the socket " + addr
	}
	host, port, _ := net.SplitHostPort(addr)
	return host + " port " + port
}

// NotPostfix is the name of [inlet] accept_bypass for all that another MTA than Postfix would
// do with the mail; its settings cannot be read.
const NotPostfix = "not-postfix"

// InletBypasses are the names of [inlet] accept_bypass beside those of Bypasses: settings
// that act before the milter, or on the choice of the next hop, and so on mail that the
// milter diverts; and NotPostfix.
func InletBypasses() []string {
	return []string{"smtpd_sender_login_maps", "transport_maps", "relayhost", NotPostfix}
}

func (l *loader) checkInlet(i *Inlet) {
	for n, s := range i.Listen {
		path := fmt.Sprintf("inlet.listen[%d]", n)
		network, addr, err := ParseListen(s)
		switch {
		case err != nil:
			l.failElement("inlet.listen", n, "listen: "+err.Error())
		case network == "unix":
			if len(i.Allow) == 0 {
				l.fail(path, remedy(fmt.Sprintf("listen: nobody may send at %q", s), `list the users in [inlet] allow, like allow = ["list", "www-data"]`))
			}
		case !onLoopback(addr):
			l.fail(path, remedy(fmt.Sprintf("listen: %q is open to other hosts, and whoever reaches it sends mail as anybody", s),
				`write "inet:8825@127.0.0.1" or "unix:/path"; other hosts use the submission port of the MTA`))
		}
		if s == i.PassTo {
			l.fail(path, remedy(fmt.Sprintf("listen: %q is pass_to as well: mail would go round in a circle", s), "name the port of the host MTA in pass_to"))
		}
	}
	if network, addr, err := ParseListen(i.PassTo); err != nil {
		l.fail("inlet.pass_to", "pass_to: "+err.Error())
	} else if network != "unix" && !onLoopback(addr) {
		l.fail("inlet.pass_to", remedy(fmt.Sprintf("pass_to: %q is not on this host", i.PassTo), `write the port of the host MTA, like "inet:25@127.0.0.1"`))
	} else if _, port, _ := net.SplitHostPort(addr); i.On() && network != "unix" && l.isHandback(addr, port) {
		l.fail("inlet.pass_to", remedy("pass_to: this is the port for mail that is handed back, where nothing is checked", "name the port where the host MTA takes mail of its clients"))
	}
	for n, name := range i.Allow {
		if name == "*" {
			i.Anybody = true
			continue
		}
		id, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			u, lookup := user.Lookup(name)
			if lookup != nil {
				l.failElement("inlet.allow", n, remedy(fmt.Sprintf("allow: there is no user %q", name), "write a user's name or number"))
				continue
			}
			id, _ = strconv.ParseUint(u.Uid, 10, 32)
		}
		i.UIDs = append(i.UIDs, uint32(id))
	}
	known := append(Bypasses(), InletBypasses()...)
	for n, name := range i.AcceptBypass {
		if !slices.Contains(known, name) {
			l.failElement("inlet.accept_bypass", n, remedy(fmt.Sprintf("accept_bypass: %q is unknown", name), "known names are "+strings.Join(known, ", ")))
		}
	}
}

// isHandback reports whether an address is [handback] relay.
func (l *loader) isHandback(addr, port string) bool {
	_, relay, err := net.SplitHostPort(l.cfg.Handback.Relay)
	return addr == l.cfg.Handback.Relay || err == nil && relay == port && onLoopback(l.cfg.Handback.Relay)
}
