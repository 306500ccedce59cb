package agent

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// strict is a receiver that names limits (RFC 9422) and notes who exceeds them.
type strict struct {
	mailMax, rcptMax int

	mu         sync.Mutex
	recipients map[string]int // how often each was accepted
	mails      int            // accepted
	wrong      []string
}

func (s *strict) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// serve is one connection.
func (s *strict) serve(nc net.Conn) {
	defer nc.Close()
	in := bufio.NewReader(nc)
	say := func(text string) { fmt.Fprintf(nc, "%s\r\n", text) }
	say("220 strict.test")
	mails, data, polite := 0, false, false
	var rcpts []string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if !polite && mails > 0 { // a connect that nothing is left for may be given up
				s.note("closed after %d messages: %v", mails, err)
			}
			return
		}
		verb, _, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		switch {
		case data:
			if verb != "." {
				continue
			}
			data = false
			s.mu.Lock()
			s.mails++
			for _, r := range rcpts {
				s.recipients[r]++
			}
			s.mu.Unlock()
			say("250 ok")
		case verb == "EHLO":
			say(fmt.Sprintf("250-strict.test\r\n250-PIPELINING\r\n250 limits mailmax=%d RCPTDOMAINMAX=1 RcptMax=%d", s.mailMax, s.rcptMax))
		case verb == "MAIL":
			if mails++; mails > s.mailMax {
				s.note("%d transactions", mails)
			}
			rcpts = rcpts[:0]
			say("250 ok")
		case verb == "RCPT":
			if rcpts = append(rcpts, line); len(rcpts) > s.rcptMax {
				s.note("%d recipients", len(rcpts))
			}
			say("250 ok")
		case verb == "DATA":
			data = true
			say("354 go")
		case verb == "QUIT":
			polite = true
			say("221 bye")
		default:
			say("250 ok")
		}
	}
}

func TestLimitsThatAPeerNamesAreKept(t *testing.T) {
	t.Parallel()
	r := &strict{mailMax: 2, rcptMax: 3, recipients: map[string]int{}}
	var wg sync.WaitGroup
	addr := smtptest.ServeAt(t, "127.0.0.1:0", func(nc net.Conn) {
		wg.Add(1)
		defer wg.Done()
		r.serve(nc)
	})
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: addr.String()}
		c.General.MaxSessions = 2
	})
	var to []string
	for i := range 7 {
		to = append(to, fmt.Sprintf("r%d@one.test", i))
	}
	const messages = 5
	for range messages {
		s.send(spool.Envelope{Sender: "news@sender.test"}, "Subject: hello\r\n\r\ntext\r\n", to...)
	}
	s.start()
	s.until("all is sent", s.empty)
	s.stop()
	wg.Wait() // for what each connection has to say of its end
	for _, w := range r.wrong {
		t.Error(w)
	}
	if r.mails < messages*3 {
		t.Errorf("%d transactions for %d messages of %d recipients", r.mails, messages, len(to))
	}
	for _, x := range to {
		if n := r.recipients["RCPT TO:<"+x+">\r\n"]; n != messages {
			t.Errorf("%s got %d messages", x, n)
		}
	}
}
