package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-milter"
)

func TestAnswerToOfferStaysWithinIt(t *testing.T) {
	t.Parallel()
	nr := uint32(wantedSteps)
	for _, c := range []struct{ version, actions, steps, wantVersion, wantActions, wantSteps uint32 }{
		{6, 0x1ff, 0x1fffff, 6, uint32(wantedActions), nr},
		{9, 0x1ff, 0x1fffff, 6, uint32(wantedActions), nr},
		{2, 0x3f, 0x7f, 2, uint32(milter.OptRemoveRcpt), 0},
		{4, 0x1, 0xff, 4, 0, uint32(milter.OptNoHeaderReply)},
	} {
		s := serve(t, Options{}, nil)
		p := s.dial()
		p.raw(offer(c.version, c.actions, c.steps))
		code, data := p.read()
		if code != 'O' || len(data) < 12 {
			t.Fatalf("answer %q %q", code, data)
		}
		b := []byte(data)
		got := [3]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])}
		if got != [3]uint32{c.wantVersion, c.wantActions, c.wantSteps} {
			t.Errorf("offer %d %x %x: answer %x", c.version, c.actions, c.steps, got)
		}
		if symlist := len(data) > 12; symlist != (c.wantActions&uint32(milter.OptSetSymList) != 0) {
			t.Errorf("offer %d %x: macro list sent: %v", c.version, c.actions, symlist)
		}
	}
}

func TestHandlerSeesWhatTheEngineDrops(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{}, nil)
	p := s.dial()
	p.greet()
	p.send('D', "M{auth_authen}", "user")
	p.send('M', "<a@example.com>", "SIZE=10", "RET=HDRS")
	p.send('D', "R{rcpt_mailer}", "smtp")
	p.send('R', "<B@Example.NET>", "NOTIFY=NEVER", "ORCPT=rfc822;b@x")
	p.send('R', "<c@example.net>") // no macros: those of the first do not hold
	p.send('T')
	p.send('L', "X-oDD", "\tfolded\n value")
	p.send('L', "Empty", "")
	p.send('D', "Ni", "QID1")
	p.send('N')
	p.expect('c')
	p.raw(appendPacket(nil, 'B', "one\r\n"))
	p.raw(appendPacket(nil, 'E', "last\r\n"))
	p.expect('a')
	p.send('Q')
	p.expectEnd()
	<-s.backend().closed
	want := `connect client.example 192.0.2.1 25 ORIGINATING
helo helo.example
mail <a@example.com> ["SIZE=10" "RET=HDRS"] user=user
rcpt <B@Example.NET> ["NOTIFY=NEVER" "ORCPT=rfc822;b@x"] mailer=smtp
rcpt <c@example.net> [] mailer=
header X-oDD:` + "\tfolded\n value" + `
header Empty:
eoh i=QID1
body one` + "\r" + `
` + `
body last` + "\r" + `
` + `
eom
close`
	if got := s.backend().seen(); got != want {
		t.Errorf("calls:\n%s\nwant:\n%s", got, want)
	}
}

func TestNextMessageKnowsNothingOfTheLast(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{}, func(r *recorder) {
		r.endOfHeaders = func(context.Context) Verdict { return Verdict{Action: Discard} }
	})
	p := s.dial()
	p.greet()
	p.mail("<a@x>", "<b@y>")
	p.expect('d')
	p.send('M', "<second@x>") // neither ABORT nor macros
	p.send('R', "<c@y>")
	p.send('N')
	p.expect('d')
	p.send('M', "<third@x>")
	p.send('A')
	p.send('D', "M{auth_authen}", "other")
	p.send('M', "<fourth@x>")
	p.send('D', "M{auth_authen}", "another")
	p.send('M', "<fifth@x>") // ends the fourth
	p.send('Q')
	p.expectEnd()
	<-s.backend().closed
	got := s.backend().seen()
	want := `connect client.example 192.0.2.1 25 ORIGINATING
helo helo.example
mail <a@x> ["SIZE=100"] user=user
rcpt <b@y> [] mailer=smtp0
header Subject: hello
eoh i=QID
mail <second@x> [] user=
rcpt <c@y> [] mailer=
eoh i=
mail <third@x> [] user=
abort
mail <fourth@x> [] user=other
abort
mail <fifth@x> [] user=another
abort
close`
	if got != want {
		t.Errorf("calls:\n%s\nwant:\n%s", got, want)
	}
	if len(s.backends) != 1 {
		t.Errorf("%d backends for one connection", len(s.backends))
	}
}

