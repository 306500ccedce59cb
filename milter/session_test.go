package milter_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	gomilter "github.com/emersion/go-milter"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// mta is an MTA played by go-milter's client.
type mta struct {
	t *testing.T
	*gomilter.ClientSession
	version string // macro v
}

const (
	actions = gomilter.OptRemoveRcpt | gomilter.OptAddHeader | gomilter.OptChangeBody
	steps   = gomilter.OptNoHeaderReply | gomilter.OptNoBodyReply | gomilter.OptNoRcptReply | gomilter.OptNoMailReply |
		gomilter.OptNoConnReply | gomilter.OptNoHeloReply | gomilter.OptNoDataReply | gomilter.OptNoUnknownReply | gomilter.OptHeaderLeadingSpace
)

func connect(t *testing.T, s *serving, version string, a gomilter.OptAction, p gomilter.OptProtocol) *mta {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	return connectOver(t, conn, version, a, p)
}

// given is a dialer that has its connection already.
type given struct{ net.Conn }

func (g given) Dial(string, string) (net.Conn, error) { return g.Conn, nil }

func connectOver(t *testing.T, conn net.Conn, version string, a gomilter.OptAction, p gomilter.OptProtocol) *mta {
	t.Helper()
	c, err := gomilter.NewClientWithOptions("", "", gomilter.ClientOptions{Dialer: given{conn},
		ActionMask: a, ProtocolMask: p, ReadTimeout: time.Minute, WriteTimeout: time.Minute}).Session()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m := &mta{t, c, version}
	m.check(c.Macros(gomilter.CodeConn, "j", "mx.example", "v", version, "{daemon_name}", "MTA"))
	_, err = c.Conn("app.example", gomilter.FamilyInet6, 999, "IPv6:2001:db8::7")
	m.check(err)
	_, err = c.Helo("app")
	m.check(err)
	return m
}

