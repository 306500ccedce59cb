package e2e

import (
	"net"
	"net/textproto"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// talk is an SMTP session said line by line.
type talk struct {
	t    *testing.T
	conn net.Conn
	text *textproto.Conn
}

func (r *room) talk() *talk {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.Host.SMTPAddr())
	if err != nil {
		r.t.Fatal(err)
	}
	k := &talk{r.t, conn, textproto.NewConn(conn)}
	r.t.Cleanup(func() { conn.Close() })
	k.expect(220)
	k.say(250, "EHLO client.lab.test")
	return k
}

// expect reads a reply; want may be a prefix of its code.
func (k *talk) expect(want int) string {
	k.t.Helper()
	_, text, err := k.text.ReadResponse(want)
	if err != nil {
		k.t.Fatalf("want %d: %v", want, err)
	}
	return text
}

func (k *talk) say(want int, line string) string {
	k.t.Helper()
	if err := k.text.PrintfLine("%s", line); err != nil {
		k.t.Fatal(err)
	}
	return k.expect(want)
}

// envelope begins a message up to DATA's 354.
func (k *talk) envelope(rcpts ...string) {
	k.t.Helper()
	k.say(250, "MAIL FROM:<news@lab.test>")
	for _, rcpt := range rcpts {
		k.say(250, "RCPT TO:<"+rcpt+">")
	}
	k.say(354, "DATA")
}

// write sends octets as they are.
func (k *talk) write(s string) {
	k.t.Helper()
	if _, err := k.conn.Write([]byte(s)); err != nil {
		k.t.Fatal(err)
	}
}

// Whatever a client does in its session, each message that was taken arrives
// once and nothing else does.
func TestSendmailSessions(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{sendmail: &lab.SendmailOptions{
		Lines: "FEATURE(`access_db')dnl\nFEATURE(`blocklist_recipients')dnl\n",
		Files: map[string]string{"access": "To:refused@far.test\tREJECT\n"},
	}})
	k := r.talk()
	k.say(250, "MAIL FROM:<news@lab.test>")
	k.say(5, "RCPT TO:<refused@far.test>")
	k.say(250, "RCPT TO:<taken@far.test>")
	k.say(5, "RCPT TO:<@@>")
	k.say(354, "DATA")
	k.write(news("refusals") + ".\r\n")
	k.expect(250)

	// RSET at each stage, and then a message in the same session.
	k.say(250, "RSET")
	k.say(250, "MAIL FROM:<news@lab.test>")
	k.say(250, "RSET")
	k.say(250, "MAIL FROM:<news@lab.test>")
	k.say(250, "RCPT TO:<forgotten@far.test>")
	k.say(250, "RSET")
	k.envelope("reset@far.test")
	k.write(news("reset") + ".\r\n")
	k.expect(250)

	// All recipients refused: no message.
	k.say(250, "MAIL FROM:<news@lab.test>")
	k.say(5, "RCPT TO:<refused@far.test>")
	k.say(5, "DATA")
	k.say(250, "RSET")

	// Pipelined, one after the other.
	for _, id := range []string{"pipelined-1", "pipelined-2", "pipelined-3"} {
		k.write("MAIL FROM:<news@lab.test>\r\nRCPT TO:<" + id + "@far.test>\r\nRCPT TO:<refused@far.test>\r\nDATA\r\n")
		k.expect(250)
		k.expect(250)
		k.expect(5)
		k.expect(354)
		k.write(news(id) + ".\r\n")
		k.expect(250)
	}
	k.say(221, "QUIT")

	// One that hangs up in the middle of the body, one before it.
	k = r.talk()
	k.envelope("broken@far.test")
	k.write(news("broken"))
	k.conn.Close()
	k = r.talk()
	k.say(250, "MAIL FROM:<news@lab.test>")
	k.say(250, "RCPT TO:<broken@far.test>")
	k.conn.Close()
	// And one that does not wait for the last reply: its message was complete.
	k = r.talk()
	k.envelope("impatient@far.test")
	k.write(news("impatient") + ".\r\n")
	k.conn.Close()

	want := map[string]string{
		"refusals": "taken@far.test", "reset": "reset@far.test", "impatient": "impatient@far.test",
		"pipelined-1": "pipelined-1@far.test", "pipelined-2": "pipelined-2@far.test", "pipelined-3": "pipelined-3@far.test",
	}
	r.until("all copies", func() bool { return len(r.all()) >= len(want) })
	r.rest()
	for _, a := range r.all() {
		if want[a.id] != a.recipient || !a.ours() {
			t.Errorf("%s to %s, by Millrace: %v", a.id, a.recipient, a.ours())
		}
	}
	if n := len(r.all()); n != len(want) {
		t.Errorf("%d copies, want %d", n, len(want))
	}
}

