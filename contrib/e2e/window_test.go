package e2e

import (
	"fmt"
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
				postfix: lab.PostfixOptions{Extra: map[string]string{"milter_content_timeout": "1s"}},
			})
			p.on(func(fromMilter bool, code byte) bool {
				if !fromMilter && code == 'E' {
					if err := r.millrace.Milter.Signal(syscall.SIGSTOP); err != nil {
						t.Error(err)
					}
				}
				return true
			})
			r.send("news@lab.test", []string{"a@far.test", "b@far.example"}, news("late")) // Postfix has given up by then
			if err := r.millrace.Milter.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			line := r.logLine(r.millrace.Milter, `msg="verdict lost"`)
			if !strings.Contains(line, "MTA was not told and keeps the message") || !strings.Contains(line, "diverted=2") {
				t.Errorf("the line: %s", line)
			}
			p.on(nil)
			r.send("news@lab.test", []string{"a@far.test"}, news("after"))
			r.exactly("late a@far.test postfix", "late b@far.example postfix", "after a@far.test ours")
		})
	}
}

// many is an envelope whose deletions are more than a socket holds.
func many() (rcpts []string) {
	for i := range 1000 {
		rcpts = append(rcpts, fmt.Sprintf("%s-%d@far.test", strings.Repeat("x", 55), i))
	}
	return rcpts
}
