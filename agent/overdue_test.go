package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/sink"
)

// TestMailIsTriedAfterAWeekDown starts on mail that is past its age, with slow look-ups
// and connects and one session for all.
func TestMailIsTriedAfterAWeekDown(t *testing.T) {
	t.Parallel()
	slow := sink.Behaviour{DNSDelay: 200 * time.Millisecond, GreetingDelay: 200 * time.Millisecond}
	s := newStage(t, func(c *config.Config) { c.Agent.MaxSessions = 1 },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: slow},
		sink.Provider{Name: "farther", Domains: []string{"farther.test"}, Behaviour: slow})
	for i := range 3 {
		e := spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}
		s.send(e, letter, fmt.Sprintf("u%d@far.test", i))
		s.send(e, letter, fmt.Sprintf("u%d@farther.test", i))
	}
	s.start()
	s.until("all is settled", func() bool {
		s.agent.expireOverdue()
		return s.empty()
	})
	if far, farther, host := len(s.at("far")), len(s.at("farther")), len(s.at("host")); far != 3 || farther != 3 || host != 0 {
		t.Errorf("%d and %d of 3 delivered, %d reports", far, farther, host)
	}
}

// TestMailWaitsForOurResolver starts before the resolver does.
func TestMailWaitsForOurResolver(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	late := *s.config
	late.Agent.Resolvers = []string{freePort(t)}
	runs := s.config
	s.config = &late
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "a@far.test")
	s.start()
	s.until("it is asked", func() bool { return s.agent.queue.Reason("far.test") != "" })
	began := time.Now().Unix()
	s.until("a failure would count, as they do from the next second on", func() bool {
		s.agent.queue.AskWay("far.test")
		s.agent.expireOverdue()
		return time.Now().Unix() >= began+2
	})
	if err := s.agent.Reload(runs); err != nil {
		t.Fatal(err)
	}
	s.until("it is settled", s.empty)
	if far, host := len(s.at("far")), len(s.at("host")); far != 1 || host != 0 {
		t.Errorf("%d delivered, %d reports", far, host)
	}
}

// TestMailToADeadHostExpires has no session that ever comes up.
func TestMailToADeadHostExpires(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{Down: true}})
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "old@far.test")
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "new@far.test")
	s.start()
	s.until("the old message is returned", func() bool {
		s.agent.expireOverdue()
		return len(s.at("host")) == 1
	})
	s.until("the other one waits", func() bool { return s.listed(control.Filter{}) == "new" })
}

// TestMailForTheHostWaitsForIt has a queue whose mail the host MTA is to send, and the
// host away.
func TestMailForTheHostWaitsForIt(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Route = config.Route{Kind: config.RouteHandback} })
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.Down = true }); err != nil {
		t.Fatal(err)
	}
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-200 * time.Hour)}, letter, "a@far.test")
	s.start()
	down := func() bool { return s.agent.queue.Reason("far.test") != "" }
	s.until("the host is found to be away", down)
	s.agent.queue.Overdue(func(string) *config.Queue { return &s.config.General }, func(job queue.Job, _ *config.Queue, reason string) {
		t.Errorf("%v is overdue: %s", job.ID, reason)
	})
	if err := s.net.Change("host", func(b *sink.Behaviour) { b.Down = false }); err != nil {
		t.Fatal(err)
	}
	s.until("the host has it", func() bool {
		s.act(control.VerbFlush, control.Filter{All: true})
		return len(s.at("host")) == 1
	})
	if got := s.at("host")[0]; got.recipient != "a@far.test" {
		t.Errorf("the host got mail to %s:\n%s", got.recipient, got.content)
	}
}

// TestWhatWeCutShortEndsNoMail decides on transactions that ended for reasons of ours,
// of a message that is too old.
func TestWhatWeCutShortEndsNoMail(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	decide := func(res smtp.RcptResult, err error) outcome.Action {
		r := report{
			agent: s.agent, envelope: &spool.Envelope{Sender: "n@news.test", Recipients: []spool.Recipient{{Address: "a@far.test"}}},
			job: queue.Job{Born: time.Now().Add(-200 * time.Hour)}, way: queue.Way{Queue: &s.config.General}, reuse: 1,
		}
		r.add(queue.Item{}, res, err)
		return r.fates[0].decision.Action
	}
	doubt := smtp.RcptResult{Fate: smtp.InDoubt, Stage: smtp.StageDot}
	lost := smtp.RcptResult{Fate: smtp.NotOffered, Stage: smtp.StageContent}
	broken := &smtp.Error{Stage: smtp.StageContent, Err: os.ErrDeadlineExceeded}
	for _, res := range []smtp.RcptResult{doubt, lost} {
		if got := decide(res, broken); got != outcome.Bounce {
			t.Errorf("a connection that broke: action %v", got)
		}
	}
	unread := &smtp.Error{Stage: smtp.StageContent, Err: fmt.Errorf("%w: %w", smtp.ErrContent, syscall.EIO)}
	if got := decide(lost, unread); got != outcome.Retry {
		t.Errorf("content that could not be read: action %v", got)
	}
	cut := &smtp.Error{Stage: smtp.StageContent, Err: context.Canceled}
	for _, res := range []smtp.RcptResult{doubt, lost} {
		if got := decide(res, cut); got != outcome.Retry {
			t.Errorf("a transaction cut by a stop: action %v", got)
		}
	}
}

func TestWantOfDescriptorsTellsNothingOfAHost(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&connectError{"connect", &smtp.Error{Err: os.NewSyscallError("socket", syscall.EMFILE)}}:        true,
		&connectError{"connect", &smtp.Error{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}: false,
		errors.New("no route"): false,
	} {
		if got := ours(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
