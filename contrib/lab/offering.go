package lab

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/contrib/inlet"
)

// OfferingOptions says where an MTA without a milter finds our inlet, and where it takes back
// what Millrace does not keep.
type OfferingOptions struct {
	MTA   string // "exim" or "opensmtpd"
	Inlet string // [inlet] listen, as 127.0.0.1:8825
	Pass  string // [inlet] pass_to
	// DNS is the address, without a port, of the name server. Default: Resolver.
	DNS string
	// Far is the host, as 127.101.1.1, that OpenSMTPD gives its own mail to: it looks up no
	// addresses where the only interface is loopback (AI_ADDRCONFIG).
	Far string
	// Senders are those whose mail OpenSMTPD offers: "@news.example.com".
	Senders []string
}

// Offering is a host MTA that offers its bulk mail to our inlet, with the lines of
// contrib/inlet: Debian's Exim or OpenSMTPD.
type Offering struct {
	*far
	handback string
	tools    offeringTools
}

// offeringTools are an MTA's own commands.
type offeringTools struct {
	sendmail, queue, flush []string
	queued                 func(out []byte) (int, error)
}

var _ Host = (*Offering)(nil)

// StartOffering starts it, and waits until it answers. The program must be isolated. Stop
// removes everything.
func StartOffering(ctx context.Context, o OfferingOptions) (*Offering, error) {
	h := &Offering{}
	_, listen, err := net.SplitHostPort(o.Inlet)
	if err != nil {
		return nil, err
	}
	_, pass, err := net.SplitHostPort(o.Pass)
	if err != nil {
		return nil, err
	}
	pkg, install := "exim4", h.installExim
	if o.MTA == "opensmtpd" {
		pkg, install = o.MTA, h.installOpenSMTPD
	}
	h.far, err = startFar(ctx, pkg, "", o.DNS, func(f *far) ([]string, error) {
		h.far = f
		var err error
		if h.handback, err = f.ports.free(); err != nil {
			return nil, err
		}
		_, handback, err := net.SplitHostPort(h.handback)
		if err != nil {
			return nil, err
		}
		return install(o, func(text string) string { return inlet.At(text, listen, pass, handback) })
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// installExim is a host with the lines of contrib/inlet where they say.
func (h *Offering) installExim(o OfferingOptions, at func(string) string) ([]string, error) {
	h.tools = offeringTools{
		sendmail: []string{"/usr/sbin/exim4", "-i"}, queue: []string{"/usr/sbin/exim4", "-bpc"}, flush: []string{"/usr/sbin/exim4", "-qff"},
		queued: func(out []byte) (int, error) { return strconv.Atoi(strings.TrimSpace(string(out))) },
	}
	return h.far.installExim(eximConf(h.LocalDomains(), h.smtp, o.Pass, h.handback) + `
queue_run_max = 5
hostlist relay_from_hosts = 127.0.0.1
remote_max_parallel = 10

begin acl
acl_rcpt:
  accept condition = ` + at("${if eq{$received_port}{"+inlet.Handback+"}}") + `
  accept hosts = +relay_from_hosts
  accept domains = +local_domains
  deny message = relay not permitted

begin routers
` + at(inlet.Part(inlet.Exim, "router")) + `
remote:
  driver = dnslookup
  domains = ! +local_domains
  transport = remote_smtp
  no_more
local:
  driver = accept
  transport = box

begin transports
` + at(inlet.Part(inlet.Exim, "transport")) + `
remote_smtp:
  driver = smtp
  hosts_avoid_tls = *
` + eximBox + `
begin retry
* * F,1h,1s
`)
}

// installOpenSMTPD is a host with the lines of contrib/inlet where they say.
func (h *Offering) installOpenSMTPD(o OfferingOptions, at func(string) string) ([]string, error) {
	h.tools = offeringTools{
		sendmail: []string{"/usr/sbin/sendmail"}, queue: []string{"/usr/sbin/smtpctl", "show", "queue"}, flush: []string{"/usr/sbin/smtpctl", "schedule", "all"},
		queued: func(out []byte) (int, error) { return bytes.Count(out, []byte("\n")), nil },
	}
	senders := strings.Replace(inlet.Part(inlet.OpenSMTPD, "table"), `"@news.example.com", "@lists.example.com"`, `"`+strings.Join(o.Senders, `", "`)+`"`, 1)
	listen, err := listenOn(h.smtp, "hostname "+Hostname)
	return h.far.installOpenSMTPD(listen+at(inlet.Part(inlet.OpenSMTPD, "listen"))+senders+openSMTPDBox+`
action "outbound" relay host "smtp://`+o.Far+`" helo `+Hostname+`
match from any for domain { `+strings.Join(h.LocalDomains(), ", ")+` } action "box"
`+at(inlet.Part(inlet.OpenSMTPD, "match"))+`
match from local for any action "outbound"
`, err)
}

// HandbackAddr is the listener of the lines of contrib/inlet.
func (h *Offering) HandbackAddr() string { return h.handback }

// MilterSocket is a place for the milter's socket, at which this MTA does not ask.
func (h *Offering) MilterSocket() string { return filepath.Join(h.tree.dir, "memory", "milter.sock") }

// LocalDomains are those whose mail is delivered into the mailbox.
func (h *Offering) LocalDomains() []string { return []string{LocalDomain, Hostname} }

// Kill is the crash: SIGKILL to every process. The queue stays.
func (h *Offering) Kill() {
	if h.group != nil {
		h.group.kill()
	}
	h.tree.kill() // deliveries under way are in sessions of their own
}

// Halt is the orderly stop.
func (h *Offering) Halt() error {
	err := h.group.terminate()
	h.tree.kill()
	return err
}

// QueueLength is the number of messages or, with OpenSMTPD, of recipients in the queue.
func (h *Offering) QueueLength(context.Context) (int, error) {
	out, err := h.tree.output(h.tools.queue[0], h.tools.queue[1:]...)
	if err != nil {
		return 0, err
	}
	return h.tools.queued(out)
}

// Flush tries what is deferred now.
func (h *Offering) Flush(context.Context) error {
	_, err := h.tree.output(h.tools.flush[0], h.tools.flush[1:]...)
	return err
}

// Sendmail hands a message to the MTA's sendmail(1).
func (h *Offering) Sendmail(_ context.Context, from string, rcpts []string, msg []byte) error {
	args := append(append(h.tools.sendmail[1:len(h.tools.sendmail):len(h.tools.sendmail)], "-f", from, "--"), rcpts...)
	cmd := h.tree.command(h.tools.sendmail[0], args...)
	cmd.Stdin = bytes.NewReader(msg)
	_, err := outputOf(cmd)
	return err
}
