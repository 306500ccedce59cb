package inlet_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// What the MTA says of mail that was answered here is the reply to the dot; of what was not,
// it is the reply to the command.
func TestTheMTAsRepliesAreTheClients(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.mta.says1("RCPT TO:<no@d.test>", "550-5.1.1 first\r\n550 5.1.1 no such user")
	s.mta.says1("RCPT TO:<later@home.test>", "450 4.2.0 greylisted")
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<no@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "550 5.1.1 first\n5.1.1 no such user")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<no@d.test>\r\nRCPT TO:<x@home.test>\r\n")
	c.wants("250", "250", "451 4.3.0")
	c.send("RCPT TO:<y@home.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("451 4.3.0", "354", "550 5.1.1 first")
	s.mta.says1("MAIL FROM:<bad@b.test>", "550 5.7.1 bad sender")
	c.send("MAIL FROM:<bad@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<x@home.test>\r\nRCPT TO:<y@home.test>\r\n")
	c.wants("250", "250", "550 5.7.1", "550 5.7.1")
	c.send("RSET\r\nMAIL FROM:<n@b.test>\r\nRCPT TO:<later@home.test>\r\nRCPT TO:<x@home.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "450 4.2.0 greylisted", "250", "354", "250")
	s.mta.says1("dot", "554 5.7.1 spam")
	c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "554 5.7.1 spam")
	if got := s.mta.all(); len(got) != 1 || strings.Contains(got[0], "later") {
		t.Errorf("the MTA has %q", got)
	}
	if got := s.spooled(); len(got) != 0 {
		t.Errorf("spool has %q", got)
	}
}

func TestMTAThatIsAwayIs451(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	for _, when := range []string{"MAIL", "RCPT", "DATA", "dot"} {
		s.mta.says1(when, "")
		c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "451 4.4.2")
		s.mta.says1(when, "250 2.1.0 Ok")
	}
	s.mta.says1("MAIL", "421 4.3.2 going down")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<x@home.test>\r\n")
	c.wants("250", "451 4.4.2")
	if n := s.server.Counts(); n.Unsure != 1 || n.Refused != 4 || n.Passed != 0 {
		t.Errorf("counts %+v", n)
	}
	if len(s.log.Lines("possible duplicate")) != 1 {
		t.Error("a reply that was lost after the dot is not logged")
	}
	// It comes back.
	s.mta.says1("MAIL", "250 2.1.0 Ok")
	c.send("RSET\r\nMAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "250", "354", "250")
}

// A command that is not understood here is the MTA's to answer, as it was written.
func TestTheMTAAnswersWhatIsNotUnderstood(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.mta.says1("MAIL FROM:<n@b.test> XODD=1", "555 5.5.4 Unsupported option: XODD=1")
	s.mta.says1("RCPT TO:<c@d.test> NOTIFY=NEVER,DELAY", "501 5.5.4 Error: Bad NOTIFY parameter syntax")
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test> XODD=1\r\n")
	c.wants("555 5.5.4 Unsupported option: XODD=1")
	want := 0
	for _, x := range []struct{ mail, rcpt string }{
		{"MAIL FROM:<n@b.test>", "RCPT TO:<root>"},
		{"MAIL FROM:<root>", "RCPT TO:<c@d.test>"},
		{"MAIL FROM:<n@b.test> AUTH=<>", "RCPT TO:<c@d.test>"},
		{"MAIL FROM:<n@b.test> SIZE=1 SIZE=2", "RCPT TO:<c@d.test>"},
		{"MAIL FROM:<n@b.test> BODY=BINARYMIME", "RCPT TO:<c@d.test>"},
		{"MAIL FROM:<n@b.test> RET=half", "RCPT TO:<c@d.test>"},
		{"MAIL FROM:n@b.test", "RCPT TO:<c@d.test>"},
		{"MAIL FROM:<<n@b.test>>", "RCPT TO:<c@d.test>"},
		{"mail from: <n@b.test>", "RCPT TO:<@relay.test:c@d.test>"},
		{"MAIL FROM:<n@b.test>", `RCPT TO:<"c d"@d.test>`},
		{"MAIL FROM:<n@b.test>", "RCPT TO:<c@d.test> XODD"},
		{"MAIL FROM:<n@b.test>", "RCPT TO:<c@d.test> ORCPT=c@d.test"},
		{"MAIL FROM:<n@b.test>", "RCPT TO:<c@d.test>x"},
	} {
		c.send(x.mail + "\r\n" + x.rcpt + "\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "250 2.1.0 Ok")
		want++
		if got := s.mta.all(); len(got) != want || !strings.HasPrefix(got[want-1], x.mail+"\n"+x.rcpt+"\n\n") {
			t.Fatalf("%s %s: the MTA has %q", x.mail, x.rcpt, got)
		}
	}
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test> NOTIFY=NEVER,DELAY\r\nRSET\r\n")
	c.wants("250", "501 5.5.4 Error: Bad NOTIFY", "250")
	// What is odd but clear is understood.
	c.send("mail  from:<n@b.test> size=20 body=7bit ret=full envid=a+2Bb smtputf8\r\nrcpt to:<c@d.test> notify=success,delay orcpt=rfc822;c+40d.test\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "250 2.0.0 Ok: queued")
	if got := s.spooled(); len(got) != 1 {
		t.Errorf("spool has %q", got)
	}
}

// A host MTA that does not announce PIPELINING gets one command at a time.
func TestMTAIsPipelinedToWhereItSaysSo(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.mta.mu.Lock()
	s.mta.without = []string{"PIPELINING"}
	s.mta.mu.Unlock()
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<a@d.test>\r\nRCPT TO:<b@d.test>\r\nRCPT TO:<x@home.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "250", "250", "354", "250")
	s.stop()
	_, early := s.mta.met()
	if got := s.mta.all(); len(got) != 1 || early != 0 {
		t.Errorf("the MTA has %q; %d commands came early", got, early)
	}
}

// A host MTA that goes away in the middle of an envelope is told all of it when it is back.
func TestMTAThatComesBackHearsTheWholeEnvelope(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<x@home.test>\r\n")
	c.wants("250", "250", "250")
	s.mta.says1("RCPT TO:<y@home.test>", "")
	c.send("RCPT TO:<y@home.test>\r\n")
	c.wants("451 4.4.2")
	s.mta.says1("RCPT TO:<y@home.test>", "250 2.1.5 Ok")
	c.send("RCPT TO:<z@home.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "354", "250")
	if got := s.mta.all(); len(got) != 1 || !strings.HasPrefix(got[0], "MAIL FROM:<n@b.test>\nRCPT TO:<c@d.test>\nRCPT TO:<x@home.test>\nRCPT TO:<z@home.test>\n\n") {
		t.Errorf("the MTA has %q", got)
	}
	// Away at the end of the envelope, and back for the message.
	s.mta.says1("RCPT TO:<y@home.test>", "")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<x@home.test>\r\nRCPT TO:<y@home.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "451 4.4.2", "354", "250")
	if got := s.mta.all(); len(got) != 2 || !strings.HasPrefix(got[1], "MAIL FROM:<n@b.test>\nRCPT TO:<x@home.test>\n\n") {
		t.Errorf("the MTA has %q", got)
	}
	if got := s.spooled(); len(got) != 0 {
		t.Errorf("spool has %q", got)
	}
}

// An MTA that has not asked for the content has not taken it, whatever it says.
func TestMTAThatSaysOddThingsHasTakenNothing(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	for _, odd := range []string{"250 2.0.0 Ok", "220 again", "nonsense", "421 4.3.2 going down"} {
		s.mta.says1("DATA", odd)
		c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "451 4.4.2")
	}
	s.mta.says1("DATA", "250 2.1.0 Ok")
	s.mta.says1("dot", "421 4.3.2 going down")
	c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "451 4.4.2")
	s.mta.says1("RCPT TO:<x@home.test>", "354 go")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<x@home.test>\r\nRSET\r\n")
	c.wants("250", "451 4.4.2", "250")
	if n := s.server.Counts(); n.Passed != 0 || n.Unsure != 0 || n.Refused != 5 {
		t.Errorf("counts %+v", n)
	}
	// Nobody can know what this means.
	s.mta.says1("dot", "354 go on")
	c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "451 4.4.2")
	if n := s.server.Counts(); n.Passed != 0 || n.Unsure != 1 {
		t.Errorf("counts %+v", n)
	}
}

