//go:build !race

package e2e

import (
	"bufio"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// What real MTAs say when they do not take mail ends as it should: bounced where
// the message or its address is at fault, and only there.
func TestRefusalsOfRealReceivers(t *testing.T) {
	t.Parallel()
	const limit = 20_000 // octets
	choosy := &far{name: "choosy", postfix: map[string]string{
		"message_size_limit":           "20000",
		"virtual_mailbox_maps":         "inline:{ known@choosy.test=box/ grey@choosy.test=box/ }",
		"smtpd_recipient_restrictions": "check_recipient_access inline:{ { grey@choosy.test = 450 4.7.1 Greylisted, try again } }, permit_mynetworks, reject",
	}}
	mute := &far{name: "mute", postfix: map[string]string{"message_size_limit": "20000", "smtpd_discard_ehlo_keywords": "size"}}
	crowded := &far{name: "crowded", postfix: map[string]string{
		"smtpd_client_connection_count_limit": "1", "smtpd_client_event_limit_exceptions": "",
	}}
	secret := &far{name: "secret", tls: "none", postfix: map[string]string{"smtpd_tls_security_level": "encrypt"}}
	broken := &far{name: "opensmtpd", tls: "required"} // see lab.StartOpenSMTPD
	list := []*far{choosy, mute, crowded, secret, broken}

	var only net.Conn
	r := enterFar(t, list, func(r *room, m *lab.Millrace) {
		var err error
		if only, err = net.Dial("tcp", crowded.addr.String()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { only.Close() })
		// Who is greeted has the place; who is only connected may be counted later than the next.
		if greeting, err := bufio.NewReader(only).ReadString('\n'); err != nil || !strings.HasPrefix(greeting, "220 ") {
			t.Fatalf("%q, %v", greeting, err)
		}
		mail := func(octets int, to ...string) letter {
			id, domain, _ := strings.Cut(to[0], "@")
			l := letter{id: id, from: "news@" + lab.LocalDomain, content: news(id + "-" + domain)}
			for _, a := range to {
				l.to = append(l.to, spool.Recipient{Address: a})
			}
			for len(l.content) < octets {
				l.content += strings.Repeat("x", 70) + "\r\n"
			}
			return l
		}
		r.put(m,
			mail(0, "known@choosy.test", "unknown@choosy.test", "grey@choosy.test"),
			mail(limit+1, "known@choosy.test"),
			mail(limit+1, "chunk@mute.test"), mail(5*limit, "data@mute.test"),
			mail(0, "one@crowded.test"), mail(0, "two@crowded.test"),
			mail(0, "clear@secret.test"), mail(0, "again@secret.test"),
			mail(0, "a@opensmtpd.test"))
	})
	agent := r.Millrace.Agent
	r.logLine(agent, "to=<known@choosy.test>", "dsn=2.0.0 status=sent")
	r.logLine(agent, "to=<unknown@choosy.test>", "dsn=5.1.1 status=bounced", "said: 550 5.1.1", "(in reply to RCPT TO command)")
	r.logLine(agent, "to=<known@choosy.test>", "dsn=5.3.4 status=bounced", "message is larger than the server accepts")
	r.logLine(agent, "to=<chunk@mute.test>", "dsn=5.3.4 status=bounced", "said: 552 5.3.4")
	r.logLine(agent, "to=<data@mute.test>", "dsn=5.3.4 status=bounced", "said: 552 5.3.4")
	r.logLine(agent, "relay=mx.crowded.test", "status=failed", "refused to talk to me: 421 4.7.0")
	r.logLine(agent, "to=<grey@choosy.test>", "dsn=4.7.1 status=deferred", "said: 450 4.7.1")
	r.logLine(agent, "to=<clear@secret.test>", "dsn=4.7.0 status=deferred", "said: 530 5.7.0 Must issue a STARTTLS command first")
	r.logLine(agent, "to=<again@secret.test>", "dsn=4.7.0 status=deferred")
	r.logLine(agent, "relay=mx.opensmtpd.test", "dsn=4.7.5 status=failed", "STARTTLS: ")

	// What was only for now is delivered when it is over.
	only.Close()
	p := choosy.Receiver.(*lab.Postfix)
	if err := p.Set(r.ctx, "smtpd_recipient_restrictions", "permit_mynetworks, reject"); err != nil {
		t.Fatal(err)
	}
	p.Kill() // a session that is open keeps to the old settings
	if err := p.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"grey@choosy.test", "one@crowded.test", "two@crowded.test"} {
		r.logLine(agent, "to=<"+to+">", "dsn=2.0.0 status=sent")
	}
	log := read(t, agent.Log())
	if n := len(logbuf.Lines(log, "status=bounced")); n != 4 {
		t.Errorf("%d bounces", n)
	}
	if lines := logbuf.Lines(log, "to=", "relay=mx.crowded.test", "status=deferred"); len(lines) > 0 {
		t.Errorf("a connection too many counted against the mail:\n%s", strings.Join(lines, "\n"))
	}
	if got, err := broken.Mailbox("a@opensmtpd.test"); err != nil || len(got) > 0 {
		t.Errorf("%d messages went without the TLS that is required (%v)", len(got), err)
	}
	// Each failure was reported, with the receiver's words.
	reports := ""
	for _, m := range r.mailbox("news@"+lab.LocalDomain, 4) {
		reports += string(m.Content)
	}
	for _, text := range []string{"Action: failed\nStatus: 5.1.1\n", "Diagnostic-Code: smtp; 552 5.3.4", "Final-Recipient: rfc822; chunk@mute.test"} {
		if !strings.Contains(reports, text) {
			t.Errorf("no report says %q:\n%s", text, reports)
		}
	}
}