// An old MTA that offers none of the no-reply steps gets a reply to each command.
func TestEveryStepIsAnsweredWhereNoneMayBeSilent(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxHeader: 40}, nil)
	p := s.dial()
	p.raw(offer(6, 0x3f, 0))
	p.expect('O')
	for _, step := range []struct {
		code byte
		data []string
	}{
		{'C', []string{clientData}}, {'H', []string{"h"}}, {'U', []string{"XYZZY"}}, {'M', []string{"<a@x>"}}, {'R', []string{"<b@y>"}},
		{'T', nil}, {'L', []string{"A", "1"}}, {'L', []string{"B", strings.Repeat("x", 50)}}, {'N', nil}, {'B', []string{"x"}},
	} {
		p.send(step.code, step.data...)
		p.expect('c')
	}
	p.send('E')
	p.expect('a')
}

// writeCounter counts the writes of one side.
type writeCounter struct {
	net.Conn
	n atomic.Int32
}

func (w *writeCounter) Write(p []byte) (int, error) { w.n.Add(1); return w.Conn.Write(p) }

func TestDeletionsAndVerdictLeaveInOneWrite(t *testing.T) {
	t.Parallel()
	written := make(chan error, 1)
	s := serve(t, Options{}, func(r *recorder) {
		r.endOfMessage = func(context.Context) Verdict {
			return Verdict{Action: Accept, Delete: []string{"<b@y>", "c@y"}, Written: func(err error) { written <- err }}
		}
	})
	ours, theirs := net.Pipe()
	w := &writeCounter{Conn: theirs}
	p := s.over(ours, w)
	p.greet()
	p.mail("<a@x>", "<b@y>", "c@y")
	p.expect('c')
	before := w.n.Load()
	p.send('E')
	for _, want := range []string{"-<b@y>\x00", "-c@y\x00", "a"} {
		if code, data := p.read(); string(code)+data != want {
			t.Errorf("got %q, want %q", string(code)+data, want)
		}
	}
	if err := <-written; err != nil {
		t.Errorf("verdict written: %v", err)
	}
	if n := w.n.Load() - before; n != 1 {
		t.Errorf("%d writes for one verdict", n)
	}
}

func TestHandlerHearsThatItsVerdictWasNotWritten(t *testing.T) {
	t.Parallel()
	written := make(chan error, 2)
	gone := make(chan struct{})
	s := serve(t, Options{}, func(r *recorder) {
		r.endOfMessage = func(context.Context) Verdict {
			<-gone
			return Verdict{Action: Accept, Written: func(err error) { written <- err }}
		}
	})
	p := s.dial()
	p.greet()
	p.mail("<a@x>", "<b@y>")
	p.expect('c')
	p.send('E')
	p.Close()
	close(gone)
	if err := <-written; err == nil {
		t.Error("told that the verdict was written")
	}
	<-s.backend().closed
	if len(written) > 0 {
		t.Error("told twice")
	}
	if strings.Contains(s.backend().seen(), "abort") {
		t.Error("a message with a verdict was aborted as well")
	}
}

func TestProgressIsSentWhileAVerdictTakesTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Options{ProgressEvery: 4 * time.Second}, func(r *recorder) {
			r.endOfMessage = func(context.Context) Verdict {
				time.Sleep(9 * time.Second)
				return Verdict{Action: Accept, Delete: []string{"<b@y>"}}
			}
		})
		p := s.dial()
		p.greet()
		p.mail("<a@x>", "<b@y>")
		p.expect('c')
		start := time.Now()
		p.send('E')
		p.expect('p')
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("first PROGRESS after %v", d)
		}
		p.expect('p', '-', 'a')
		p.Close()
		s.stop()
		<-s.done
	})
}

func TestVerdictIsGivenUpWhenTheMTAIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		written := make(chan error, 1)
		s := serve(t, Options{}, func(r *recorder) {
			r.endOfMessage = func(ctx context.Context) Verdict {
				<-ctx.Done() // ends when PROGRESS cannot be written
				return Verdict{Action: Accept, Written: func(err error) { written <- err }}
			}
		})
		p := s.dial()
		p.greet()
		p.mail("<a@x>", "<b@y>")
		p.expect('c')
		p.send('E')
		synctest.Wait()
		p.Close()
		if err := <-written; err == nil {
			t.Error("told that the verdict was written")
		}
		s.stop()
		<-s.done
	})
}

func TestSilentPeersAreClosed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bytes []byte
		after time.Duration
	}{
		"between packets": {postfixOffer(), 70 * time.Minute},
		"within a packet": {append(postfixOffer(), 0, 0), time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t, Options{}, nil)
				p := s.dial()
				go p.Write(c.bytes)
				p.expect('O')
				start := time.Now()
				p.expectEnd()
				if d := time.Since(start); d != c.after {
					t.Errorf("closed after %v, want %v", d, c.after)
				}
				s.stop()
				<-s.done
			})
		})
	}
}