// While all mail is passed, the MTA is asked of each recipient, and one refusal costs the
// others nothing.
func TestEachRecipientIsAskedOfWhileAllIsPassed(t *testing.T) {
	t.Parallel()
	refuses := func(s *serving) {
		t.Helper()
		s.mta.says1("RCPT TO:<no@d.test>", "550 5.1.1 no such user")
		c := s.dial()
		c.hello()
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<no@d.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "550 5.1.1", "250", "354", "250 2.1.0")
	}
	refuses(serve(t, func(c *config.Config) { c.Milter.Mode = config.Observe }))
	refuses(serve(t, func(c *config.Config) {
		if err := os.MkdirAll(c.Spool.Directory, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := spool.Drain(c.Spool.Directory, time.Now()); err != nil {
			t.Fatal(err)
		}
	}))
	s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}}
	refuses(s.run(configured(t, s.mta), func() string { return "main.cf: always_bcc is set" }))
}

// Text that begins with a blank is no continuation of the Received field before it.
func TestTextWithoutAHeaderStaysText(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	for _, first := range []string{" ", "\t"} {
		c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(first+"text\r\n"))
		c.wants("250", "250", "354", "250")
		got := s.mta.all()
		if last := got[len(got)-1]; !strings.HasSuffix(last, "(UTC)\r\n\r\n"+first+"text\r\n") {
			t.Errorf("the MTA has %q", last)
		}
	}
}

// An inlet is no host MTA, by whatever name pass_to has it: its own mail would go round until
// it has no connections left.
func TestInletIsNoHostMTA(t *testing.T) {
	t.Parallel()
	other := serve(t)
	s := serve(t, func(c *config.Config) {
		_, port, _ := strings.Cut(other.addr, ":")
		c.Inlet.PassTo = "inet:" + port + "@localhost"
	})
	c := s.dial()
	c.hello()
	c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "451 4.4.2")
	if len(s.log.Lines("pass_to is an inlet")) != 1 || len(other.mta.all()) != 0 {
		t.Errorf("the other MTA has %q", other.mta.all())
	}
}

// A client that stays connected is no reason to go on with an MTA that the configuration no
// longer names.
func TestPassToIsThatOfTheConfiguration(t *testing.T) {
	t.Parallel()
	s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}}
	cfg := configured(t, s.mta)
	s.run(cfg, nothing)
	c := s.dial()
	c.hello()
	other := startMTA(t)
	for range 2 {
		c.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "250")
		_, port, _ := strings.Cut(other.addr, ":")
		now := *cfg
		now.Inlet.PassTo = "inet:" + port + "@127.0.0.1"
		if err := s.judge.Reload(&now); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := len(s.mta.all()), len(other.all()); a != 1 || b != 1 {
		t.Errorf("the former MTA has %d, the new one %d", a, b)
	}
}