// A milter that goes away in the middle of a session costs nothing: Sendmail
// delivers the rest of the session itself, and the next session is diverted
// again. So it is after a crash of Sendmail.
func TestSendmailRestarts(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{sendmail: &lab.SendmailOptions{}})
	c, err := lab.Dial(r.ctx, r.Host.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	send := func(c *lab.Client, id string) {
		t.Helper()
		if _, err := c.Send(r.ctx, "news@lab.test", []string{"reader@far.test"}, []byte(news(id))); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	send(c, "first")
	r.Millrace.Milter.Kill()
	send(c, "no milter")
	r.start(r.Millrace.Milter)
	send(c, "same session")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	r.send("news@lab.test", []string{"reader@far.test"}, news("next session"))
	r.rest() // or Sendmail might send again what it was just sending
	r.Host.Kill()
	if err := r.Host.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.send("news@lab.test", []string{"reader@far.test"}, news("host restarted"))

	want := map[string]bool{"first": true, "no milter": false, "same session": false, "next session": true, "host restarted": true}
	r.until("all copies", func() bool { return len(r.all()) >= len(want) })
	r.rest()
	for _, a := range r.all() {
		if ours, ok := want[a.id]; !ok || ours != a.ours() {
			t.Errorf("%s, by Millrace: %v", a.id, a.ours())
		}
	}
	if n := len(r.all()); n != len(want) {
		t.Errorf("%d copies, want %d", n, len(want))
	}
}

// What could not leave unchanged stays with Sendmail.
func TestSendmailContentThatCannotLeaveStays(t *testing.T) {
	t.Parallel()
	// This Sendmail refuses a lone CR unless it is told not to.
	r := enter(t, setup{sendmail: &lab.SendmailOptions{Lines: "LOCAL_RULESETS\nSsrv_features\nR$*\t$# U G\n"}})
	for id, x := range map[string]struct{ more, why string }{
		"lone-cr":   {"a\rb\r\n", "a bare CR"},
		"long-line": {strings.Repeat("x", 999) + "\r\n", "a line of more than 998 octets"},
	} {
		qid := r.send("news@lab.test", []string{"reader@far.test"}, news(id)+x.more)
		if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, x.why) {
			t.Errorf("%s: verdict: %s", id, line)
		}
		if id != "lone-cr" {
			r.until("the copy of "+id, func() bool { return len(r.copies(id)) > 0 })
		}
	}
	// The receiver wants no lone CR, and Sendmail reports it.
	if dsn := r.mailbox("news@lab.test", 1)[0]; !strings.Contains(string(dsn.Content), "Bare CR") {
		t.Errorf("report:\n%s", dsn.Content)
	}
	for id, more := range map[string]string{"longest": strings.Repeat("x", 998), "eight-bit": "gr\xfc\xdfe, Gr\u00fc\u00dfe"} {
		r.send("<news@lab.test> BODY=8BITMIME", []string{"reader@far.test"}, news(id)+more+"\r\n")
		r.until("the copy of "+id, func() bool { return len(r.copies(id)) > 0 })
	}
	r.rest()
	for _, a := range r.all() {
		if a.ours() != (a.id == "longest" || a.id == "eight-bit") {
			t.Errorf("%s: by Millrace: %v", a.id, a.ours())
		}
	}
	if n := len(r.all()); n != 3 {
		t.Errorf("%d copies of 3 messages", n)
	}
}