func (m *mta) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// headers sends a message up to the end of its header and returns the answer.
func (m *mta) headers(from string, rcpts []string, fields ...string) gomilter.ActionCode {
	m.t.Helper()
	m.check(m.Macros(gomilter.CodeMail, "i", "Q1", "{auth_authen}", "joe", "{tls_version}", "TLSv1.3"))
	_, err := m.Mail(from, nil)
	m.check(err)
	for _, r := range rcpts {
		addr, mailer, ok := strings.Cut(r, " ")
		if !ok {
			mailer = "esmtp"
		}
		_, host, _ := strings.Cut(addr, "@")
		m.check(m.Macros(gomilter.CodeRcpt, "{rcpt_mailer}", mailer, "{rcpt_host}", host))
		_, err := m.Rcpt(addr, nil)
		m.check(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		_, err := m.HeaderField(name, value)
		m.check(err)
	}
	m.check(m.Macros(gomilter.CodeEOH, "i", "Q1"))
	a, err := m.HeaderEnd()
	m.check(err)
	return a.Code
}

// body sends the body and returns the verdict: the deletions and the action.
func (m *mta) body(b string) string {
	m.t.Helper()
	mods, a, err := m.BodyReadFrom(strings.NewReader(b))
	m.check(err)
	s := ""
	for _, mod := range mods {
		s += string(mod.Code) + mod.Rcpt + " "
	}
	return s + string(a.Code)
}

const (
	cont = gomilter.ActContinue
	acc  = gomilter.ActAccept
)

func (m *mta) wants(got, want gomilter.ActionCode) {
	m.t.Helper()
	if got != want {
		m.t.Fatalf("end of headers answered %q, want %q", got, want)
	}
}

const postfixVersion, sendmailVersion = "Postfix 3.7.11", "8.17.1.9"

func TestSendmailIsToldToDiscardWholeMessages(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	m := connect(t, s, sendmailVersion, actions, steps)
	m.wants(m.headers("a@b.example", []string{"c@d.example"}, "Subject: x", "From: a@b.example"), cont)
	if v := m.body("text\r\n"); v != "d" {
		t.Errorf("verdict %q", v)
	}
	k := s.spool.only(t)
	added, ok := strings.CutSuffix(string(k.content), "Subject: x\r\nFrom: a@b.example\r\n\r\ntext\r\n")
	if !ok || !strings.HasPrefix(added, "Message-ID: <") || !strings.Contains(added, ".Q1@mx.example>\r\nDate: ") {
		t.Errorf("content %q", k.content)
	}
	if e := k.envelope; e.Protocol != "ESMTPSA" || e.ClientAddr != "IPv6:2001:db8::7" || e.ClientName != "app.example" || e.AuthUser != "joe" {
		t.Errorf("envelope %+v", e)
	}
	m.wants(m.headers("a@b.example", []string{"c@d.example", "local@b.example local"}, "From: a@b.example", "Message-ID: <x@y>", "Date: now"), cont)
	if v := m.body("text\r\n"); v != "-<c@d.example> a" {
		t.Errorf("verdict on a mixed envelope %q", v)
	}
	if k := s.spool.all()[1]; string(k.content) != "From: a@b.example\r\nMessage-ID: <x@y>\r\nDate: now\r\n\r\ntext\r\n" {
		t.Errorf("content %q", k.content)
	}
}

func TestMailIsLeftBeforeTheBody(t *testing.T) {
	t.Parallel()
	ok := []string{"c@d.example"}
	keys := trace.NewKeys(loopKey)
	mark := string(trace.Received(&spool.Envelope{QueueID: "Q", Protocol: "ESMTP", Recipients: []spool.Recipient{{Address: "ann@example.net"}}}, 7, "h", &keys, []uint32{0}))
	mark = strings.TrimSuffix(strings.ReplaceAll(mark, "\r\n", "\n"), "\n")
	for name, c := range map[string]struct {
		spool   *fakeSpool
		change  func(*config.Config)
		from    string
		rcpts   []string
		fields  []string
		actions gomilter.OptAction
		steps   gomilter.OptProtocol
		says    string
		want    gomilter.ActionCode
	}{
		"rule":                {from: "stay@b.example", rcpts: ok, says: "reason=\"rule says leave\"", want: acc},
		"observe":             {change: func(c *config.Config) { c.Milter.Mode = config.Observe }, rcpts: ok, says: "verdict=observe", want: acc},
		"silent agent":        {spool: &fakeSpool{silence: 11 * time.Minute}, rcpts: ok, says: "reason=\"agent is silent\"", want: acc},
		"full spool":          {spool: &fakeSpool{room: spool.ErrFull}, rcpts: ok, says: "reason=\"spool full\"", want: acc},
		"full, tempfail":      {spool: &fakeSpool{room: spool.ErrFull}, change: func(c *config.Config) { c.Milter.OnFailure = "tempfail" }, rcpts: ok, says: "verdict=tempfail", want: gomilter.ActTempFail},
		"loop":                {rcpts: ok, fields: []string{mark}, says: "has been here before", want: acc},
		"same text two ways":  {rcpts: []string{"c@d.example", "c@d.example local"}, says: "given twice", want: acc},
		"no exact headers":    {rcpts: ok, steps: steps &^ gomilter.OptHeaderLeadingSpace, says: "as they are", want: acc},
		"no deletions, mixed": {rcpts: []string{"c@d.example", "x@y.example local"}, actions: gomilter.OptAddHeader, says: "deleted", want: acc},
		"bare CR in header":   {rcpts: ok, fields: []string{"X: a\rb"}, says: "header has a bare CR", want: acc},
		"folded by nothing":   {rcpts: ok, fields: []string{"X: a\nb"}, says: "folds nothing", want: acc},
		"bad name":            {rcpts: ok, fields: []string{"X Y: a"}, says: "malformed field name", want: acc},
		"huge header":         {rcpts: ok, fields: slicesRepeat("X: "+strings.Repeat("x", 60000), 20), says: "header is too large", want: acc},
		"huge envelope":       {rcpts: slicesRepeat(strings.Repeat("x", 50000)+"@d.example", 100), says: "envelope is too large", want: acc},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := divertAll()
			if c.change != nil {
				c.change(cfg)
			}
			a, p, from := c.actions, c.steps, c.from
			if a == 0 {
				a = actions
			}
			if p == 0 {
				p = steps
			}
			if from == "" {
				from = "a@b.example"
			}
			if c.spool == nil {
				c.spool = &fakeSpool{}
			}
			s := serve(t, cfg, c.spool)
			m := connect(t, s, postfixVersion, a, p)
			m.wants(m.headers(from, c.rcpts, c.fields...), c.want)
			if len(s.spool.all()) > 0 {
				t.Error("the spool got a message")
			}
			if l := s.log.Lines("msg=verdict ", "qid=Q1", fmt.Sprintf("nrcpt=%d", len(c.rcpts)), c.says); len(l) != 1 {
				t.Errorf("%d log lines with %s", len(l), c.says)
			}
		})
	}
}

func slicesRepeat(s string, n int) []string {
	var all []string
	for range n {
		all = append(all, s)
	}
	return all
}

func TestStandingTroubleIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{silence: time.Hour})
	m := connect(t, s, postfixVersion, actions, steps)
	for range 5 {
		m.wants(m.headers("a@b.example", []string{"c@d.example"}), acc)
	}
	if w, v := len(s.log.Lines("level=WARN")), len(s.log.Lines("msg=verdict ")); w != 1 || v != 5 {
		t.Errorf("%d warnings, %d verdicts", w, v)
	}
}

func TestFailedAppendLeavesTheMailOrDefersIt(t *testing.T) {
	t.Parallel()
	for failure, want := range map[string]string{"accept": "a", "tempfail": "t"} {
		cfg := divertAll()
		cfg.Milter.OnFailure = failure
		s := serve(t, cfg, &fakeSpool{err: errors.New("disk on fire")})
		m := connect(t, s, postfixVersion, actions, steps)
		for range 2 { // the connection goes on
			m.wants(m.headers("a@b.example", []string{"c@d.example"}), cont)
			if v := m.body("x\r\n"); v != want {
				t.Errorf("%s: verdict %q", failure, v)
			}
		}
		if len(s.log.Lines("msg=verdict ", "disk on fire")) != 2 {
			t.Errorf("%s: the reason is not in the log", failure)
		}
	}
}

