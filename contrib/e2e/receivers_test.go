package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// receive starts a real MTA as a receiver, until the test ends. postfix are
// parameters of a Postfix.
func receive(ctx context.Context, t *testing.T, name string, o lab.ReceiverOptions, postfix map[string]string) lab.Receiver {
	t.Helper()
	var r lab.Receiver
	var err error
	switch name {
	case "sendmail":
		r, err = lab.StartSendmail(ctx, lab.SendmailOptions{Receiver: &o})
	case "exim":
		r, err = lab.StartExim(ctx, o)
	case "opensmtpd":
		r, err = lab.StartOpenSMTPD(ctx, o)
	default:
		r, err = lab.StartPostfix(ctx, lab.PostfixOptions{Receiver: &o, Extra: postfix})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: end of its log:\n%s", name, tail(read(t, r.Log()), 60))
		}
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// far is a real MTA at the far end, which takes mail for the domain of its name.
type far struct {
	name    string
	tls     string            // level of the agent's queue for it; "": the default
	postfix map[string]string // parameters, if it is a Postfix

	lab.Receiver
	addr netip.AddrPort
}

func (f *far) domain() string { return f.name + ".test" }

// sender is whom reports on letters go to: an address at the receiver, if the
// report is the receiver's, otherwise one at our host.
func (f *far) sender() string {
	if f.name == "bare" {
		return "news@" + lab.LocalDomain
	}
	return "news@" + f.domain()
}

// offers is what the receiver offers to a session like the agent's.
func (f *far) offers(r *room) smtp.Extensions {
	r.t.Helper()
	level := smtp.None
	if f.tls == "required" {
		level = smtp.Required
	}
	c, err := smtp.Dial(r.ctx, f.addr, smtp.Options{Hello: "test.invalid", TLS: level})
	if err != nil {
		r.t.Fatalf("%s: %v", f.name, err)
	}
	defer c.Quit(r.ctx)
	return c.Extensions()
}

// enterFar opens a room that delivers by MX to real MTAs, a session to each.
// before is called before the agent starts: what is spooled then goes in order.
func enterFar(t *testing.T, list []*far, before func(*room, *lab.Millrace)) *room {
	t.Helper()
	var r *room
	s := setup{millrace: lab.MillraceOptions{
		Set: map[string]string{"general.retry": `["1s"]`, "general.max_sessions": "1"},
	}}
	s.beforeDaemons = func(in *room) {
		r = in
		n := 0
		if _, err := fmt.Sscanf(r.dns, "127.53.0.%d", &n); err != nil {
			t.Fatal(err)
		}
		var records []string
		for i, f := range list {
			f.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 46, byte(n), byte(i + 1)}), 25)
			f.Receiver = receive(r.ctx, t, f.name, lab.ReceiverOptions{Addr: f.addr.String(), Domains: []string{f.domain()}}, f.postfix)
			records = append(records,
				fmt.Sprintf("%s. 300 IN MX 10 mx.%s.", f.domain(), f.domain()),
				fmt.Sprintf("mx.%s. 300 IN A %s", f.domain(), f.addr.Addr()))
		}
		names := fmt.Sprintf("127.55.9.%d", n)
		serveZone(t, names, "test", false, records)
		r.set("agent.resolvers", fmt.Sprintf(`["%s:53"]`, names))
	}
	for _, f := range list {
		if f.tls != "" {
			s.millrace.Extra += fmt.Sprintf("[[queue]]\nname = %q\ndomains = [%q]\ntls = %q\n", f.name, f.domain(), f.tls)
		}
	}
	if before != nil {
		s.furnish = func(m *lab.Millrace) { before(r, m) }
	}
	return enter(t, s)
}

