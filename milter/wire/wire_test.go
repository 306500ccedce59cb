package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"

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
