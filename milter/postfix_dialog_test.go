package milter_test

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// talk sends the lines of a dialogue in one write, pipelined, and returns the
// codes of the replies, the banner's first.
func talk(ctx context.Context, t *testing.T, addr string, lines ...string) string {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	r := bufio.NewReader(c)
	var codes []string
	read := func() {
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("after %q: %v", codes, err)
			}
			if l[3] == ' ' {
				codes = append(codes, l[:3])
				return
			}
		}
	}
	read()
	// DATA ends a pipelined group (RFC 2920): its text waits for the 354.
	var group []string
	for _, l := range append(lines, "QUIT") {
		if group = append(group, l); l != "DATA" && !strings.HasSuffix(l, "\n.") && l != "QUIT" {
			continue
		}
		if _, err := c.Write([]byte(strings.Join(group, "\r\n") + "\r\n")); err != nil {
			t.Fatal(err)
		}
		for range group {
			read()
		}
		group = nil
	}
	return strings.Join(codes, " ")
}

const text = simple + "."

func TestConversationOfManyMessages(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{
		"smtpd_recipient_restrictions": "check_recipient_access inline:{no@example.net=REJECT}",
	}})
	codes := talk(ctx, t, p.SMTPAddr(), "EHLO one.test",
		"MAIL FROM:<1@lab.test>", "RCPT TO:<no@example.net>", "RCPT TO:<a@example.net>", "DATA", text,
		"MAIL FROM:<gone@lab.test>", "RCPT TO:<gone@example.net>", "RSET",
		"MAIL FROM:<stay@lab.test>", "RCPT TO:<b@example.net>", "DATA", text,
		"MAIL FROM:<gone2@lab.test>", "RCPT TO:<gone@example.net>", "EHLO two.test",
		"XYZZY",
		"MAIL FROM:<2@lab.test>", "RCPT TO:<c@example.net>", "DATA", text,
		"MAIL FROM:<gone3@lab.test>", "RCPT TO:<no@example.net>", "RSET",
		"MAIL FROM:<>", "RCPT TO:<d@example.net>", "DATA", text,
		"MAIL FROM:<3@lab.test>", "RCPT TO:<e@example.net>", "DATA", text)
	want := "220 250" +
		" 250 554 250 354 250" +
		" 250 250 250" +
		" 250 250 354 250" +
		" 250 250 250" +
		" 500" + // Postfix 3.7 says 502 to known ones only
		" 250 250 354 250" +
		" 250 554 250" +
		" 250 250 354 250" +
		" 250 250 354 250 221"
	if codes != want {
		t.Errorf("replies %s\nwant    %s", codes, want)
	}
	var got []string
	for _, k := range s.spool.all() {
		if v := <-k.verdict; v != "released" {
			t.Errorf("receipt %s", v)
		}
		got = append(got, k.envelope.Sender+">"+k.addresses()+" "+k.envelope.Helo)
		if k.envelope.QueueID == "" || strings.Contains(string(k.content), "Received:") {
			t.Errorf("envelope %+v content %q", k.envelope, k.content)
		}
	}
	if g := strings.Join(got, "; "); g != "1@lab.test>a@example.net one.test; 2@lab.test>c@example.net two.test; 3@lab.test>e@example.net two.test" {
		t.Errorf("diverted %s", g)
	}
	queued(ctx, t, p, "stay@lab.test>b@example.net", "MAILER-DAEMON>d@example.net")
	if n := len(s.log.Lines("msg=verdict ")); n != 5 {
		t.Errorf("%d verdicts logged, want 5", n)
	}
	if strings.Contains(s.log.String(), "level=WARN") {
		t.Errorf("warnings over a clean dialogue")
	}
}

func TestArgumentsThatCannotBeHonouredStay(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{"smtpd_authorized_verp_clients": "127.0.0.1"}})
	talk(ctx, t, p.SMTPAddr(), "EHLO one.test",
		"MAIL FROM:<a@lab.test> SIZE=100 XVERP", "RCPT TO:<b@example.net>", "DATA", text)
	if n := len(s.spool.all()); n != 0 {
		t.Errorf("%d diverted", n)
	}
	queued(ctx, t, p, "a@lab.test>b@example.net")
	if len(s.log.Lines("verdict=leave", `reason="ESMTP argument XVERP"`)) != 1 {
		t.Error("the reason is not in the log")
	}
}

