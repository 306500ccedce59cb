package inlet_test

import (
	"net/smtp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// A client believes what the inlet announces; the host MTA may not know it, and then does not
// hear of it.
func TestMTAHearsOfNothingThatItDoesNotOffer(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const ascii = "From: a@b.test\r\nSubject: x\r\n\r\nbody \xc3\xa4\r\n"
	for extension, lost := range map[string][]string{
		"SIZE": {" SIZE=500"}, "8BITMIME": {" BODY=8BITMIME"}, "SMTPUTF8": {" smtputf8"}, "DSN": {" RET=HDRS", " ENVID=a+2Bb", " NOTIFY=FAILURE", " ORCPT=rfc822;c@d.test"}, "none": nil,
	} {
		s.mta.mu.Lock()
		s.mta.without = []string{extension}
		s.mta.mu.Unlock()
		for _, x := range []struct{ from, to string }{{"stay@b.test", "c@d.test"}, {"n@b.test", "x@home.test"}, {"", "c@d.test"}} {
			c := s.dial()
			c.hello()
			mail := "MAIL FROM:<" + x.from + "> SIZE=500 BODY=8BITMIME smtputf8 RET=HDRS ENVID=a+2Bb\n"
			rcpt := "RCPT TO:<c@d.test> NOTIFY=FAILURE ORCPT=rfc822;c@d.test\nRCPT TO:<" + x.to + "> NOTIFY=FAILURE\n"
			c.send(strings.ReplaceAll(mail+rcpt, "\n", "\r\n") + "DATA\r\n" + stuffed(ascii))
			c.wants("250", "250", "250", "354", "250 2.1.0 Ok")
			want := mail + rcpt
			for _, arg := range lost {
				want = strings.ReplaceAll(want, arg, "")
			}
			got := s.mta.all()
			if last := got[len(got)-1]; !strings.HasPrefix(last, want+"\n") || !strings.HasSuffix(last, "\r\n"+ascii) {
				t.Errorf("without %s the MTA has %q, want %q", extension, last, want)
			}
		}
	}
	// Go's client says BODY and SMTPUTF8 wherever they are announced.
	s.mta.mu.Lock()
	s.mta.without = slices.Collect(func(yield func(string) bool) {
		for name := range offered {
			if !yield(name) {
				return
			}
		}
	})
	s.mta.mu.Unlock()
	if err := smtp.SendMail(s.addr, nil, "stay@b.test", []string{"c@d.test"}, []byte(ascii)); err != nil {
		t.Error(err)
	}
	// One that does not even know EHLO.
	s.mta.says1("EHLO", "502 5.5.2 Error: command not recognized")
	if err := smtp.SendMail(s.addr, nil, "stay@b.test", []string{"c@d.test"}, []byte(ascii)); err != nil {
		t.Error(err)
	}
	s.mta.says1("EHLO", "250 2.1.0 Ok")
	// What nobody has announced, or is written wrongly, is the MTA's to refuse.
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<stay@b.test> BODY=BINARYMIME\r\nMAIL FROM:<stay@b.test> RET=HALF\r\nMAIL FROM:<\"a SIZE=1 > SIZE=2\"@b.test> SIZE=3\r\n")
	c.wants("503 5.5.4", "503 5.5.4", "250")
}