// put puts mail into the spool as the milter does, in order.
func (r *room) put(m *lab.Millrace, list ...letter) {
	r.t.Helper()
	w, err := spool.OpenWriter(m.Spool(), spool.WriterOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range list {
		e := spool.Envelope{
			Sender: l.from, Args: l.args, Recipients: l.to, Arrived: time.Now(),
			QueueID: "4" + strings.ToUpper(l.id), ClientAddr: "127.0.0.1", Helo: "client.test", Protocol: "ESMTP", ByHost: lab.Hostname,
		}
		receipt, err := w.Append(r.ctx, &e, strings.NewReader(l.content))
		if err == nil {
			err = receipt.Release()
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// letter is one message for one receiver.
type letter struct {
	id      string
	from    string
	args    []string
	to      []spool.Recipient
	content string
}

// letters are the forms that mail takes, for one domain. Each address has one of
// them. The small ones go by BDAT where that is offered, the big one does not.
func letters(f *far) []letter {
	at := "@" + f.domain()
	head := "From: News <news" + at + ">\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <%s" + at + ">\r\nTo: r" + at +
		"\r\nX-Folded: one\r\n\ttwo\r\nSubject: =?utf-8?q?x?= %s\r\n\r\n"
	line := strings.Repeat("0123456789", 100)[:998]
	forms := []struct{ id, body string }{
		{"several", "For three.\r\n"},
		{"eightbit", "gr\xfc\xdfe  \r\n\xff\xfe\x80\r\n"},
		{"long", "." + line[1:] + "\r\n" + line + "\r\n.\r\n..\r\n.dot\r\n.\r\nFrom here\r\n\t\r\n"},
		{"empty", ""},
		{"open", "no line end"},
		{"big", strings.Repeat("..big\r\n.\r\n"+line+"\r\n", 200)},
		{"report", "Please say that it came.\r\n"},
		{"last", "last\r\n"},
	}
	var list []letter
	for _, form := range forms {
		l := letter{id: form.id, from: f.sender(), content: fmt.Sprintf(head, form.id, form.id) + form.body}
		l.to = []spool.Recipient{{Address: form.id + at}}
		switch form.id {
		case "several":
			l.to = append(l.to, spool.Recipient{Address: "second" + at}, spool.Recipient{Address: "third-x=y" + at})
		case "report":
			l.args = []string{"RET=HDRS", "ENVID=QQ314159"}
			l.to[0].Args = []string{"NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first+40their.test"}
		}
		list = append(list, l)
	}
	return list
}

// international is a letter that needs SMTPUTF8.
func international(f *far) letter {
	at := "@" + f.domain()
	return letter{
		id: "utf8", from: "bücher" + at, args: []string{"SMTPUTF8"},
		to: []spool.Recipient{{Address: "grüße" + at, Args: []string{"NOTIFY=NEVER"}}},
		content: "From: <bücher" + at + ">\r\nTo: <grüße" + at + ">\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n" +
			"Message-ID: <utf8" + at + ">\r\nSubject: größer\r\n\r\nÜber.\r\n",
	}
}

// received is what a receiver puts on top: one Received field.
var received = regexp.MustCompile(`\AReceived: (?:[^\n]|\n[\t ])*\n`)

// arrivedAs waits for the one copy of a letter, checks that it has the receiver's
// field, ours, and then every octet that was sent, and gives the receiver's field.
func (r *room) arrivedAs(f *far, l letter, to string) (field string) {
	r.t.Helper()
	var got []lab.Message
	r.until(l.id+" for "+to, func() bool {
		got = nil
		for _, form := range slices.Compact([]string{to, strings.ReplaceAll(to, `"`, "")}) { // not all write it quoted
			copies, err := f.Mailbox(form)
			if err != nil {
				r.t.Fatal(err)
			}
			got = append(got, copies...)
		}
		return len(got) > 0
	})
	content := got[0].Content
	field = string(received.Find(content))
	ours := bytes.ReplaceAll(content[len(field):], []byte("\n"), []byte("\r\n"))
	mark := trace.Find(ours)
	if field == "" || mark == nil || len(got) != 1 || got[0].From != l.from {
		r.t.Errorf("%s for %s: %d copies, the first from %q:\n%.2000q", l.id, to, len(got), got[0].From, content)
		return field
	}
	end := len(received.Find(content[len(field):]))
	want := strings.TrimSuffix(strings.ReplaceAll(l.content, "\r\n", "\n"), "\n") + "\n"
	if rest := string(content[len(field)+end:]); rest != want {
		r.t.Errorf("%s for %s: arrived\n%.3000q\nwant\n%.3000q", l.id, to, rest, want)
	}
	return field
}

// The agent's session delivers to each real MTA by MX, every form of mail over
// one connection, byte for byte, with what the MTA offers.
func TestRealReceiversTakeEveryByte(t *testing.T) {
	t.Parallel()
	list := []*far{
		{name: "postfix", tls: "required"},
		{name: "exim", tls: "required"},
		{name: "sendmail", tls: "required"},
		{name: "opensmtpd"}, // its STARTTLS is broken: see lab.StartOpenSMTPD
		{name: "bare", postfix: map[string]string{
			"smtpd_discard_ehlo_keywords": "chunking, dsn, smtputf8, starttls, pipelining, 8bitmime",
		}},
	}
	r := enterFar(t, list, func(r *room, m *lab.Millrace) {
		for _, f := range list {
			r.put(m, append(letters(f), international(f))...)
		}
	})
	for _, f := range list {
		r.took(f)
		r.reported(f)
	}
	r.rest()
	if lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "TLS failed, trying without"); len(lines) != 1 || !strings.Contains(lines[0], "relay=mx.opensmtpd.test") {
		t.Errorf("went on without TLS:\n%s", strings.Join(lines, "\n"))
	}

	// By which command the content came is the receiver's to say, at the end of
	// the session. All but the big letter fit a chunk.
	r.stop(r.Millrace.Agent)
	for name, session := range map[string]string{
		"postfix": " ehlo=2 starttls=1 mail=9 rcpt=11 data=1 bdat=8 quit=1 ",
		"bare":    " ehlo=1 mail=8 rcpt=10 data=8 quit=1 ",
	} {
		f := list[slices.IndexFunc(list, func(f *far) bool { return f.name == name })]
		r.until(name+" tells of one session of"+session, func() bool { return strings.Contains(read(t, f.Log()), session) })
	}
	exim := read(t, list[1].Log())
	for _, l := range append(letters(list[1]), international(list[1])) {
		// K: "chunking used".
		if lines := logbuf.Lines(exim, " <= ", " id="+l.id+"@"); len(lines) != 1 || strings.Contains(lines[0], " K ") == (l.id == "big") {
			t.Errorf("exim took %s:\n%s", l.id, strings.Join(lines, "\n"))
		}
	}
}

// took checks what a receiver got, and that all came over one connection.
func (r *room) took(f *far) {
	r.t.Helper()
	list := letters(f)
	if f.offers(r).SMTPUTF8 {
		list = append(list, international(f))
	} else {
		r.logLine(r.Millrace.Agent, "to=<grüße@"+f.domain()+">", `status="handed back"`)
	}
	for i, l := range list {
		protocol := "ESMTP"
		if f.tls == "required" {
			protocol = "ESMTPS"
		}
		for _, rcpt := range l.to {
			field := strings.ToUpper(r.arrivedAs(f, l, rcpt.Address))
			// RFC 6531 has UTF8SMTPS; Exim writes UTF8ESMTPS.
			if l.id == "utf8" && !strings.Contains(field, " WITH UTF8") || !strings.Contains(strings.ReplaceAll(field, "UTF8SMTP", "ESMTP"), protocol+" ") {
				r.t.Errorf("%s: %s did not come with %s:\n%s", f.name, l.id, protocol, field)
			}
		}
		use := []string{fmt.Sprintf("conn_use=%d ", i+1)}
		if i == 0 {
			use = nil
		}
		r.logLine(r.Millrace.Agent, append(use, "to=<"+l.to[0].Address+">", "status=sent")...)
	}
}

// reported waits for the report of success that one of the letters asks for: the
// receiver's, if it offers DSN, otherwise ours.
func (r *room) reported(f *far) {
	r.t.Helper()
	box, action := f.Mailbox, "action: delivered"
	if !f.offers(r).DSN {
		box, action = r.Host.Mailbox, "action: relayed"
	}
	var got []lab.Message
	r.until("a report from "+f.name, func() bool {
		var err error
		if got, err = box(f.sender()); err != nil {
			r.t.Fatal(err)
		}
		return len(got) > 0
	})
	text := strings.ToLower(string(got[0].Content))
	wanted := []string{action, "report@" + f.domain(), "original-envelope-id: qq314159"}
	if f.name == "opensmtpd" {
		wanted = wanted[:2] // it forgets the rest
	}
	for _, want := range wanted {
		if !strings.Contains(text, want) || len(got) != 1 || got[0].From != "" {
			r.t.Errorf("%d reports from %s without %q, the first:\n%s", len(got), f.name, want, got[0].Content)
		}
	}
	// The agent logs its report when it is in the spool, and it may be here by then.
	ours := []string{`msg="sender delivery status notification"`, "to=" + f.sender()}
	if action == "action: relayed" {
		r.logLine(r.Millrace.Agent, ours...)
	}
	if n := len(logbuf.Lines(read(r.t, r.Millrace.Agent.Log()), ours...)); (n == 1) != (action == "action: relayed") {
		r.t.Errorf("%d reports of ours on mail to %s", n, f.name)
	}
}
