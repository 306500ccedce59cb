package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/printable"
	snippets "github.com/millrace/millrace/contrib/inlet"
)

// inletTOML is what millrace.toml needs on a host with Postfix or Sendmail.
const inletTOML = `[inlet]
listen  = ["inet:8825@127.0.0.1"]
pass_to = "inet:25@127.0.0.1"
`

// inlet shows what to set on the host of root, so that bulk mail comes to the inlet. It changes
// nothing: none of it is ours, and much of it is in databases.
func (c *setupCmd) inlet(g *globals, root fs.FS, out io.Writer) error {
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	in := &cfg.Inlet
	exim, smtpd := anyFile(root, "usr/sbin/exim4", "usr/sbin/exim", "usr/local/sbin/exim"), anyFile(root, "etc/smtpd.conf", "etc/mail/smtpd.conf", "etc/opensmtpd/smtpd.conf")
	var missing []error
	if !in.On() {
		lines := inletTOML
		if exim || smtpd {
			lines = strings.Replace(lines, ":25@", ":"+snippets.Pass+"@", 1) + "accept_bypass = [\"" + config.NotPostfix + "\"]\n"
		}
		printable.Fprintf(out, "%s", printable.Block("Write this into "+g.Config+", and restart millrace-milter:\n\n"+lines+"\n"))
		missing = append(missing, errors.New("[inlet] listen is empty: nobody takes such mail yet"))
	}
	if len(cfg.Milter.HostDomains) == 0 {
		missing = append(missing, errors.New("[milter] host_domains is empty, so that the inlet passes everything to the host; remedy: list the domains that this host delivers or relays"))
	}
	host, port := loopback(in.Listen...)
	if in.On() && port == "" {
		printable.Fprintf(out, "%s", printable.Block("[inlet] listens at Unix sockets alone: of these only msmtp can send there.\n\n"))
	}
	clients := snippets.At(snippets.Clients, port, "", "")
	if host != "" {
		clients = strings.ReplaceAll(clients, "127.0.0.1", host)
	}
	printable.Fprintf(out, "%s\n", printable.Block(clients))
	_, pass := loopback(in.PassTo)
	_, back, _ := net.SplitHostPort(cfg.Handback.Relay) // "" is a socket
	if !in.On() {
		pass = ""
	} else if (exim || smtpd) && pass == "25" {
		missing = append(missing, errors.New("[inlet] pass_to is port 25, where this MTA would offer the mail to the inlet again; remedy: give it a listener of its own for that, as shown, and name its port"))
		pass = ""
	}
	for _, mta := range []struct {
		here bool
		text string
	}{{exim, snippets.Exim}, {smtpd, snippets.OpenSMTPD}} {
		if mta.here {
			printable.Fprintf(out, "%s\n", printable.Block(snippets.At(mta.text, port, pass, back)))
		}
	}
	if in.On() && (exim || smtpd) && !slices.Contains(in.AcceptBypass, config.NotPostfix) {
		missing = append(missing, fmt.Errorf("[inlet] accept_bypass has no %q, so that all mail goes through to this MTA; remedy: add it, if bulk mail needs nothing that the MTA does to it as it leaves", config.NotPostfix))
	}
	if known := findInletClients(root, in).String(); known != "" {
		printable.Fprintf(out, "Of the inlet's clients %s.\n", known)
	}
	if !exim && !smtpd {
		printable.Fprintln(out, "What such mail passes by in Postfix, and keeps it with Postfix until you accept it, is told by millrace check.")
	}
	return errors.Join(missing...)
}

// loopback is the first listening address that is no socket; "" and "" if all are.
func loopback(listen ...string) (host, port string) {
	for _, l := range listen {
		if network, addr, err := config.ParseListen(l); err == nil && network != "unix" { // they were checked
			host, port, _ = net.SplitHostPort(addr)
			return host, port
		}
	}
	return "", ""
}

// anyFile reports whether one of the files is there.
func anyFile(root fs.FS, names ...string) bool {
	for _, name := range names {
		if _, err := fs.Stat(root, name); err == nil {
			return true
		}
	}
	return false
}