// Bad content is the client's doing, no failure of the spool.
func TestBadBodyIsAcceptedWhateverOnFailureSays(t *testing.T) {
	t.Parallel()
	cfg := divertAll()
	cfg.Milter.OnFailure = "tempfail"
	s := serve(t, cfg, &fakeSpool{})
	m := connect(t, s, postfixVersion, actions, steps)
	for body, says := range map[string]string{
		"a\nb\r\n":                              "body has a bare LF",
		"a\rb\r\n":                              "body has a bare CR",
		"a\r\nend\r":                            "body has a bare CR",
		"a\x00b\r\n":                            "body has a NUL",
		strings.Repeat("x\r\n", 40000) + "a\nb": "body has a bare LF",
	} {
		m.wants(m.headers("a@b.example", []string{"c@d.example"}), cont)
		if v := m.body(body); v != "a" {
			t.Errorf("%s: verdict %q", says, v)
		}
		if len(s.log.Lines("verdict=leave", says)) == 0 {
			t.Errorf("no log line says %s", says)
		}
	}
	if len(s.spool.all()) > 0 {
		t.Error("the spool got a message")
	}
}

// A write to a Unix socket fails at once when nobody reads any more; one to a
// TCP socket does not.
func TestReceiptIsVoidedWhenTheMTAIsGone(t *testing.T) {
	t.Parallel()
	for network, addr := range map[string]string{"unix": filepath.Join(t.TempDir(), "milter.sock"), "tcp": "127.0.0.1:0"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
			s := serveOn(t, divertAll(), f, ln)
			conn, err := net.Dial(network, s.addr)
			if err != nil {
				t.Fatal(err)
			}
			m := connectOver(t, conn, postfixVersion, actions, steps)
			m.wants(m.headers("a@b.example", []string{"c@d.example"}), cont)
			ended := make(chan error)
			go func() {
				_, _, err := m.End()
				ended <- err
			}()
			<-f.reached // the body is all there, the verdict is not
			if err := sockets.End(conn.(syscall.Conn)); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := <-ended; err == nil {
				t.Error("a verdict came over a closed connection")
			}
			close(f.hold)
			if v := <-f.waitOnly().verdict; v != "void" {
				t.Errorf("receipt %s", v)
			}
			s.stop()
			if len(s.log.Lines(`msg="verdict lost"`, "qid=Q1", "id=M1-1")) != 1 {
				t.Error("the lost verdict is not in the log")
			}
		})
	}
}

// Postfix deletes each recipient when it reads the packet, and keeps to that when
// the rest never comes: after a part of a verdict nobody knows who has the mail,
// so it is sent.
func TestReceiptIsReleasedWhenAPartOfTheVerdictIsOut(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "milter.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := serveOn(t, divertAll(), &fakeSpool{}, ln)
	conn, err := net.Dial("unix", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	m := connectOver(t, conn, postfixVersion, actions, steps)
	var rcpts []string // more than a socket holds
	for i := range 4000 {
		rcpts = append(rcpts, fmt.Sprintf("%d-%s@d.example", i, strings.Repeat("x", 200)))
	}
	m.wants(m.headers("a@b.example", rcpts), cont)
	if _, err := conn.Write([]byte{0, 0, 0, 1, 'E'}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if v := <-s.spool.waitOnly().verdict; v != "released" {
		t.Errorf("receipt %s", v)
	}
	s.stop()
	if len(s.log.Lines("level=WARN", `msg="verdict cut"`, "qid=Q1", "id=M1-1", "possible duplicate")) != 1 {
		t.Error("the cut verdict is not in the log")
	}
}

func TestAbortedMessageIsNotKept(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	m := connect(t, s, postfixVersion, actions, steps)
	m.wants(m.headers("a@b.example", []string{"c@d.example"}), cont)
	_, err := m.BodyChunk(bytes.Repeat([]byte("x\r\n"), 1000))
	m.check(err)
	m.check(m.Abort())
	m.wants(m.headers("second@b.example", []string{"c@d.example"}), cont)
	if v := m.body("x\r\n"); v != "-<c@d.example> a" {
		t.Errorf("verdict %q", v)
	}
	if k := s.spool.only(t); k.envelope.Sender != "second@b.example" {
		t.Errorf("kept the mail of %s", k.envelope.Sender)
	}
}

func TestReloadChangesTheNextMessage(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	m := connect(t, s, postfixVersion, actions, steps)
	bad := divertAll()
	bad.Milter.Rules[1].Stream = "{nonsense}"
	if err := s.server.Reload(bad); err == nil {
		t.Error("a bad configuration was taken")
	}
	m.wants(m.headers("a@b.example", []string{"c@d.example"}), cont)
	observe := divertAll()
	observe.Milter.Mode = config.Observe
	if err := s.server.Reload(observe); err != nil {
		t.Fatal(err)
	}
	if v := m.body("x\r\n"); v != "-<c@d.example> a" {
		t.Errorf("the message in hand: %q", v)
	}
	m.wants(m.headers("a@b.example", []string{"c@d.example"}), acc)
}
