package e2e

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// The milter goes away and comes back while a client's session is open. Postfix
// does not come back to it within that session: it goes on alone, or turns the
// client away, and the next session is diverted again.
func TestMilterRestartInMidSession(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"accept", "tempfail"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			o := tolerant()
			o.Milter = "{ unix:millrace/milter.sock, default_action=" + action + " }"
			r := enter(t, setup{postfix: o})
			var want []string
			open := func() *peer {
				p := r.local()
				p.says("250", "EHLO client.test")
				return p
			}
			diverted := func(p *peer, id string) {
				t.Helper()
				if line := r.verdict(p.sends("<news@lab.test>", []string{"<a@far.test>"}, news(id))); !strings.Contains(line, "verdict=delrcpt") {
					t.Errorf("%s: %s", id, line)
				}
				want = append(want, id+" a@far.test ours")
			}
			// alone goes on with a message in a session that has lost its milter.
			alone := func(p *peer, id string, steps ...string) {
				t.Helper()
				for _, step := range append(steps, news(id)+".") {
					switch reply := p.says("xxx", step); {
					case action == "tempfail" && reply[0] == '4':
						p.says("250", "RSET")
						return
					case reply[0] != '2' && step != "DATA":
						t.Fatalf("%s: %s", step, reply)
					}
				}
				if action == "tempfail" {
					t.Errorf("%s was taken without the milter", id)
				}
				want = append(want, id+" a@far.test postfix")
			}
			begin := []string{"MAIL FROM:<news@lab.test>", "RCPT TO:<a@far.test>", "DATA"}

			// An orderly stop between two messages.
			p := open()
			diverted(p, "before-stop")
			r.stop(r.Millrace.Milter)
			alone(p, "while-stopped", begin...)
			r.start(r.Millrace.Milter)
			alone(p, "after-stop", begin...)
			p.quits()

			// Stop and death with an envelope under way: Postfix keeps to itself
			// what needs no reply, so this is between two messages for the milter.
			for id, end := range map[string]func(){
				"stopped": func() { r.stop(r.Millrace.Milter) },
				"killed":  r.Millrace.Milter.Kill,
			} {
				p = open()
				p.says("250 250", begin[:2]...)
				end()
				alone(p, id, "DATA")
				r.start(r.Millrace.Milter)
				alone(p, id+"-next", begin...)
				p.quits()
			}

			p = open()
			diverted(p, "in-the-end")
			p.quits()
			r.exactly(want...)
			r.quiet(2)
		})
	}
}

// Postfix reloads, restarts and dies while sessions are open. The milter's own
// side needs nothing for that, and what had no verdict is nobody's.
func TestPostfixRestartInMidSession(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{postfix: tolerant()})
	var want []string
	begin := func() *peer {
		t.Helper()
		p := r.local()
		p.says("250 250 250 354", "EHLO client.test", "MAIL FROM:<news@lab.test>", "RCPT TO:<a@far.test>", "DATA")
		p.raw(news("half")[:50])
		return p
	}
	whole := func(id string) {
		t.Helper()
		p := r.local()
		p.says("250", "EHLO client.test")
		p.sends("<news@lab.test>", []string{"<a@far.test>"}, news(id))
		p.quits()
		want = append(want, id+" a@far.test ours")
	}
	start := func() {
		t.Helper()
		if err := r.Postfix.Start(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	whole("first")
	p := begin()
	r.reloadPostfix()
	whole("reloaded")
	p.write(news("half")[50:] + ".") // its smtpd serves it to the end
	p.hears("250")
	want = append(want, "half a@far.test ours")
	p.quits()

	p = begin()
	if err := r.Postfix.Halt(); err != nil {
		t.Fatal(err)
	}
	p.hangsUp()
	start()
	whole("halted")

	p = begin()
	r.Postfix.Kill()
	p.hangsUp()
	start()
	whole("killed")

	r.exactly(want...)
	var lost []string
	r.until("the milter has noticed both", func() bool {
		lost = logbuf.Lines(read(t, r.Millrace.Milter.Log()), "closing MTA connection", "stage=envelope", "in the middle of a message")
		return len(lost) >= 2
	})
	if len(lost) != 2 {
		t.Errorf("%d lines tell of a connection that Postfix left in the middle of a message:\n%s", len(lost), strings.Join(lost, "\n"))
	}
	if got := r.verdicts(len(want), "msg=verdict"); len(got) != len(want) {
		t.Errorf("%d verdicts, want %d", len(got), len(want))
	}
}