func TestBrokenProtocolClosesWithOneLogLine(t *testing.T) {
	t.Parallel()
	pk := func(code byte, data string) []byte { return appendPacket(nil, code, data) }
	for name, c := range map[string]struct {
		bytes []byte
		says  string
	}{
		"zero length":           {[]byte{0, 0, 0, 0}, "length zero"},
		"overlong":              {[]byte{0x7f, 0xff, 0xff, 0xff, 'M'}, "too long"},
		"truncated":             {[]byte{0, 0, 0, 9, 'M', '<'}, "cut short"},
		"truncated length":      {[]byte{0, 0}, "cut short"},
		"offer again":           {postfixOffer(), "out of order"},
		"connect again":         {pk('C', clientData+"\x00"), "out of order"},
		"rcpt first":            {pk('R', "<a@x>\x00"), "out of order"},
		"body first":            {pk('B', "x"), "out of order"},
		"end first":             {pk('E', ""), "out of order"},
		"headers first":         {pk('N', ""), "out of order"},
		"body before EOH":       {append(pk('M', "<a@x>\x00"), pk('B', "x")...), "out of order"},
		"rcpt after header":     {append(append(pk('M', "<a@x>\x00"), pk('L', "A\x00b\x00")...), pk('R', "<b@x>\x00")...), "out of order"},
		"unknown command":       {pk('z', ""), "out of order"},
		"mail without end":      {pk('M', "<a@x>"), "malformed"},
		"empty recipient":       {append(pk('M', "\x00"), pk('R', "\x00")...), "malformed"},
		"header of three parts": {append(pk('M', "<a@x>\x00"), pk('L', "A\x00b\x00c\x00")...), "malformed"},
		"header without name":   {append(pk('M', "<a@x>\x00"), pk('L', "\x00b\x00")...), "malformed"},
		"empty macros":          {pk('D', ""), "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Options{}, nil)
			p := s.dial()
			p.greet()
			go func() { p.Write(c.bytes); p.Close() }()
			<-s.backend().closed
			s.stop()
			<-s.done
			if lines := s.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], c.says) {
				t.Errorf("log:\n%s\nwant one line with %q", strings.Join(lines, "\n"), c.says)
			}
		})
	}
}

func TestTooOldAnMTAIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{}, nil)
	p := s.dial()
	p.raw(offer(1, 0x3f, 0x7f))
	p.expectEnd()
}

func TestEndlessHeadersAreCut(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxHeader: 1000}, nil)
	cut := make(chan bool, 2)
	p := s.dial()
	p.greet()
	s.backend().endOfHeaders = func(context.Context) Verdict {
		cut <- s.backend().conn.HeaderCut()
		return Verdict{Action: Accept}
	}
	p.send('M', "<a@x>")
	for range 500 {
		p.send('L', "X-A", " 12345")
	}
	p.send('N')
	p.expect('a')
	p.mail("<b@x>")
	p.expect('a')
	if !<-cut || <-cut {
		t.Error("the cut was not reported, or not taken back")
	}
	if n := strings.Count(s.backend().seen(), "header"); n != 1000/len("X-A\x00 12345\x00")+1 {
		t.Errorf("handler saw %d fields", n)
	}
}

func TestPanicLeavesTheMessageWithTheHost(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*recorder){
		"header": func(r *recorder) {
			once := true
			r.onHeader = func() {
				if once {
					once = false
					panic("header")
				}
			}
			r.endOfHeaders = func(context.Context) Verdict { return Verdict{Action: TempFail} }
		},
		"end of headers": func(r *recorder) {
			once := true
			r.endOfHeaders = func(context.Context) Verdict {
				if once {
					once = false
					panic("eoh")
				}
				return Verdict{Action: TempFail}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Options{}, setup)
			p := s.dial()
			p.greet()
			p.mail("<a@x>", "<b@y>")
			p.expect('a')
			if !strings.HasSuffix(s.backend().seen(), "abort") {
				t.Errorf("calls:\n%s\nwant an abort at last", s.backend().seen())
			}
			p.mail("<c@x>", "<d@y>") // the connection lives, the next message is decided
			p.expect('t')
		})
	}
}

func TestStopFinishesTheMessageInHand(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{}, nil)
	waiting := s.dial()
	waiting.greet()
	busy := s.dial()
	busy.greet()
	busy.mail("<a@x>", "<b@y>")
	busy.expect('c')
	s.stop()
	waiting.expectEnd()
	select {
	case <-s.done:
		t.Fatal("stopped over a message in hand")
	default:
	}
	busy.raw(appendPacket(nil, 'B', "x\r\n"))
	busy.send('E')
	busy.expect('a')
	busy.expectEnd()
	<-s.done
	if l := s.log.lines(); l[0] != "" {
		t.Errorf("a clean stop was logged: %q", l)
	}
}

