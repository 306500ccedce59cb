package inlet_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// Only CRLF.CRLF ends data, and nothing else than CRLF a line.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const second = "MAIL FROM:<evil@b.test>\r\nRCPT TO:<v@d.test>\r\nDATA\r\n" + "Subject: evil\r\n\r\nx\r\n.\r\n"
	for _, end := range []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\n.\r", "\r\n\x00.\r\n\n.\r\n", "\r\r\n.\r\n", "\r\n.\r\r\n", "\r\n.\x00\r\n\n",
	} {
		c := s.dial()
		c.hello()
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
		c.wants("250", "250", "354")
		io.WriteString(c.Conn, text+"text"+end+second)
		c.wants("550 ")
		if _, err := c.ReadLine(); err == nil {
			t.Errorf("%q: something was answered after that", end)
		}
	}
	for _, line := range []string{"NOOP\n", "NOOP\rNOOP\r\n", "NO\x00OP\r\n", "MAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\n"} {
		c := s.dial()
		c.hello()
		c.send(line)
		c.wants("550 5.5.2")
		if _, err := c.ReadLine(); err == nil {
			t.Errorf("%q: something was answered after that", line)
		}
	}
	c := s.dial()
	c.hello()
	bad := "a\nb\r\n"
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\n" + fmt.Sprintf("BDAT %d LAST\r\n%s", len(bad), bad) + "NOOP\r\n")
	c.wants("250", "250", "550 5.6.0", "250")
	if got, passed := s.spooled(), s.mta.all(); len(got)+len(passed) != 0 {
		t.Errorf("spool has %q, the MTA %q", got, passed)
	}
}

func TestHostileClientsAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *config.Config) { c.Inlet.MaxMessageSize = 4096; c.Inlet.MaxRecipients = 3 })
	ends := func(c *client) {
		t.Helper()
		if _, err := c.ReadLine(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection goes on: %v", err)
		}
	}
	c := s.dial()
	c.wants("220")
	c.send("GET / HTTP/1.1\r\n")
	c.wants("221")
	ends(c)
	c = s.dial()
	c.wants("220")
	io.WriteString(c.Conn, strings.Repeat("x", 100_000))
	c.wants("500")
	c = s.dial()
	c.hello()
	c.send(strings.Repeat("NOOP\r\n", 100))
	for range 99 {
		c.wants("250")
	}
	c.wants("421 4.7.0 too many commands")
	ends(c)
	c = s.dial()
	c.hello()
	c.send(strings.Repeat("FROB\r\n", 21) + "NOOP\r\n")
	for range 21 {
		c.wants("500 5.5.2")
	}
	c.wants("421 4.7.0 too many errors")
	ends(c)
	c = s.dial()
	c.hello()
	c.send("BDAT 4000000000 LAST\r\n")
	c.wants("552 5.3.4")
	ends(c)
	c = s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 4096\r\n" + strings.Repeat("x\r\n", 1365) + "\r" + "BDAT 5\r\n\n\r\n\r\nNOOP\r\n")
	c.wants("250", "250", "250", "552 5.3.4", "250")
	c.send("MAIL FROM:<n@b.test> SIZE=5000\r\n")
	c.wants("552")
	c.send("MAIL FROM:<n@b.test>\r\nMAIL FROM:<n@b.test>\r\n" + strings.Repeat("RCPT TO:<c@d.test>\r\n", 4))
	c.wants("250", "503", "250", "250", "250", "452 4.5.3")
	c.send("DATA\r\n" + strings.Repeat("x\r\n", 2000) + ".\r\nNOOP\r\n")
	c.wants("354", "552", "250")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
	c.wants("250", "250", "354")
	for n := 0; ; n += 6000 { // without an end
		if _, err := io.WriteString(c.Conn, strings.Repeat("x\r\n", 2000)); err != nil {
			break
		}
		if n > 200<<20 {
			t.Fatal("an endless message is read on and on")
		}
	}
	for range 20 {
		s.dial()
	}
	c = s.dial()
	c.wants("421 4.7.0 too many connections")
	if n := s.server.Counts().Turned; n == 0 {
		t.Error("not counted")
	}
	// Half-open ones do not keep it from stopping.
	if got := s.spooled(); len(got) != 0 {
		t.Errorf("spool has %q", got)
	}
}

func TestSlowClientsAreToldTimeout(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *config.Config) { c.Inlet.Timeout = 50 * time.Millisecond })
	c := s.dial()
	c.wants("220", "421 4.4.2")
	c = s.dial()
	c.wants("220")
	c.send("NO")
	c.wants("421 4.4.2")
}

// A client that stops in the middle of a message has handed in nothing.
func TestCutMessageIsNobodys(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, how := range []string{"DATA\r\n" + text, "BDAT 1000 LAST\r\n" + text, fmt.Sprintf("BDAT %d\r\n%sRSET\r\n", len(text), text)} {
		c := s.dial()
		c.hello()
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\n" + how)
		c.wants("250", "250")
		c.Conn.(*net.TCPConn).CloseWrite()
		for {
			if _, err := c.ReadLine(); err != nil {
				break
			}
		}
	}
	if got := s.spooled(); len(got) != 0 {
		t.Errorf("spool has %q", got)
	}
}

