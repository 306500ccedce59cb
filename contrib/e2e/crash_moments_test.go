package e2e

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// The milter is stopped with the whole message in its socket, and Postfix loses
// its patience and goes on alone. When the milter wakes it commits, finds that
// nobody waits, and takes the message back: there is one copy.
func TestVerdictThatComesTooLateIsVoid(t *testing.T) {
	t.Parallel()
	for i, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r, p := tapped(t, network, fmt.Sprintf("127.78.%d.1", i), "accept", setup{
				postfix: lab.PostfixOptions{Extra: map[string]string{"milter_content_timeout": "3s"}},
			})
			p.on(func(fromMilter bool, code byte) bool {
				if !fromMilter && code == 'E' {
					if err := r.Millrace.Milter.Freeze(r.ctx); err != nil {
						t.Error(err)
					}
				}
				return true
			})
			r.send("news@lab.test", []string{"a@far.test", "b@far.example"}, news("late"))
			r.until("Postfix has given up, and the milter's side is closed as well", func() bool { return p.Passing() == 0 })
			if err := r.Millrace.Milter.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			line := r.logLine(r.Millrace.Milter, `msg="verdict lost"`)
			if !strings.Contains(line, "MTA was not told and keeps the message") || !strings.Contains(line, "diverted=2") {
				t.Errorf("the line: %s", line)
			}
			r.exactly("late a@far.test postfix", "late b@far.example postfix")
		})
	}
}

// A milter that dies, or whose line breaks, in the middle of a long verdict has
// committed. Postfix deletes recipient by recipient and goes on with the rest:
// what it has deleted arrives once, the rest twice, nothing is lost.
func TestVerdictThatIsCutLosesNobody(t *testing.T) {
	t.Parallel()
	const all, deleted = 1300, 30
	for i, end := range []string{"kill", "hang up"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			r, p := tapped(t, "unix", fmt.Sprintf("127.79.%d.1", i), "accept", setup{
				postfix: lab.PostfixOptions{Extra: map[string]string{"smtpd_recipient_limit": fmt.Sprint(all)}},
			})
			// Long addresses, so that the deletions are more than a socket holds
			// and the milter is still writing.
			domain := "d" + strings.Repeat("x", 60) + "." + strings.Repeat("y", 60) + "." + strings.Repeat("z", 60) + ".example"
			var rcpts, want []string
			for i := range all {
				rcpt := fmt.Sprintf("%s-%d@%s", strings.Repeat("r", 50), i, domain)
				rcpts = append(rcpts, rcpt)
				want = append(want, "cut "+rcpt+" ours")
				if i >= deleted {
					want = append(want, "cut "+rcpt+" postfix")
				}
			}
			passed := 0 // on the one goroutine that carries the milter's packets
			p.on(func(fromMilter bool, code byte) bool {
				if !fromMilter || code != '-' {
					return true
				}
				if passed++; passed <= deleted {
					return true
				}
				if end == "kill" {
					r.Millrace.Milter.Kill()
				}
				return false
			})
			r.send("news@lab.test", rcpts, news("cut"))
			p.on(nil)
			says, by := []string{`msg="verdict cut"`, "possible duplicate", fmt.Sprintf("diverted=%d", all)}, r.Millrace.Milter
			if end == "kill" {
				says, by = []string{"possible duplicate: the milter died"}, r.Millrace.Agent
			}
			r.logLine(by, says...)
			r.exactly(want...)
			if end == "kill" {
				r.start(r.Millrace.Milter)
			}
			r.send("news@lab.test", []string{"a@far.test"}, news("after"))
			r.exactly(append(want, "after a@far.test ours")...)
		})
	}
}

// A milter that dies before it commits has done nothing; one that dies when it
// has answered and Postfix does not hear it has taken the message, and so has
// Postfix or, again, the milter: this is the one window in which mail is doubled.
// Whether its record says so, or is an orphan, is a matter of microseconds.
func TestDeathAroundTheVerdict(t *testing.T) {
	t.Parallel()
	for i, action := range []string{"accept", "tempfail"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			r, p := tapped(t, "unix", fmt.Sprintf("127.80.%d.1", i), action, setup{})
			var want []string
			for _, x := range []struct {
				id         string
				fromMilter bool
				code       byte // where the milter dies
				twice      bool
			}{{"before-end", false, 'E', false}, {"after-verdict", true, '-', true}} {
				p.on(func(fromMilter bool, code byte) bool {
					if fromMilter == x.fromMilter && code == x.code {
						r.Millrace.Milter.Kill()
						return false
					}
					return true
				})
				client := r.local()
				client.says("250", "EHLO client.test")
				mail := []string{"MAIL FROM:<news@lab.test>", "RCPT TO:<a@far.test>", "DATA"}
				client.says("250 250 354", mail...)
				way := "postfix"
				reply := client.says("xxx", news(x.id)+".")
				if (reply[0] == '2') != (action == "accept") || reply[0] == '5' {
					t.Errorf("%s: %s", x.id, reply)
				}
				client.quits()
				p.on(nil)
				r.start(r.Millrace.Milter)
				if action == "tempfail" {
					way = "ours"
					r.send("news@lab.test", []string{"a@far.test"}, news(x.id))
				}
				want = append(want, x.id+" a@far.test "+way)
				if x.twice {
					want = append(want, x.id+" a@far.test ours")
				}
				r.exactly(want...)
			}
		})
	}
}

// A milter that is told to stop has its last word about the message in hand.
func TestStopWaitsForTheMessageInHand(t *testing.T) {
	t.Parallel()
	r, p := tapped(t, "unix", "127.82.0.1", "accept", setup{})
	p.on(func(fromMilter bool, code byte) bool {
		if !fromMilter && code == 'B' {
			if err := r.Millrace.Milter.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			// Once it takes no more connections it has heard the signal.
			err := lab.Until(r.ctx, func() (bool, error) {
				network, socket := lab.Network(r.Millrace.Socket())
				c, err := net.Dial(network, socket)
				if err == nil {
					c.Close()
				}
				return err != nil, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		return true
	})
	r.send("news@lab.test", []string{"a@far.test"}, news("in-hand"))
	r.until("the milter has ended", func() bool { return !r.Millrace.Milter.Running() })
	r.send("news@lab.test", []string{"a@far.test"}, news("without"))
	r.exactly("in-hand a@far.test ours", "without a@far.test postfix")
	r.quiet(1)
}

// Postfix dies with the verdict in its socket: its client, who has no answer,
// sends again. The first one was ours already.
func TestPostfixDiesBeforeItHearsTheVerdict(t *testing.T) {
	t.Parallel()
	r, p := tapped(t, "unix", "127.81.0.1", "tempfail", setup{})
	p.on(func(fromMilter bool, code byte) bool {
		if fromMilter && code == '-' {
			r.Postfix.Kill()
			return false
		}
		return true
	})
	client := r.local()
	client.says("250 250 250 354", "EHLO client.test", "MAIL FROM:<news@lab.test>", "RCPT TO:<a@far.test>", "DATA")
	client.write(news("unheard") + ".")
	if line, err := client.in.ReadString('\n'); err == nil {
		t.Errorf("reply %q", line)
	}
	p.on(nil)
	if err := r.Postfix.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.send("news@lab.test", []string{"a@far.test"}, news("unheard"))
	r.exactly("unheard a@far.test ours", "unheard a@far.test ours")
	if all := r.all(); all[0].spool == all[1].spool {
		t.Errorf("one record was sent twice: %s", all[0].spool)
	}
}