func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Options{StopGrace: 20 * time.Second}, nil)
		p := s.dial()
		p.greet()
		p.mail("<a@x>", "<b@y>")
		p.expect('c')
		synctest.Wait()
		start := time.Now()
		s.stop()
		<-s.done
		if d := time.Since(start); d != 20*time.Second {
			t.Errorf("stopped after %v", d)
		}
		if !strings.HasSuffix(s.backend().seen(), "abort\nclose") {
			t.Errorf("calls:\n%s", s.backend().seen())
		}
	})
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxConnections: 1}, nil)
	first := s.dial()
	first.greet()
	ours, theirs := net.Pipe()
	defer ours.Close()
	offered := make(chan struct{})
	go func() { s.ln.ch <- theirs; close(offered) }()
	first.mail("<a@x>", "<b@y>")
	first.expect('c')
	select {
	case <-offered:
		t.Fatal("accepted beyond the limit")
	default:
	}
	first.Close()
	<-offered
	second := peer{t, ours}
	second.greet()
}

// flaky is a listener whose first accepts fail for a while.
type flaky struct {
	*pipes
	failures atomic.Int32
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.pipes.Accept()
}

func TestAcceptErrorsDoNotEndTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := &flaky{pipes: newPipes()}
		ln.failures.Store(5)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- NewServer(func(c *Conn) Handler { return &recorder{conn: c, closed: make(chan struct{})} }, Options{}).Serve(ctx, ln)
		}()
		ours, theirs := net.Pipe()
		ln.ch <- theirs
		peer{t, ours}.greet()
		ours.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The client of go-milter stands for a peer that was not written here.
func TestForeignClientIsServed(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	var backend *recorder
	go func() {
		done <- NewServer(func(c *Conn) Handler {
			backend = &recorder{conn: c, closed: make(chan struct{})}
			backend.endOfMessage = func(context.Context) Verdict {
				return Verdict{Action: Accept, Delete: []string{"<b@y>"}}
			}
			return backend
		}, Options{}).Serve(ctx, ln)
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	client, err := milter.NewClientWithOptions("tcp", ln.Addr().String(), milter.ClientOptions{
		ActionMask: milter.OptRemoveRcpt, ProtocolMask: milter.OptNoHeaderReply | milter.OptNoBodyReply | milter.OptNoRcptReply,
	}).Session()
	if err != nil {
		t.Fatal(err)
	}
	must := func(a *milter.Action, err error) {
		t.Helper()
		if err != nil || a.Code != milter.ActContinue {
			t.Fatalf("%v %v", a, err)
		}
	}
	must(client.Conn("client.example", milter.FamilyInet, 25, "192.0.2.1"))
	must(client.Helo("client"))
	for range 3 {
		must(client.Mail("a@x", []string{"BODY=8BITMIME"}))
		must(client.Rcpt("b@y", nil))
		must(client.HeaderField("Subject", " x"))
		must(client.HeaderEnd())
		mods, act, err := client.BodyReadFrom(bytes.NewReader(bytes.Repeat([]byte("line\r\n"), 30000)))
		if err != nil || act.Code != milter.ActAccept || len(mods) != 1 || mods[0].Rcpt != "<b@y>" {
			t.Fatalf("%v %v %v", mods, act, err)
		}
	}
	client.Close()
	<-backend.closed
	if n := strings.Count(backend.seen(), "eom"); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// Whatever bytes come, the server neither crashes nor hangs, and every message
// that was started is ended.
func FuzzConversation(f *testing.F) {
	head := append(postfixOffer(), appendPacket(nil, 'C', clientData+"\x00")...)
	f.Add(head)
	f.Add(append(head[:len(head):len(head)], appendPacket(appendPacket(appendPacket(nil, 'M', "<a@x>\x00"), 'R', "<b@y>\x00"), 'N', "")...))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 'Q'})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := serve(t, Options{MaxHeader: 100}, nil)
		p := s.dial()
		go func() {
			buf := make([]byte, 512)
			for {
				if _, err := p.Read(buf); err != nil {
					return
				}
			}
		}()
		p.Write(b)
		p.Close()
		<-s.backend().closed
		calls := "\n" + s.backend().seen()
		open := 0
		for _, c := range strings.Split(calls, "\n") {
			switch {
			case strings.HasPrefix(c, "mail "):
				if open++; open > 1 {
					t.Fatalf("a message in a message:%s", calls)
				}
			case c == "eom" || c == "abort":
				if open--; open < 0 {
					t.Fatalf("a message ended twice:%s", calls)
				}
			}
		}
		if open != 0 {
			t.Fatalf("a message was left open:%s", calls)
		}
	})
}
