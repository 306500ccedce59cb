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
	"slices"
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
	without  []string // of offered it does not know, and refuses the arguments of
	most     int      // recipients of a message; 0: any number
	early    int      // commands that came before the reply to the one before, where it does not pipeline
}

// offered are the extensions of a host MTA, each with the arguments of MAIL and RCPT that need it.
var offered = map[string][]string{
	"PIPELINING": nil, "SIZE": {"SIZE"}, "8BITMIME": {"BODY"}, "SMTPUTF8": {"SMTPUTF8"}, "DSN": {"RET", "ENVID", "NOTIFY", "ORCPT"},
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
	plain, most := slices.Contains(m.without, "PIPELINING"), m.most
	offer, refuses := "250-mta.test\r\n", []string(nil)
	for name, args := range offered {
		if slices.Contains(m.without, name) {
			refuses = append(refuses, args...)
		} else {
			offer += "250-" + name + "\r\n"
		}
	}
	m.mu.Unlock()
	in := bufio.NewReader(c)
	fmt.Fprint(c, "220 mta.test ESMTP\r\n")
	said, rcpts := "", 0
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
			if r[0] == '2' {
				r = offer + "250 HELP"
			}
		case "MAIL", "RCPT":
			for _, arg := range strings.Fields(line[strings.LastIndexByte(line, '>')+1:]) {
				if name, _, _ := strings.Cut(strings.ToUpper(arg), "="); slices.Contains(refuses, name) {
					r = "503 5.5.4 Invalid command arguments: Unsupported option " + arg // OpenSMTPD's words
				}
			}
			switch {
			case verb == "MAIL":
				said, rcpts = line+"\n", 0
			case most > 0 && rcpts >= most && r[0] == '2':
				r = "452 4.5.3 Error: too many recipients"
			case r[0] == '2':
				said, rcpts = said+line+"\n", rcpts+1
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
	judge  *milter.Server
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
	s.judge = judge
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