// What fails is reported to its sender through Sendmail's hand-back port, as the
// DSN arguments asked, and the report is not diverted.
func TestSendmailBounceComesHome(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{sendmail: &lab.SendmailOptions{}, providers: strictAndFar()})
	qid := r.send("<news@lab.test> RET=HDRS ENVID=envelope-7", []string{
		"<a@strict.test> NOTIFY=FAILURE ORCPT=rfc822;first@elsewhere.test", "<b@strict.test> NOTIFY=NEVER", "c@far.test",
	}, news("bounced"))
	dsn := r.mailbox("news@lab.test", 1)[0]
	if dsn.From != "" {
		t.Errorf("the report's sender is %q", dsn.From)
	}
	r.reportSays(dsn.Content,
		"Content-Type: multipart/report; report-type=delivery-status", "Original-Envelope-Id: envelope-7",
		"Original-Recipient: rfc822;first@elsewhere.test", "Final-Recipient: rfc822; a@strict.test\n",
		"Action: failed\n", "Status: 5.1.1\n", "550 5.1.1 No such user here", "X-Lab-ID: bounced\n",
	)
	if strings.Contains(string(dsn.Content), "b@strict.test") {
		t.Errorf("reported though NOTIFY=NEVER:\n%s", dsn.Content)
	}
	r.logLine(r.Millrace.Agent, "qid="+qid+" ", "to=<a@strict.test>", "status=bounced", "dsn=5.1.1")

	// A sender elsewhere gets the report by Sendmail, which routes it.
	r.send("news@d1.example", []string{"x@strict.test"}, news("abroad"))
	r.until("report to a sender elsewhere", func() bool { return r.count("far") == 2 })
	r.rest()
	for _, a := range r.all() {
		if a.recipient == "news@d1.example" && (a.ours() || a.sender != "") {
			t.Errorf("report from %q, by Millrace: %v", a.sender, a.ours())
		}
	}
	if n, m := r.count("far"), len(r.mailbox("news@lab.test", 1)); n != 2 || m != 1 {
		t.Errorf("%d copies at far, %d reports in the mailbox", n, m)
	}
	if got := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "verdict="); len(got) != 2 {
		t.Errorf("the milter saw more than two newsletters:\n%s", strings.Join(got, "\n"))
	}
	if got := r.hostLines(2, "daemon=HANDBACK", "from=<>"); len(got) != 2 {
		t.Errorf("%d reports through the hand-back port, want 2", len(got))
	}
}

// A queue may give its mail back to Sendmail, which delivers it unchanged.
func TestSendmailHandbackQueue(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		sendmail:  &lab.SendmailOptions{},
		providers: farAndHome(),
		millrace:  lab.MillraceOptions{Extra: "[[queue]]\nname = \"home\"\ndomains = [\"home.test\"]\nroute = \"handback\"\n"},
	})
	const n = 30
	r.farAndHome(r.Host.SMTPAddr(), n)
	if got := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "verdict=discard"); len(got) != n {
		t.Errorf("%d messages diverted, want each of %d once", len(got), n)
	}
}

// A crash may repeat, never lose. Without F= in the filter's line Sendmail goes
// on alone while there is no milter.
func TestSendmailKillNine(t *testing.T) {
	t.Parallel()
	const sessions = 12
	r := enter(t, setup{
		providers: busy(),
		sendmail:  &lab.SendmailOptions{},
		millrace:  lab.MillraceOptions{Set: map[string]string{"agent.max_sessions": "12"}},
	})
	s := r.flow(11, 60)
	milter, agent := r.Millrace.Milter, r.Millrace.Agent
	crashes := s.killing(10, [][]*lab.Daemon{{milter}, {milter, agent}})
	s.more(50)
	s.end()
	r.explain(r.accounts(&s.sent), &s.sent, crashes*sessions)
}