// UTF-8 in an address or in the header needs SMTPUTF8 all the way (RFC 6531 section 3.2).
func TestUTF8IsNotPassedToAnMTAWithoutIt(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	const utf8 = "From: a@b.test\r\nSubject: \xc3\xa4\r\n\r\nx\r\n"
	send := func(from, to, content string, wants ...string) {
		t.Helper()
		c.send("MAIL FROM:<" + from + "> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<" + to + ">\r\nDATA\r\n" + stuffed(content))
		c.wants(wants...)
	}
	for _, without := range []bool{true, false} {
		s.mta.mu.Lock()
		s.mta.without = nil
		last := "250 2.1.0 Ok"
		if without {
			s.mta.without, last = []string{"SMTPUTF8"}, "550 5.6.7"
		}
		s.mta.mu.Unlock()
		c = s.dial() // another session, another EHLO
		c.hello()
		send("stay@b.test", "c@d.test", utf8, "250", "250", "354", last)
		send("stay@b.test", "x@home.test", utf8, "250", "250", "354", last)
		if !without {
			send("stay@b.test", "c\xc3\xa4@d.test", text, "250", "250", "354", last)
		} else {
			// Who has not asked for it has all along sent what it likes.
			c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(utf8))
			c.wants("250", "250", "354", "250 2.1.0 Ok")
			c.send("MAIL FROM:<stay@b.test> SMTPUTF8\r\nRCPT TO:<c\xc3\xa4@d.test>\r\nDATA\r\nRSET\r\n")
			c.wants("250", "550 5.6.7", "554 5.5.1", "250")
			c.send("MAIL FROM:<stay@b.test> SMTPUTF8\r\nRCPT TO:<x@home.test>\r\nRCPT TO:<\xc3\xa4@home.test>\r\nDATA\r\n" + stuffed(text))
			c.wants("250", "250", "550 5.6.7", "354", "250 2.1.0 Ok")
			c.send("MAIL FROM:<\"\xc3\xa4\"@b.test> SMTPUTF8\r\n")
			c.wants("550 5.6.7")
		}
	}
}

// Recipients that belong into the next message are no reason to end the session.
func TestRefusalsThatTheClientCannotAvoidAreNotCounted(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *config.Config) { c.Inlet.MaxRecipients = 10 })
	s.mta.mu.Lock()
	s.mta.most = 3
	s.mta.mu.Unlock()
	s.mta.says1("RCPT TO:<no@d.test>", "550 5.1.1 no such user")
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<no@d.test>\r\n" + strings.Repeat("RCPT TO:<x@home.test>\r\n", 50) + "RSET\r\n")
	c.wants("250", "250")
	for range 50 {
		c.wants("451 4.3.0")
	}
	c.wants("250")
	c.send("MAIL FROM:<n@b.test>\r\n" + strings.Repeat("RCPT TO:<x@home.test>\r\n", 50) + "DATA\r\n" + stuffed(text))
	c.wants("250", "250", "250", "250")
	for range 47 {
		c.wants("452 4.5.3")
	}
	c.wants("354", "250 2.1.0 Ok")
}

// What a host MTA takes in one message, its clients are soon told: the whole message comes
// again, and is split then (RFC 5321 section 4.5.3.1.10).
func TestRecipientLimitOfTheMTAIsLearnt(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.mta.mu.Lock()
	s.mta.most = 3
	s.mta.mu.Unlock()
	c := s.dial()
	c.hello()
	rcpts := strings.Repeat("RCPT TO:<c@d.test>\r\n", 4)
	c.send("MAIL FROM:<stay@b.test>\r\n" + rcpts + "DATA\r\n" + stuffed(text))
	c.wants("250", "250", "250", "250", "250", "354", "452 4.5.3")
	c.send("MAIL FROM:<stay@b.test>\r\n" + rcpts + "DATA\r\n" + stuffed(text))
	c.wants("250", "250", "250", "250", "452 4.5.3", "354", "250 2.1.0 Ok")
	if n := len(s.log.Lines("max_recipients = 3")); n != 1 {
		t.Errorf("%d lines of the log tell the limit", n)
	}
	// A mailbox that is full is no limit.
	s.mta.says1("RCPT TO:<full@d.test>", "452 4.2.2 mailbox is full")
	c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<full@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "250", "354", "452 4.2.2")
	c.send("MAIL FROM:<stay@b.test>\r\n" + rcpts)
	c.wants("250", "250", "250", "250", "452 4.5.3")
}
