package inlet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/milter"
	"github.com/millrace/millrace/milter/inlet"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var key = []byte("the loop key of this test's spool")

// mta is a host MTA of few words: it notes what it takes, and says what it is told to.
type mta struct {
	addr string

	mu       sync.Mutex
	says     map[string]string // by the start of a command; "dot"; "": the connection breaks; "hang": no reply comes
	taken    []string          // commands and content of messages that were answered 2xx
	sessions int
	plain    bool // it does not pipeline
	early    int  // commands that came before the reply to the one before, where it does not
}

func startMTA(t testing.TB) *mta {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mta{addr: ln.Addr().String(), says: map[string]string{}}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); cancel(); wg.Wait() })
	return m
}

func (m *mta) says1(command, reply string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.says[command] = reply
}

func (m *mta) reply(command string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range m.says {
		if strings.HasPrefix(command, k) {
			return v
		}
	}
	return "250 2.1.0 Ok"
}

// met is how many sessions there were, and commands that came early.
func (m *mta) met() (sessions, early int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions, m.early
}

func (m *mta) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.taken...)
}

func (m *mta) serve(c net.Conn) {
	defer c.Close()
	m.mu.Lock()
	m.sessions++
	plain := m.plain
	m.mu.Unlock()
	in := bufio.NewReader(c)
	fmt.Fprint(c, "220 mta.test ESMTP\r\n")
	said := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb := strings.ToUpper(line[:min(4, len(line))])
		r := m.reply(line)
		if r == "" {
			return
		}
		if plain && in.Buffered() > 0 {
			m.mu.Lock()
			m.early++
			m.mu.Unlock()
		}
		switch verb {
		case "EHLO":
			if r = "250-mta.test\r\n250-PIPELINING\r\n250 DSN"; plain {
				r = "250-mta.test\r\n250 DSN"
			}
		case "MAIL":
			said = line + "\n"
		case "RCPT":
			if r[0] == '2' {
				said += line + "\n"
			}
		case "DATA":
			if r == "250 2.1.0 Ok" {
				fmt.Fprint(c, "354 go\r\n")
				var b strings.Builder
				for {
					l, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if l == ".\r\n" {
						break
					}
					b.WriteString(strings.TrimPrefix(l, "."))
				}
				switch r = m.reply("dot"); r {
				case "":
					return
				case "hang":
					io.Copy(io.Discard, in)
					return
				}
				if r[0] == '2' {
					m.mu.Lock()
					m.taken = append(m.taken, said+"\n"+b.String())
					m.mu.Unlock()
				}
			}
		case "QUIT":
			return
		}
		fmt.Fprint(c, r+"\r\n")
	}
}

// serving is an inlet under test, with a real spool.
type serving struct {
	t      testing.TB
	addr   string
	unix   string
	dir    string
	mta    *mta
	log    *logbuf.Buffer
	server *inlet.Server
	stop   func()

	appended func()        // called when a message is durable
	settled  func()        // called when the client was told
	full     error         // why there is no room in the spool
	grace    time.Duration // of a stop
}

// errPanic has a spool panic.
var errPanic = errors.New("panic")

// watched is a spool that calls appended, or is full.
type watched struct {
	milter.Spool
	appended func()
	settled  func()
	full     error
}

// receipt calls settled.
type receipt struct {
	milter.Receipt
	settled func()
}

func (r receipt) Release() error { r.settled(); return r.Receipt.Release() }

func (w watched) Room() error {
	if w.full == errPanic {
		panic("room")
	}
	if w.full != nil {
		return w.full
	}
	return w.Spool.Room()
}

func (w watched) Append(ctx context.Context, e *spool.Envelope, content io.Reader) (milter.Receipt, error) {
	r, err := w.Spool.Append(ctx, e, content)
	if err == nil && w.appended != nil {
		w.appended()
	}
	if err == nil && w.settled != nil {
		r = receipt{r, w.settled}
	}
	return r, err
}

func configured(t testing.TB, m *mta) *config.Config {
	_, port, _ := net.SplitHostPort(m.addr)
	return &config.Config{
		Hostname: "host.test",
		Spool:    config.Spool{Directory: filepath.Join(t.TempDir(), "spool")},
		Milter: config.Milter{
			Mode: config.Divert, OnFailure: "accept", AgentGrace: time.Hour, MaxBodies: 10, HostDomains: []string{"home.test"},
			Scope: []string{"loopback"}, Remote: []string{"smtp"}, BuiltinRules: true, MaxMessageSize: 100 << 20,
			Rules: []config.Rule{
				{Name: "stay", Action: config.ActionLeave, Sender: []string{"stay@*"}},
				{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}},
			},
		},
		Inlet: config.Inlet{
			Listen: []string{"x"}, PassTo: "inet:" + port + "@127.0.0.1", Anybody: true,
			MaxConnections: 20, MaxRecipients: 100, MaxMessageSize: 8 << 20, Timeout: time.Minute,
		},
	}
}

