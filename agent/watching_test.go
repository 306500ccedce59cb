package agent

import (
	"context"
	"errors"
	"fmt"
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
		sink.Provider{Name: "down", Domains: []string{"down.test"}, Behaviour: sink.Behaviour{Down: true}},
	)
	s.start()
	to := s.watch(control.WatchQuestion{Recipient: "A@far.test", First: 1})
	other := s.watch(control.WatchQuestion{Recipient: "nobody@far.test"})
	failed := s.watch(control.WatchQuestion{Failed: true})
	strict := s.watch(control.WatchQuestion{Site: "strict.test", Failed: true, First: 1})
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
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@strict.test", "c@down.test")
	if err := <-strict.ended; err != nil {
		t.Error(err)
	}
	matches(t, "what was refused", strict.text(), `- no site strict\.test is known yet; .*
- session of site strict\.test with .*
S 250 [^\n]*
- message .*
C RCPT TO:<b@strict\.test>.*
S 550 .*`)
	s.until("the connect that fails is shown", func() bool { return strings.Contains(failed.text(), "- session of site down.test") })
	if got := failed.text(); strings.Contains(got, "far.test") || !strings.Contains(got, "- closed: ") || !strings.Contains(got, "S 550 ") {
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
}