// Clients that leave the angle brackets out, which Postfix takes.
func TestAddressesWithoutBracketsAreDivertedOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{})
	talk(ctx, t, p.SMTPAddr(), "HELO one.test", "MAIL FROM:a@lab.test", "RCPT TO:b@example.net", "RCPT TO:local@lab.test", "DATA", text)
	k := s.spool.only(t)
	if k.envelope.Sender != "a@lab.test" || k.addresses() != "b@example.net" || k.envelope.Protocol == "" {
		t.Errorf("envelope %+v", k.envelope)
	}
	queued(ctx, t, p)
}

func TestContentThatCannotLeaveUnchangedStays(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{})
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, msg := range map[string]string{
		"long":   simple + strings.Repeat("y", 999) + "\r\n",
		"nul":    simple + "a\x00b\r\n",
		"header": "X-Long: " + strings.Repeat("z", 1100) + "\r\n" + simple,
		"large":  simple + strings.Repeat("line of text\r\n", 30000) + "a\x00b\r\n",
	} {
		if _, err := c.Send(ctx, name+"@lab.test", []string{"b@example.net"}, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.spool.all()); n != 0 {
		t.Errorf("%d diverted", n)
	}
	queued(ctx, t, p, "long@lab.test>b@example.net", "nul@lab.test>b@example.net", "header@lab.test>b@example.net", "large@lab.test>b@example.net")
	for _, reason := range []string{`"body has a line of more than 998 octets"`, `"body has a NUL"`, `"header has a line of more than 998 octets"`} {
		if len(s.log.Lines("verdict=leave", "reason="+reason)) == 0 {
			t.Errorf("no log line says %s", reason)
		}
	}
}

func TestSendmailCommandGoesWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	cfg := divertAll()
	cfg.Milter.HostDomains = []string{"lab.test"}
	s := serve(t, cfg, &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{})
	send := func(from, msg string, rcpts ...string) {
		t.Helper()
		if err := p.Sendmail(ctx, from, rcpts, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	send("whole@lab.test", simple+"no newline at the end", "Ann@Example.net", "bob@example.org")
	send("mixed@lab.test", simple, "ann@example.net", "local@lab.test")
	send("", simple, "ann@example.net")
	queued(ctx, t, p, "mixed@lab.test>ann@example.net", "MAILER-DAEMON>ann@example.net")
	var k *kept
	err := lab.Until(ctx, func() (bool, error) {
		all := s.spool.all()
		if len(all) > 0 {
			k = all[0]
		}
		return k != nil && len(s.log.Lines("msg=verdict ")) == 3, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := <-k.verdict; v != "released" || len(s.spool.all()) != 1 {
		t.Errorf("receipt %s, %d messages", v, len(s.spool.all()))
	}
	e := k.envelope
	if e.Sender != "whole@lab.test" || k.addresses() != "Ann@Example.net bob@example.org" ||
		e.Protocol != "" || e.ClientAddr != "" || e.Helo != "" || e.QueueID == "" {
		t.Errorf("envelope %+v", e)
	}
	if want := simple + "no newline at the end\r\n"; string(k.content) != want {
		t.Errorf("content %q\nwant %q", k.content, want)
	}
	queued(ctx, t, p, "mixed@lab.test>ann@example.net", "MAILER-DAEMON>ann@example.net")
	if len(s.log.Lines("verdict=discard", "from=whole@lab.test")) != 1 {
		t.Error("the whole message was not discarded")
	}
	if m, err := p.Mailbox("local@lab.test"); err != nil || len(m) != 1 {
		t.Errorf("%d local copies, %v", len(m), err)
	}
}

// To mail of its own host Postfix adds what is missing before milters see the
// header; nothing more is added here.
func TestFieldsThatPostfixAddsAreKept(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{})
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const fields = "From: a@lab.test\r\nSubject: x\r\n"
	if _, err := c.Send(ctx, "a@lab.test", []string{"b@example.net"}, []byte(fields+"\r\nbody\r\n")); err != nil {
		t.Fatal(err)
	}
	added, ok := strings.CutPrefix(string(s.spool.only(t).content), fields)
	if lines := strings.Split(added, "\r\n"); !ok || len(lines) != 5 || !strings.HasPrefix(lines[0], "Message-Id: <") ||
		!strings.HasPrefix(lines[1], "Date: ") || lines[2] != "" || lines[3] != "body" {
		t.Errorf("added %q", added)
	}
}

func TestLargeMessageStreamsThrough(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{})
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := simple + strings.Repeat(".a line that begins with a dot and has some length to it, to make it large\r\n", 60000)
	if _, err := c.Send(ctx, "a@lab.test", []string{"b@example.net"}, []byte(msg)); err != nil {
		t.Fatal(err)
	}
	if k := s.spool.only(t); string(k.content) != msg {
		t.Errorf("%d octets, want %d, or they differ", len(k.content), len(msg))
	}
	queued(ctx, t, p)
}
