package milter_test

import (
	"context"
	"fmt"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab"
)

// postfix starts a private Postfix in front of a milter. There is no name
// server in the room: what Postfix keeps for a remote recipient stays, deferred,
// in its queue.
func postfix(t *testing.T, s *serving, o lab.PostfixOptions) (context.Context, *lab.Postfix) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	host, port, _ := strings.Cut(s.addr, ":")
	o.Milter = "inet:" + host + ":" + port
	o.NonSMTPDMilter = o.Milter
	p, err := lab.StartPostfix(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(p.Log())
			t.Logf("postfix log:\n%s", log)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return ctx, p
}

// queued waits until Postfix's queue holds exactly these "sender>recipient".
func queued(ctx context.Context, t *testing.T, p *lab.Postfix, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	err := lab.Until(ctx, func() (bool, error) {
		all, err := p.Queued(ctx)
		if err != nil {
			return false, err
		}
		got = got[:0]
		for _, e := range all {
			if e.Queue != "deferred" {
				return false, nil // still under way
			}
			for _, r := range e.Recipients {
				got = append(got, e.Sender+">"+r.Address)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), nil
	})
	if err != nil {
		t.Fatalf("postfix has %q, want %q (%v)", got, want, err)
	}
}

const simple = "Subject: hello\r\nFrom: a@lab.test\r\nMessage-ID: <1@lab.test>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n\r\nbody\r\n"

func TestWholeEnvelopeLeavesPostfix(t *testing.T) {
	t.Parallel()
	for _, verdict := range []config.Verdict{config.VerdictAuto, config.VerdictDiscard} {
		t.Run(string(verdict), func(t *testing.T) {
			t.Parallel()
			cfg := divertAll()
			cfg.Milter.Verdict = verdict
			s := serve(t, cfg, &fakeSpool{})
			ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{"in_flow_delay": "0"}})
			c, err := lab.Dial(ctx, p.SMTPAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			msg := "X-oDD-case:  two blanks\r\nSUBJECT:folded\r\n\tand\r\n  folded again\r\nReceived: by elsewhere; x\r\n" +
				"Empty:\r\n" + simple + ".leading dot\r\n..two\r\n\r\n\r\nblank lines before, a long line after\r\n" +
				strings.Repeat("x", 990) + "\r\ntr\xc3\xa4iling blanks  \t\r\n"
			reply, err := c.Send(ctx, "<Sender+tag@Lab.Test> BODY=8BITMIME RET=HDRS ENVID=e1",
				[]string{"<Ann@Example.NET> NOTIFY=FAILURE ORCPT=rfc822;Ann@Example.NET", "bob@example.org"}, []byte(msg))
			if err != nil {
				t.Fatal(err)
			}
			k := s.spool.only(t)
			if v := <-k.verdict; v != "released" {
				t.Errorf("receipt %s", v)
			}
			if string(k.content) != msg {
				t.Errorf("content\n%q\nwant\n%q", k.content, msg)
			}
			e := k.envelope
			if e.QueueID != lab.QueueID(reply) || e.Sender != "Sender+tag@Lab.Test" || e.ClientAddr != "127.0.0.1" ||
				e.Helo != "client.lab.test" || e.Protocol != "ESMTP" || e.ByHost != lab.Hostname || e.Daemon == "" {
				t.Errorf("envelope %+v", e)
			}
			if got := fmt.Sprint(e.Args, e.Recipients); got != "[BODY=8BITMIME RET=HDRS ENVID=e1] "+
				"[{Ann@Example.NET [NOTIFY=FAILURE ORCPT=rfc822;Ann@Example.NET]} {bob@example.org []}]" {
				t.Errorf("arguments and recipients: %s", got)
			}
			queued(ctx, t, p)
			want := "verdict=delrcpt"
			if verdict == config.VerdictDiscard {
				want = "verdict=discard"
			}
			if l := s.log.Lines("msg=verdict ", "qid="+e.QueueID, want, "nrcpt=2", "diverted=2", "rule=all", "id=M1-1"); len(l) != 1 {
				t.Errorf("log has %d such lines", len(l))
			}
		})
	}
}

