package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/repeats"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// patient makes Postfix treat a client that is told to come again, and does, as
// any other.
func patient(o lab.PostfixOptions) lab.PostfixOptions {
	o.Extra = map[string]string{"smtpd_error_sleep_time": "0", "smtpd_hard_error_limit": "1000"}
	return o
}

// busy is an internet where transactions take a while, so that a crash always
// finds some of them half done: accept is how long the nearer one takes over a message, the
// longer the fewer come.
func busy(accept time.Duration) []sink.Provider {
	return []sink.Provider{
		{Name: "near", Domains: []string{"a*.example"}, Hosts: 2, Behaviour: sink.Behaviour{RTT: 5 * time.Millisecond, AcceptTime: accept}},
		{Name: "slow", Domains: []string{"b*.example"}, Behaviour: sink.Behaviour{RTT: 30 * time.Millisecond, AcceptTime: accept * 5 / 2}},
	}
}

// stream sends mail until it is told to stop.
type stream struct {
	room  *room
	sent  ledger.Ledger
	quit  chan struct{} // closed to end it
	ended chan struct{} // closed when it has ended
	err   error         // then: why it ended early
}

// flow starts a stream of so many messages a second. A program on a host sends
// again what was not taken, over a new connection now and then; so does this.
func (r *room) flow(seed uint64, rate float64) *stream {
	return r.flowTo(r.Host.SMTPAddr(), seed, rate)
}

// flowTo is flow to another server than the host MTA.
func (r *room) flowTo(addr string, seed uint64, rate float64) *stream {
	return r.flowOf(addr, &inject.Generator{
		Seed: seed, Domains: []string{"a1.example", "a2.example", "b1.example"},
		MinSize: 2 << 10, MaxSize: 16 << 10, MaxRecipients: 4,
	}, rate)
}

func (r *room) flowOf(addr string, g *inject.Generator, rate float64) *stream {
	s := &stream{room: r, quit: make(chan struct{}), ended: make(chan struct{})}
	in := &inject.Injector{
		Addr: addr, Connections: 6, PerConnection: 8, Rate: rate,
		Retry: 50 * time.Millisecond, Timeout: patience, Ledger: &s.sent,
	}
	go func() {
		defer close(s.ended)
		const batch = 50
		for from := 0; ; from += batch {
			got, err := in.Run(r.ctx, batch, func(i int) *inject.Message { return g.Message(from + i) })
			if err == nil && got.Messages != batch {
				err = fmt.Errorf("%d of %d messages given up: %w", batch-got.Messages, batch, got.Err)
			}
			if err != nil {
				s.err = err
				return
			}
			select {
			case <-s.quit:
				return
			default:
			}
		}
	}()
	r.t.Cleanup(func() { <-s.ended }) // which the end of the room's context sees to
	return s
}

// more waits until so many more copies have arrived.
func (s *stream) more(n int) {
	s.room.t.Helper()
	have := s.room.Internet.Ledger().Len()
	s.room.until(fmt.Sprintf("%d more copies than %d", n, have), func() bool {
		select {
		case <-s.ended:
			s.room.t.Fatalf("the injector has ended: %v", s.err)
		default:
		}
		return s.room.Internet.Ledger().Len() >= have+n
	})
}

// end stops the stream when all that it began is with Postfix.
func (s *stream) end() {
	s.room.t.Helper()
	close(s.quit)
	<-s.ended
	if s.err != nil {
		s.room.t.Fatal(s.err)
	}
}

// A crash may repeat, never lose: 20 times, milter, agent and both by turns, in
// the middle of the flow. With tempfail, mail waits at its client while there
// is no milter; with accept, Postfix goes on alone.
func TestKillNine(t *testing.T) {
	t.Parallel()
	for seed, action := range []string{"tempfail", "accept"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			const sessions = 12
			r := enter(t, setup{
				providers: busy(20 * time.Millisecond),
				postfix:   patient(lab.PostfixOptions{Milter: "{ unix:millrace/milter.sock, default_action=" + action + " }"}),
				millrace:  lab.MillraceOptions{Set: map[string]string{"agent.max_sessions": fmt.Sprint(sessions)}},
			})
			s := r.flow(uint64(seed), 150)
			milter, agent := r.Millrace.Milter, r.Millrace.Agent
			crashes := s.killing(20, [][]*lab.Daemon{{milter}, {agent}, {milter, agent}, {agent, milter}})
			s.more(50)
			s.end()
			r.explain(r.accounts(&s.sent), &s.sent, crashes*sessions)
		})
	}
}

// killing kills these daemons in turn while mail flows, starts them again, and says
// how often the agent was among them.
func (s *stream) killing(times int, inTurn [][]*lab.Daemon) (agents int) {
	for i := range times {
		s.more(10 + 7*(i%5)) // crashes fall into warm-up and full flow
		victims := inTurn[i%len(inTurn)]
		for _, d := range victims {
			d.Kill()
			if d == s.room.Millrace.Agent {
				agents++
			}
		}
		s.room.start(victims...)
	}
	return agents
}

// explain fails for each copy too many that invariant 3 does not allow: see
// package repeats. The agent may repeat one transaction for each session open at
// a crash.
func (r *room) explain(rep *ledger.Report, sent *ledger.Ledger, most int) {
	r.t.Helper()
	if len(rep.Altered)+len(rep.Stray)+len(rep.Lost) > 0 {
		r.t.Fatalf("ledgers: %s", rep)
	}
	e := repeats.Evidence{Sent: sent, Received: r.Internet.Ledger(), Orphans: repeats.Orphans(read(r.t, r.Millrace.Agent.Log()))}
	for _, a := range r.all() {
		e.Arrivals = append(e.Arrivals, repeats.Arrival{Copy: ledger.Copy{ID: a.id, Recipient: a.recipient}, Spool: a.spool})
	}
	got := repeats.Explain(e)
	for _, text := range got.Unlawful {
		r.t.Error(text)
	}
	if got.Host > 0 {
		r.t.Errorf("the host repeated %d copies", got.Host)
	}
	if got.Repeats > most {
		r.t.Errorf("%d transactions repeated; at most %d sessions were cut", got.Repeats, most)
	}
	if got.Repeats == 0 {
		r.t.Error("no transaction was repeated: the crashes have hit nothing")
	}
	r.t.Logf("%s; %+v, %d orphans", rep, got, len(e.Orphans))
}

// An orderly stop of both under load, and a start again: nothing is lost and
// nothing comes twice.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: busy(20 * time.Millisecond),
		postfix:   lab.PostfixOptions{Milter: "{ unix:millrace/milter.sock, default_action=accept }"},
	})
	s := r.flow(9, 150)
	for i := range 6 {
		s.more(30)
		both := []*lab.Daemon{r.Millrace.Milter, r.Millrace.Agent}
		if i%2 == 1 {
			slices.Reverse(both)
		}
		r.stop(both...)
		r.start(both...)
	}
	s.more(30)
	s.end()
	r.exact(&s.sent)
	if lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "possible duplicate"); len(lines) > 0 {
		t.Errorf("an orderly stop left orphans:\n%s", lines[0])
	}
}
