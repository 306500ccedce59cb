package milter

import (
	"net/netip"
	"strings"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/milter/classify"
	"github.com/millrace/millrace/milter/wire"
)

// maxEnvelope bounds the memory of one message's envelope, in octets: some
// 30,000 ordinary recipients.
const maxEnvelope = 4 << 20

// recipientCost is what a recipient costs beside its strings.
const recipientCost = 96

// client is what is known of the SMTP client.
type client struct {
	name string
	addr netip.Addr // zero: none
	helo string
}

func newClient(c wire.Client) client {
	name := c.Host
	if strings.HasPrefix(name, "[") {
		name = "unknown" // Sendmail's way to say that there is none
	}
	addr, _ := netip.ParseAddr(strings.TrimPrefix(strings.TrimPrefix(c.Addr, "IPv6:"), "ipv6:"))
	return client{name: name, addr: addr.WithZone("")}
}

// literal is the address as a Received field writes it.
func (c client) literal() string {
	switch {
	case !c.addr.IsValid():
		return ""
	case c.addr.Is4() || c.addr.Is4In6():
		return c.addr.Unmap().String()
	default:
		return "IPv6:" + c.addr.String()
	}
}

// message is the message in hand.
type message struct {
	setup *setup
	classify.Message
	raw    []string // text of each RCPT as it came, brackets and all: what DELRCPT must say
	size   int      // octets of the envelope
	tooBig bool     // the envelope grew over maxEnvelope and is not complete
	nrcpt  int
}

// address takes the angle brackets off the text of MAIL FROM or RCPT TO. bare
// says that there were none.
func address(text string) (addr string, bare bool) {
	if len(text) >= 2 && text[0] == '<' && text[len(text)-1] == '>' {
		return text[1 : len(text)-1], false
	}
	return text, true
}

// addRecipient takes a RCPT, unless the envelope has become too large to hold.
func (m *message) addRecipient(text string, r classify.Recipient) {
	m.nrcpt++
	m.size += len(text) + len(r.Mailer) + len(r.Host) + recipientCost
	for _, a := range r.Args {
		m.size += len(a)
	}
	if m.size > maxEnvelope {
		m.tooBig, m.raw, m.Recipients = true, nil, nil
		return
	}
	m.raw = append(m.raw, text)
	m.Recipients = append(m.Recipients, r)
}

// finish fills what can only be known when the header is complete.
func (m *message) finish(c client, bareSender bool) {
	// Postfix gives mail of sendmail(1) as if a client on 127.0.0.1 had sent it,
	// but without brackets, arguments or a transport. A real client that leaves
	// the brackets out still gets a transport.
	m.Command = bareSender && c.addr.IsLoopback() && len(m.Args) == 0 && len(m.Recipients) > 0
	for i, r := range m.Recipients {
		_, bare := address(m.raw[i])
		m.Command = m.Command && bare && r.Mailer == "" && len(r.Args) == 0
	}
	m.marks()
}

// marks looks for our own: of mail that was here before, or at another host of the fleet,
// and of mail that the inlet has judged a moment ago.
func (m *message) marks() {
	keys := &m.setup.keys
	for _, f := range m.Header {
		if strings.EqualFold(f.Name, "Received") {
			m.Looped = m.Looped || keys.Marked(f.Value)
			m.Counted = m.Counted || trace.Judged(f.Value, keys.Loop, m.Arrived)
		}
	}
}

// sameFate makes recipients that the MTA cannot tell apart share one decision:
// DELRCPT of an address removes every RCPT of it.
func (m *message) sameFate(divert []bool) (any bool) {
	stays := map[string]bool{}
	for i, d := range divert {
		if !d {
			stays[m.Recipients[i].Address] = true
		}
	}
	for i := range divert {
		divert[i] = divert[i] && !stays[m.Recipients[i].Address]
		any = any || divert[i]
	}
	return any
}

// deletions are the RCPT texts to delete, each once.
func (m *message) deletions(divert []bool) []string {
	var texts []string
	seen := map[string]bool{}
	for i, d := range divert {
		if a := m.Recipients[i].Address; d && !seen[a] {
			seen[a] = true
			texts = append(texts, m.raw[i])
		}
	}
	return texts
}

// envelope is what the spool gets of the diverted recipients.
func (m *message) envelope(c client, qid, by, protocol string, d *classify.Decision) *spool.Envelope {
	e := &spool.Envelope{
		Origin:     spool.Diverted,
		Sender:     m.Sender,
		Args:       m.Args,
		Stream:     d.Stream,
		Formerly:   d.Formerly,
		Pool:       d.Pool,
		Arrived:    m.Arrived,
		QueueID:    qid,
		AuthUser:   m.AuthUser,
		Daemon:     m.Daemon,
		ByHost:     by,
		Recipients: make([]spool.Recipient, 0, len(d.Divert)),
	}
	if !m.Command {
		e.ClientName, e.ClientAddr, e.Helo = c.name, c.literal(), c.helo
		e.Protocol = protocol
	}
	seen := make(map[string]bool, len(d.Divert))
	for i, divert := range d.Divert {
		r := spool.Recipient{Address: m.Recipients[i].Address, Args: m.Recipients[i].Args}
		// A recipient given twice, in whatever case, gets one copy, as from Postfix's cleanup(8);
		// with other arguments it is another delivery.
		key := strings.ToLower(r.Address) + "\x00" + strings.Join(r.Args, "\x00")
		if divert && !seen[key] {
			seen[key] = true
			e.Recipients = append(e.Recipients, r)
		}
	}
	return e
}

// protocol names how the message came (RFC 3848). The milter protocol does not
// tell HELO from EHLO.
func protocol(tls, auth bool) string {
	p := "ESMTP"
	if tls {
		p += "S"
	}
	if auth {
		p += "A"
	}
	return p
}