func TestMixedEnvelopeIsSplit(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{
		"transport_maps": "inline:{byhand.example=smtp:[127.0.0.1]:9}",
	}})
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(ctx, "a@lab.test", []string{"Ann@Example.net", "local@lab.test", "x@byhand.example", "bob@example.org"}, []byte(simple)); err != nil {
		t.Fatal(err)
	}
	if got := s.spool.only(t).addresses(); got != "Ann@Example.net bob@example.org" {
		t.Errorf("diverted %s", got)
	}
	queued(ctx, t, p, "a@lab.test>x@byhand.example")
	if m, err := p.Mailbox("local@lab.test"); err != nil || len(m) != 1 {
		t.Errorf("%d local copies, %v", len(m), err)
	}
}

// The macros that a decision rests on come whatever main.cf lists.
func TestMacrosAreAskedFor(t *testing.T) {
	t.Parallel()
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{
		"milter_connect_macros": "", "milter_helo_macros": "", "milter_mail_macros": "", "milter_rcpt_macros": "",
		"milter_data_macros": "", "milter_end_of_header_macros": "", "milter_end_of_data_macros": "",
		"milter_macro_daemon_name": "ORIGINATING",
	}})
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	reply, err := c.Send(ctx, "a@lab.test", []string{"b@example.net", "local@lab.test"}, []byte(simple))
	if err != nil {
		t.Fatal(err)
	}
	e := s.spool.only(t).envelope
	if e.QueueID != lab.QueueID(reply) || e.Daemon != "ORIGINATING" || e.ByHost != lab.Hostname {
		t.Errorf("envelope %+v", e)
	}
	queued(ctx, t, p)
}

// DELRCPT is matched against the text of RCPT TO: each way to write an address
// must be one that Postfix finds again, or stay with it. Never both, never none.
func TestEveryWayToWriteARecipientGoesExactlyOneWay(t *testing.T) {
	t.Parallel()
	// Without the original recipient in its queue file, Postfix matches what its
	// own rewriting has left of it.
	for _, original := range []string{"yes", "no"} {
		t.Run("enable_original_recipient="+original, func(t *testing.T) {
			t.Parallel()
			everyWayToWrite(t, map[string]string{
				"enable_original_recipient": original,
				"virtual_alias_domains":     "alias.example", "virtual_alias_maps": "inline:{ gone@alias.example=alias@example.net }",
				"recipient_delimiter": "+",
			})
		})
	}
}