func serve(t testing.TB, change ...func(*config.Config)) *serving {
	t.Helper()
	s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}}
	cfg := configured(t, s.mta)
	for _, f := range change {
		f(cfg)
	}
	return s.run(cfg, nothing)
}

func nothing() string { return "" }

// never is no deadline.
var never time.Time

func (s *serving) run(cfg *config.Config, bypassed func() string) *serving {
	t := s.t
	t.Helper()
	s.dir = cfg.Spool.Directory
	w, err := spool.OpenWriter(s.dir, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	judge, err := milter.New(cfg, milter.Options{Spool: watched{milter.FromWriter(w), s.appended, s.settled, s.full}, Key: key, Logger: s.log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	s.server = inlet.New(cfg, inlet.Options{Judge: judge, Key: key, Bypassed: bypassed, StopGrace: s.grace, Logger: s.log.Logger()})
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.unix = filepath.Join(t.TempDir(), "s")
	un, err := net.Listen("unix", s.unix)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(ctx, ln, un) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	return s
}

// spooled stops the inlet and gives what the agent would find: envelope and content.
func (s *serving) spooled() (found []string) {
	s.t.Helper()
	s.stop()
	store, err := spool.OpenStore(s.dir, spool.StoreOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	err = store.Load(func(id spool.ID, e *spool.Envelope, _ []spool.State) error {
		c, err := store.Open(id)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		text := e.Sender
		for _, r := range e.Recipients {
			text += " " + strings.Join(append([]string{r.Address}, r.Args...), ",")
		}
		found = append(found, text+"\n"+string(b))
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// envelopes gives the envelopes of what the agent would find.
func (s *serving) envelopes(each func(*spool.Envelope)) {
	s.t.Helper()
	store, err := spool.OpenStore(s.dir, spool.StoreOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	if err := store.Load(func(_ spool.ID, e *spool.Envelope, _ []spool.State) error { each(e); return nil }); err != nil {
		s.t.Fatal(err)
	}
}

// client speaks as it is told.
type client struct {
	t testing.TB
	net.Conn
	*textproto.Reader
}

func (s *serving) dial() *client { return s.dialAt("tcp4", s.addr) }

func (s *serving) dialAt(network, addr string) *client {
	s.t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &client{s.t, c, textproto.NewReader(bufio.NewReader(c))}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, text); err != nil {
		c.t.Fatal(err)
	}
}

// wants reads replies: of each the code, or the code and more of the text.
func (c *client) wants(replies ...string) {
	c.t.Helper()
	for _, want := range replies {
		code, text, err := c.ReadResponse(0)
		if got := fmt.Sprintf("%d %s", code, text); err != nil || !strings.HasPrefix(got, want) {
			c.t.Fatalf("reply %q (%v), want %q", got, err, want)
		}
	}
}

func (c *client) hello() {
	c.t.Helper()
	c.wants("220")
	c.send("EHLO client.test\r\n")
	c.wants("250")
}

const text = "From: a@b.test\r\nMessage-ID: <1@b.test>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nSubject: x\r\n\r\n.dot\r\n..two\r\nbody \xc3\xa4\r\n"

func stuffed(s string) string { return strings.ReplaceAll("\r\n"+s, "\r\n.", "\r\n..")[2:] + ".\r\n" }

func TestWhollyBulkIsSpooledAndTheRestIsPassed(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.wants("220 host.test")
	c.send("EHLO client.test\r\n")
	_, offer, err := c.ReadResponse(250)
	if err != nil {
		t.Fatal(err)
	}
	if want := "host.test\nPIPELINING\nSIZE 8388608\nENHANCEDSTATUSCODES\n8BITMIME\nDSN\nSMTPUTF8\nCHUNKING"; offer != want {
		t.Errorf("EHLO offers %q, want %q", offer, want)
	}
	// All of it at once, as PIPELINING allows.
	c.send("MAIL FROM:<n@b.test> BODY=8BITMIME RET=HDRS\r\nRCPT TO:<c@d.test> NOTIFY=FAILURE ORCPT=rfc822;c@d.test\r\nRCPT TO:<e@f.test>\r\nDATA\r\n")
	c.wants("250", "250", "250", "354")
	c.send(stuffed(text))
	c.wants("250 2.0.0 Ok: queued as I")
	if n, _ := s.mta.met(); n != 0 {
		t.Error("the host's MTA was asked")
	}
	// By BDAT, in pieces, of which one begins within CRLF.
	c.send("MAIL FROM:<m@b.test>\r\nRCPT TO:<c@d.test>\r\n")
	cut := strings.Index(text, "\r\n\r\n") + 1
	c.send(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", cut, text[:cut], len(text)-cut, text[cut:]))
	c.wants("250", "250", "250", "250 2.0.0 Ok: queued as I")
	// Not bulk; mixed; null sender.
	for _, x := range []struct{ from, to string }{{"stay@b.test", "c@d.test"}, {"n@b.test", "x@home.test"}, {"", "c@d.test"}} {
		c.send("MAIL FROM:<" + x.from + "> RET=FULL\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<" + x.to + "> NOTIFY=NEVER\r\nDATA\r\n")
		c.wants("250", "250", "250", "354")
		c.send(stuffed(text))
		c.wants("250 2.1.0 Ok")
	}
	passed := s.mta.all()
	if len(passed) != 3 {
		t.Fatalf("the MTA has %q", passed)
	}
	for i, want := range []string{
		"MAIL FROM:<stay@b.test> RET=FULL\nRCPT TO:<c@d.test>\nRCPT TO:<c@d.test> NOTIFY=NEVER\n\nReceived: from client.test (localhost [127.0.0.1])\r\n\tby host.test (Millrace inlet) with ESMTP\r\n\tid ",
		"MAIL FROM:<n@b.test> RET=FULL\nRCPT TO:<c@d.test>\nRCPT TO:<x@home.test> NOTIFY=NEVER\n\nReceived: ",
		"MAIL FROM:<> RET=FULL\nRCPT TO:<c@d.test>\nRCPT TO:<c@d.test> NOTIFY=NEVER\n\nReceived: ",
	} {
		if !strings.HasPrefix(passed[i], want) || !strings.HasSuffix(passed[i], "\r\n"+text) {
			t.Errorf("the MTA has %q, want %q", passed[i], want)
		}
		if judged := strings.Contains(passed[i], ".inlet."); judged != (i == 0) {
			t.Errorf("%q: judged %v", passed[i], judged)
		}
	}
	if n, _ := s.mta.met(); n != 1 {
		t.Errorf("%d sessions with the MTA for one client", n)
	}
	want := []string{"n@b.test c@d.test,NOTIFY=FAILURE,ORCPT=rfc822;c@d.test e@f.test\n" + text, "m@b.test c@d.test\n" + text}
	if got := s.spooled(); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("spool has %q, want %q", got, want)
	}
	if len(s.log.Lines("verdict=inlet", "to_domains=d.test:1,f.test:1")) != 1 {
		t.Error("no verdict in the log")
	}
}

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
	c.wants("250", "250", "550")
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
		if _, err := c.ReadLine(); err == nil {
			t.Error("the connection goes on")
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
	for range 100 {
		c.send("NOOP\r\n")
		code, _, err := c.ReadResponse(0)
		if err != nil {
			t.Fatal(err)
		}
		if code == 421 {
			break
		}
	}
	ends(c)
	c = s.dial()
	c.hello()
	c.send("MAIL FROM:<n@b.test> SIZE=5000\r\n")
	c.wants("552")
	c.send("MAIL FROM:<n@b.test>\r\nMAIL FROM:<n@b.test>\r\n" + strings.Repeat("RCPT TO:<c@d.test>\r\n", 4))
	c.wants("250", "503", "250", "250", "250", "452 4.5.3")
	c.send("DATA\r\n" + strings.Repeat("x\r\n", 2000) + ".\r\nNOOP\r\n")
	c.wants("354", "552", "250")
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
	c.wants("250", "250", "354")
	for range 1000 { // without an end
		if _, err := io.WriteString(c.Conn, strings.Repeat("x\r\n", 2000)); err != nil {
			break
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

// Whoever cannot be told 250 still has the message, and the agent does not take it too. The
// client goes when its message is durable, before it is told: at a Unix socket the next write
// fails then, at TCP the reset has come by the time that close returns, on loopback.
func TestUntoldClientKeepsTheMessage(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp4"} {
		var c *client
		s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}}
		s.appended = func() {
			if tcp, ok := c.Conn.(*net.TCPConn); ok {
				tcp.SetLinger(0)
			}
			c.Close()
		}
		s.run(configured(t, s.mta), nothing)
		c = s.dialAt(network, map[string]string{"unix": s.unix, "tcp4": s.addr}[network])
		c.hello()
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
		c.wants("250", "250", "354")
		c.send(stuffed(text))
		s.stop()
		if len(s.log.Lines("verdict=inlet")) != 1 || len(s.log.Lines(`"verdict lost"`)) != 1 {
			t.Errorf("%s: nobody noticed that the client was not told", network)
		}
		if got := s.spooled(); len(got) != 0 {
			t.Errorf("%s: the agent would send %q, and so does the client", network, got)
		}
		if got := s.mta.all(); len(got) != 0 {
			t.Errorf("%s: the MTA has %q", network, got)
		}
	}
}

func TestObserveDrainAndBypassesPassEverything(t *testing.T) {
	t.Parallel()
	send := func(s *serving) {
		t.Helper()
		c := s.dial()
		c.hello()
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "250 2.1.0 Ok")
		if got := s.mta.all(); len(got) != 1 || strings.Contains(got[0], ".inlet.") {
			t.Errorf("the MTA has %q", got)
		}
		if got := s.spooled(); len(got) != 0 {
			t.Errorf("spool has %q", got)
		}
	}
	send(serve(t, func(c *config.Config) { c.Milter.Mode = config.Observe }))
	s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}}
	send(s.run(configured(t, s.mta), func() string { return "main.cf: always_bcc is set" }))
	if len(s.log.Lines("always_bcc is set")) != 1 {
		t.Error("nobody is told why")
	}
}

// on_failure says what becomes of bulk that cannot be spooled.
func TestBulkThatCannotBeSpooled(t *testing.T) {
	t.Parallel()
	for onFailure, reply := range map[string]string{"accept": "250 2.1.0 Ok", "tempfail": "451 4.3.1"} {
		s := &serving{t: t, mta: startMTA(t), log: &logbuf.Buffer{}, full: spool.ErrFull}
		cfg := configured(t, s.mta)
		cfg.Milter.OnFailure = onFailure
		s.run(cfg, nothing)
		c := s.dial()
		c.hello()
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", reply)
		if got := s.mta.all(); len(got) == 1 != (onFailure == "accept") {
			t.Errorf("%s: the MTA has %q", onFailure, got)
		}
		if got := s.spooled(); len(got) != 0 {
			t.Errorf("%s: spool has %q", onFailure, got)
		}
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

// What cannot leave unchanged stays with the host, whole, whatever its size.
func TestUnfitContentIsPassedWhole(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	large := text + strings.Repeat("a line of a large body\r\n", 100_000) + strings.Repeat("x", 5000) + "\r\n"
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(large))
	c.wants("250", "250", "354", "250 2.1.0 Ok")
	if got := s.mta.all(); len(got) != 1 || !strings.HasSuffix(got[0], "\r\n"+large) {
		t.Error("the MTA has other octets")
	}
	ok := text + strings.Repeat("a line of a large body\r\n", 100_000)
	c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(ok))
	c.wants("250", "250", "354", "250 2.0.0 Ok: queued")
	if got := s.spooled(); len(got) != 1 || got[0] != "n@b.test c@d.test\n"+ok {
		t.Errorf("spool has %d messages, or other octets", len(got))
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

// Go's own client.
func TestNetSMTPSpeaksToIt(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, from := range []string{"n@b.test", "stay@b.test"} {
		if err := smtp.SendMail(s.addr, nil, from, []string{"c@d.test"}, []byte(text)); err != nil {
			t.Error(err)
		}
	}
	if got, passed := s.spooled(), s.mta.all(); len(got) != 1 || len(passed) != 1 {
		t.Errorf("spool has %q, the MTA %q", got, passed)
	}
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
	s.mta.plain = true
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

// What a client speaks stands in the Received fields (RFC 3848).
func TestHELOIsSMTP(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for hello, protocol := range map[string]string{"HELO": "SMTP", "EHLO": "ESMTP"} {
		c := s.dial()
		c.wants("220")
		c.send(hello + " client.test\r\nMAIL FROM:<stay@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "250", "354", "250")
		got := s.mta.all()
		if !strings.Contains(got[len(got)-1], "(Millrace inlet) with "+protocol+"\r\n") {
			t.Errorf("%s: %q", hello, got[len(got)-1])
		}
		c.send("MAIL FROM:<" + protocol + "@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(text))
		c.wants("250", "250", "354", "250")
	}
	s.stop()
	n := 0
	s.envelopes(func(e *spool.Envelope) {
		n++
		if want, _, _ := strings.Cut(e.Sender, "@"); e.Protocol != want || e.Helo != "client.test" {
			t.Errorf("envelope of %s: %s, HELO %s", e.Sender, e.Protocol, e.Helo)
		}
	})
	if n != 2 {
		t.Errorf("%d in the spool", n)
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
	if n := s.server.Counts(); n.Passed != 0 || n.Unsure != 0 || n.Refused != 5 {
		t.Errorf("counts %+v", n)
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
