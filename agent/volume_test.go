package agent

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// flood appends n messages, as fast as a milter's many sessions do.
func (s *stage) flood(n int, make func(i int) (e spool.Envelope, to string)) {
	s.t.Helper()
	const sessions = 256
	var wg sync.WaitGroup
	for k := range sessions {
		wg.Go(func() {
			for i := k; i < n; i += sessions {
				e, to := make(i)
				e.Recipients, e.Arrived, e.QueueID = []spool.Recipient{{Address: to}}, time.Now(), fmt.Sprint("4QID", i)
				r, err := s.writer.Append(s.t.Context(), &e, strings.NewReader(letter))
				if err == nil {
					err = r.Release()
				}
				if err != nil {
					s.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// mailing has n messages wait by which three filters find a third each: a SASL user's,
// a stream's, a domain's. Others wait among them.
func mailing(t *testing.T, n, others int) (*stage, []control.Filter) {
	t.Helper()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.pause(control.Filter{All: true}, "emergency")
	s.flood(n+others, func(i int) (spool.Envelope, string) {
		e := spool.Envelope{Sender: "n@news.test", Stream: fmt.Sprint("stream", i%50), AuthUser: "good"}
		domain := fmt.Sprintf("d%d.test", i%1000)
		switch {
		case i >= n:
			domain = "far.test"
		case i < n/3:
			e.AuthUser = "hacked"
		case i < 2*n/3:
			e.Stream = "mistake"
		default:
			domain = "mistake.test"
		}
		return e, fmt.Sprintf("u%d@%s", i, domain)
	})
	s.until("queued", func() bool { return s.status().Waiting == n+others })
	return s, []control.Filter{{User: "hacked"}, {Stream: "mistake"}, {Domain: "Mistake.test"}}
}

// TestHundredThousandMessagesAreCancelled wants each third of a mailing gone, and
// nothing else. It runs alone: it would take the machine from tests that wait for a
// receiver.
func TestHundredThousandMessagesAreCancelled(t *testing.T) {
	const n, others = 99_999, 300
	s, filters := mailing(t, n, others)
	for _, f := range filters {
		began := time.Now()
		if got := s.act(control.VerbCancel, f); got != n/3 {
			t.Errorf("%d of %d cancelled by %s", got, n/3, f)
		}
		t.Logf("%d messages cancelled by %s in %v", n/3, f, time.Since(began).Round(time.Millisecond))
	}
	s.resume(control.Filter{All: true})
	s.until("the others are delivered", func() bool { return s.empty() })
	if got := len(s.at("far")); got != others {
		t.Errorf("%d delivered, want %d", got, others)
	}
	if got := len(s.at("host")); got != 0 {
		t.Errorf("%d reports about cancelled mail", got)
	}
}

// TestCancelLetsTransactionsFinish cancels while one message is in flight and others
// wait behind it.
func TestCancelLetsTransactionsFinish(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.MaxSessions = 1 },
		sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.thinks = make(chan struct{})
	answer := sync.OnceFunc(func() { close(s.thinks) })
	s.start()
	t.Cleanup(answer) // before the stop, which waits for it
	for i := range 5 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
	}
	s.until("one is in flight, and the others wait", func() bool {
		st := s.status()
		return len(s.at("far")) == 1 && st.Active == 1 && st.Waiting == 4
	})
	var done control.Selected
	var err error
	var act sync.WaitGroup
	act.Go(func() {
		done, err = s.admin().Act(t.Context(), control.Action{Verb: control.VerbCancel, Filter: control.Filter{All: true}}, nil)
	})
	s.until("the others are cancelled", func() bool { return s.status().Waiting == 0 })
	answer() // the command waits for it, for some seconds
	act.Wait()
	s.until("all is done", s.empty)
	if sent := len(s.at("far")); err != nil || done.Recipients != 4 || sent != 1 {
		t.Errorf("%d cancelled, %v, %d sent, of 5", done.Recipients, err, sent)
	}
}
