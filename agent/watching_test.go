package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// watching is a watch over the control socket.
type watching struct {
	mu    sync.Mutex
	lines []string
	ended chan error
	stop  context.CancelFunc
}

// watch begins to watch, and returns once the agent does.
func (s *stage) watch(q control.WatchQuestion) *watching {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	w := &watching{ended: make(chan error, 1), stop: stop}
	begun := make(chan struct{})
	go func() {
		w.ended <- s.admin().Watch(ctx, q, func(l *control.WatchLine) error {
			if l == nil {
				close(begun)
				return nil
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lines = append(w.lines, fmt.Sprintf("%s %s", l.From, l.Text))
			return nil
		})
	}()
	select {
	case <-begun:
	case err := <-w.ended:
		s.t.Fatal(err)
	}
	s.t.Cleanup(stop)
	return w
}

func (w *watching) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n")
}

func matches(t *testing.T, what, got, want string) {
	t.Helper()
	if !regexp.MustCompile(`^(?s:` + want + `)$`).MatchString(got) {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// Real sessions are shown as they go: TLS, a refusal, the dot's reply, for a recipient, for a
// site, and what failed alone; with no content.
func TestDialoguesAreWatched(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{StartTLS: true}},
		sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
		sink.Provider{Name: "drops", Domains: []string{"drops.test"}, Behaviour: sink.Behaviour{Drop: 1}},
		sink.Provider{Name: "down", Domains: []string{"down.test"}, Behaviour: sink.Behaviour{Down: true}},
	)
	s.start()
	to := s.watch(control.WatchQuestion{Recipient: "A@far.test", First: 1})
	other := s.watch(control.WatchQuestion{Recipient: "nobody@far.test"})
	failed := s.watch(control.WatchQuestion{Failed: true})
	strict := s.watch(control.WatchQuestion{Site: "strict.test", Failed: true, First: 1})
	drops := s.watch(control.WatchQuestion{Recipient: "d@drops.test", Failed: true, First: 1})
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "a@far.test")
	if err := <-to.ended; err != nil { // of itself
		t.Error(err)
	}
	matches(t, "for a recipient", to.text(), `- session of site far\.test with mx1\.far\.test\[127\.[0-9.]+\]:\d+
- connected to [0-9.:]+
S 220 .*
C EHLO mail\.lab\.test
S 250-.*
C STARTTLS
S 220 .*
- TLS 1\.3, .*
C EHLO mail\.lab\.test
S 250-.*
- message M\w+-\w+, 4QID\d+ of the host, stream news
C MAIL FROM:<n@news\.test> SIZE=\d+.*
C RCPT TO:<a@far\.test>.*
C DATA
S 250 .*
S 354 .*
C \[\d+ octets of content\]
S 250 [^\n]*`)
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@strict.test", "c@down.test", "d@drops.test")
	if err := <-strict.ended; err != nil {
		t.Error(err)
	}
	matches(t, "what was refused", strict.text(), `- no site strict\.test is known yet; .*
- session of site strict\.test with .*
S 250 [^\n]*
- message .*
C RCPT TO:<b@strict\.test>.*
S 550 .*`)
	if err := <-drops.ended; err != nil {
		t.Error(err)
	}
	matches(t, "what broke off", drops.text(), `- session of site drops\.test with .*
S 220 .*
- message .*
C \[\d+ octets of content\]
- broken off: [^\n]*`)
	for _, text := range []string{"- session of site down.test", "- closed: ", "S 550 "} {
		s.until("what failed is shown", func() bool { return strings.Contains(failed.text(), text) })
	}
	if got := failed.text(); strings.Contains(got, "far.test") {
		t.Errorf("what failed:\n%s", got)
	}
	for _, w := range []*watching{to, failed, strict} {
		if got := w.text(); strings.Contains(got, "body") || strings.Contains(got, "List-Id") {
			t.Errorf("content is shown:\n%s", got)
		}
	}
	if got := other.text(); got != "" {
		t.Errorf("nobody's mail was shown:\n%s", got)
	}
	failed.stop()
	other.stop()
	for _, w := range []*watching{failed, other} {
		if err := <-w.ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	s.until("nobody watches", func() bool { return !s.agent.dialogues.Watched() })
	if n := strings.Count(s.log.String(), "do=watch "); n != 5 {
		t.Errorf("%d watches are logged:\n%s", n, s.log)
	}
}

// stall begins to watch a site over a connection that it does not read from, but for the
// header of the answer.
func (s *stage) stall(site string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	_, path, _ := strings.Cut(s.config.Agent.Control, ":")
	c, err := net.Dial("unix", path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	body := fmt.Sprintf(`{"site":%q}`, site)
	if _, err := fmt.Fprintf(c, "POST /v1/watch HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		s.t.Fatal(err)
	}
	in := bufio.NewReader(c)
	for line := ""; line != "\r\n"; {
		if line, err = in.ReadString('\n'); err != nil {
			s.t.Fatal(err)
		}
	}
	return c, in
}

// told is how many lines of sessions a line stands for.
func told(l *control.WatchLine) int {
	if l.Session == 0 && l.Lost == 0 {
		return 0
	}
	return max(l.Lost, 1)
}

// Readers that stop reading hold up neither mail nor other watchers nor the end of the agent.
// One that goes on is told how much it has missed: lines and gaps make up what another one was
// shown.
func TestStalledWatchersHoldNothingUp(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	_, in := s.stall("far.test")
	forgotten, _ := s.stall("far.test")
	var mu sync.Mutex
	var slow, quick, lost int
	ctx, stop := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan error, 2)
	go func() {
		ended <- s.admin().Watch(ctx, control.WatchQuestion{Site: "far.test"}, func(l *control.WatchLine) error {
			if l == nil {
				close(begun)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			quick += told(l)
			return nil
		})
	}()
	<-begun
	s.flood(n, func(i int) (spool.Envelope, string) {
		return spool.Envelope{Sender: "n@news.test"}, fmt.Sprintf("u%d@far.test", i)
	})
	s.until("all is delivered", func() bool { return len(s.at("far")) == n && s.empty() })
	go func() {
		for dec := json.NewDecoder(in); ; {
			var l control.WatchLine
			if err := dec.Decode(&l); err != nil {
				ended <- nil
				return
			}
			mu.Lock()
			slow, lost = slow+told(&l), lost+l.Lost
			mu.Unlock()
		}
	}()
	s.until("the slow one has all, or knows what it has missed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slow == quick && lost > 0 && quick > 3*n
	})
	s.stop() // with all of them there
	stop()
	<-ended
	<-ended
	if _, err := io.Copy(io.Discard, forgotten); err != nil {
		t.Errorf("after the agent's end: %v", err)
	}
}