func everyWayToWrite(t *testing.T, extra map[string]string) {
	s := serve(t, divertAll(), &fakeSpool{})
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: extra})
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, x := range []struct {
		rcpts    []string
		diverted string
		left     []string
	}{
		{[]string{"<UPPER@EXAMPLE.NET>"}, "UPPER@EXAMPLE.NET", nil},
		{[]string{"<a@example.net>", "<A@example.net>"}, "a@example.net", nil}, // one copy, as from Postfix
		{[]string{"<twice@example.net> NOTIFY=NEVER", "<twice@example.net> NOTIFY=FAILURE"}, "twice@example.net twice@example.net", nil},
		{[]string{`<"quoted"@example.net>`}, "", []string{"quoted@example.net"}},
		{[]string{`<"two words"@example.net>`, "<plain@example.net>"}, "plain@example.net", []string{`"two words"@example.net`}},
		{[]string{"<@hop.example,@two.example:routed@example.net>"}, "", []string{"routed@example.net"}},
		{[]string{"<dot@example.net.>"}, "", []string{"dot@example.net"}},
		{[]string{"<a+b=c/d@example.net>"}, "a+b=c/d@example.net", nil},
		{[]string{"<Mixed.Case+Tag@Example.Net>", "<other@example.org>"}, "Mixed.Case+Tag@Example.Net other@example.org", nil},
		{[]string{"<gone@alias.example>", "<b@example.net>"}, "b@example.net", []string{"alias@example.net"}},
		{[]string{"<user%example.net>"}, "", []string{"user@example.net"}}, // old ways to route
		{[]string{"<example.net!bang>"}, "", []string{"bang@example.net"}},
		{[]string{"<per%cent@example.net>"}, "per%cent@example.net", nil},
		{[]string{"<literal@[127.0.0.1]>"}, "", nil},
	} {
		before := len(s.spool.all())
		sender := fmt.Sprintf("n%d@lab.test", before)
		if _, err := c.Send(ctx, sender, x.rcpts, []byte(simple)); err != nil {
			if x.diverted == "" && x.left == nil {
				continue // refused: nobody's
			}
			t.Fatalf("%q: %v", x.rcpts, err)
		}
		got := ""
		for _, k := range s.spool.all()[before:] {
			got = strings.TrimSpace(got + " " + k.addresses())
		}
		if got != x.diverted {
			t.Errorf("%q: diverted %q, want %q", x.rcpts, got, x.diverted)
		}
		for i := range x.left {
			x.left[i] = sender + ">" + x.left[i]
		}
		queued(ctx, t, p, x.left...)
		clearQueue(ctx, t, p)
	}
}

// When the cleanup(8) that waits for the verdict dies, smtpd(8) tells the client
// to try again and ends the session. The verdict is then nobody's: released, the
// message would go out now and once more when the client comes back.
func TestVerdictIsLostWhenCleanupDies(t *testing.T) {
	t.Parallel()
	f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
	s := serve(t, divertAll(), f)
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{"notify_classes": ""}})
	c, err := textproto.Dial("tcp", p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func(want int, line string) {
		t.Helper()
		if line != "" {
			c.PrintfLine("%s", line) // a failure shows in the reply
		}
		if _, text, err := c.ReadResponse(want); err != nil {
			t.Fatalf("%q: %s %v", line, text, err)
		}
	}
	say(220, "")
	say(250, "EHLO client.lab.test")
	say(250, "MAIL FROM:<a@lab.test>")
	say(250, "RCPT TO:<b@example.net>")
	say(354, "DATA")
	c.PrintfLine("%s.", simple)
	<-f.reached
	killCleanup(t, p)
	say(451, "")
	say(421, "NOOP") // smtpd(8) ends the session, and with it the connection to the milter
	if err := lab.Until(ctx, func() (bool, error) {
		lines, err := p.LogLines("disconnect from", "data=0/1")
		return len(lines) == 1, err
	}); err != nil {
		t.Fatal(err)
	}
	close(f.hold)
	if v := <-f.waitOnly().verdict; v != "void" {
		t.Fatalf("receipt %s", v)
	}
	if err := lab.Until(ctx, func() (bool, error) { return len(s.log.Lines(`msg="verdict lost"`)) == 1, nil }); err != nil {
		t.Error("the lost verdict is not in the log")
	}
}

// killCleanup ends the cleanup(8) processes of one Postfix.
func killCleanup(t *testing.T, p *lab.Postfix) {
	t.Helper()
	master, err := os.ReadFile(p.Queue() + "/pid/master.pid")
	if err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat") // pid (name) state parent
		if f := strings.Fields(string(stat)); err != nil || len(f) < 4 || f[1] != "(cleanup)" || f[3] != strings.TrimSpace(string(master)) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	if killed != 1 {
		t.Fatalf("%d cleanup(8) of process %s", killed, master)
	}
}

func clearQueue(ctx context.Context, t *testing.T, p *lab.Postfix) {
	t.Helper()
	all, err := p.Queued(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		run(ctx, t, "/usr/sbin/postsuper", "-c", p.Config(), "-d", e.ID)
	}
}