// A panic over a message leaves it with the host, and the others alone.
func TestPanicIsOfOneMessage(t *testing.T) {
	t.Parallel()
	s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}, full: errPanic}
	s.run(configured(t, s.mta), nothing)
	c := s.dial()
	c.hello()
	for range 2 {
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "250 2.1.0 Ok")
	}
	if got := s.mta.all(); len(got) != 2 {
		t.Errorf("the MTA has %q", got)
	}
	// After the reply there is no message any more: the session ends.
	s = &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}, settled: func() { panic("settled") }}
	s.run(configured(t, s.mta), nothing)
	c = s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "250 2.0.0")
	if _, err := c.ReadLine(); err == nil {
		t.Error("the session goes on")
	}
	s.dial().hello()
	if len(s.log.Lines("panic")) == 0 {
		t.Error("nobody is told")
	}
}

// At a Unix socket the kernel says who sends.
func TestUnixSocketTakesWhomAllowNames(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *config.Config) { c.Inlet.Anybody = false })
	c := s.dialAt("unix", s.unix)
	c.wants("554 5.7.1 user ")
	s = serve(t)
	c = s.dialAt("unix", s.unix)
	c.hello()
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	c.wants("250", "250", "354", "250 2.0.0 Ok: queued")
}

// A stop lets the message in hand come to its end, and tells the others to go.
func TestStopTellsClientsToGo(t *testing.T) {
	t.Parallel()
	s := serve(t)
	idle, busy := s.dial(), s.dial()
	idle.hello()
	busy.hello()
	busy.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
	busy.wants("250", "250", "354")
	done := make(chan struct{})
	go func() { s.stop(); close(done) }()
	idle.wants("421 4.3.2")
	busy.send(stuffed(text))
	busy.wants("250 2.0.0 Ok: queued", "421 4.3.2")
	<-done
	if _, err := net.Dial("tcp4", s.addr); err == nil {
		t.Error("it listens still")
	} else if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Error(err)
	}
}

// After the time for a stop nobody is waited for: neither a host MTA nor a client.
func TestStopWaitsForNobodyForLong(t *testing.T) {
	t.Parallel()
	s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}, grace: 50 * time.Millisecond}
	s.run(configured(t, s.mta), nothing)
	s.mta.says1("dot", "hang")
	waits, sends := s.dial(), s.dial()
	waits.hello()
	waits.send("MAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
	waits.wants("250", "250", "354")
	sends.hello()
	sends.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: x\r\n")
	sends.wants("250", "250", "354")
	s.stop()
	waits.wants("451 4.4.2", "421 4.3.2")
	sends.wants("421 4.3.2")
	if n := s.server.Counts(); n.Unsure != 1 {
		t.Errorf("counts %+v", n)
	}
	if got := s.spooled(); len(got) != 0 {
		t.Errorf("spool has %q", got)
	}
}

// A user of the Unix socket has half of the connections; clients at an address, whom nobody
// can tell apart, have what is there.
func TestConnectionsOfOneUserAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *config.Config) { c.Inlet.MaxConnections = 6 })
	for range 3 {
		s.dialAt("unix", s.unix).wants("220")
	}
	s.dialAt("unix", s.unix).wants("421 4.7.0")
	for range 3 {
		s.dial().wants("220")
	}
	s.dial().wants("421 4.7.0")
	s = serve(t, func(c *config.Config) { c.Inlet.MaxConnections = 6 })
	for range 6 {
		s.dial().wants("220")
	}
	s.dial().wants("421 4.7.0")
}

// Commands in an order that makes no sense are refused, and a chunk never is a command.
func TestOrderOfCommands(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.wants("220")
	c.send("MAIL FROM:<n@b.test>\r\nBDAT 6 LAST\r\nNOOP\r\nEHLO\r\nEHLO client.test\r\n")
	c.wants("503 5.5.1", "503 5.5.1", "501", "250")
	c.send("RCPT TO:<c@d.test>\r\nDATA\r\nBDAT 6 LAST\r\nNOOP\r\nMAIL FROM:<n@b.test>\r\nDATA\r\nBDAT 6\r\nNOOP\r\nDATA now\r\n")
	c.wants("503 5.5.1", "503 5.5.1", "503 5.5.1", "250", "554 5.5.1", "554 5.5.1", "501")
	c.send("RCPT TO:<c@d.test>\r\nBDAT 3\r\na\r\nRCPT TO:<e@d.test>\r\nDATA\r\nMAIL FROM:<n@b.test>\r\nNOOP\r\nRSET\r\nBDAT 3 LAST\r\nb\r\n")
	c.wants("250", "250", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250", "250", "503 5.5.1")
	c.send("FROB\r\nVRFY x\r\nSTARTTLS\r\nAUTH PLAIN\r\n")
	c.wants("500", "252", "500", "500")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT x LAST\r\n")
	c.wants("250", "250", "501")
	if _, err := c.ReadLine(); err == nil {
		t.Error("the connection goes on although nobody knows where the chunk ends")
	}
	if got := s.spooled(); len(got) != 0 {
		t.Errorf("spool has %q", got)
	}
}
