package agent

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// report collects what became of a job's recipients and settles them:
//
//  1. reports that are owed are appended to the spool, durable, as mail of our own;
//  2. the outcomes are written to the journal (in the kernel on return, synced
//     within 100 ms);
//  3. only then do they reach the queue, whose next Step may send the next dot.
//
// A crash before 2 repeats the transaction (and its report); none loses one. For
// failures that are reported these steps come a little later, apart from the rest
// of the job (notices).
type report struct {
	agent    *Agent
	envelope *spool.Envelope // nil when it could not be read
	job      queue.Job
	way      queue.Way
	peer     peer
	words    words
	reuse    int // transactions on the connection, this one counted
	times    times
	fates    []fate
	at       time.Time // when the job was settled
}

// times are parts of a delivery's delay.
type times struct{ connect, transmit time.Duration }

// fate is the decision on one recipient.
type fate struct {
	item     queue.Item
	decision outcome.Decision
	reply    smtp.Reply // the server's word, if it spoke
	untried  bool       // never offered to a server: goes back uncounted
	relayed  bool       // accepted, and reports on it are ours to make

	// Not tried, as the address is suppressed. The decision's action says whether
	// the sender is told: Bounce, or Cancel.
	suppressed bool
}

// add decides on one recipient of a transaction. err is the connection's.
func (r *report) add(item queue.Item, res smtp.RcptResult, err error) {
	at := outcome.Attempt{
		Stage: stages[res.Stage], Code: res.Reply.Code, Enhanced: res.Reply.Enhanced, Text: res.Reply.Text,
		Tries: item.Tries, Born: r.job.Born, Luck: rand.Float64(), Peer: r.words.name,
		Relay: r.way.Handback, Report: r.envelope.Origin == spool.Report,
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, smtp.ErrContent) {
		at.Born = time.Time{} // cut short by us, it was no try: it does not end what is too old
	}
	f := fate{item: item, reply: res.Reply}
	switch res.Fate {
	case smtp.NotOffered:
		switch {
		case errors.Is(res.Err, smtp.ErrTooBig):
			at.Fault, at.Text = outcome.Oversize, res.Err.Error()
		case res.Err != nil:
			at.Fault, at.Text = outcome.NeedsExtension, res.Err.Error()
		case err != nil && r.reuse > 1 && res.Stage < smtp.StageContent:
			// A warm connection that breaks before it saw the content says nothing
			// about this message.
			f.untried = true
		default:
			x := failure(err, r.peer)
			at.Stage, at.Fault, at.Code, at.Enhanced, at.Text = x.Stage, x.Fault, x.Code, x.Enhanced, x.Text
		}
	case smtp.InDoubt:
		at.Stage, at.Fault, at.Text = outcome.Data, outcome.InDoubt, err.Error()
	case smtp.Refused:
		// 421 to MAIL on a warm connection is the server's way to end it: so many
		// messages and no more, or a shutdown. It says nothing about this message.
		f.untried = res.Stage == smtp.StageMail && res.Reply.Code == 421 && r.reuse > 1
	case smtp.Accepted:
		f.relayed = !res.DSNTaken
	}
	f.decision = r.agent.policy(r.way.Queue).Decide(time.Now(), at)
	if !at.Relay { // rules are about receivers
		d := f.decision
		d.Reason = r.agent.shownReason(d.Reason, r.envelope, item.Ordinal) // it is logged
		r.agent.heed(word{decision: d, way: r.way, peer: r.peer, code: at.Code, stream: r.envelope.Stream})
	}
	r.fates = append(r.fates, f)
}

// signal is the transaction's evidence for the controller.
func (r *report) signal(began time.Time) elastic.Signal {
	s := elastic.Signal{Kind: elastic.Accepted, Host: r.words.host, Began: began}
	for _, f := range r.fates {
		if f.untried {
			s.Kind = elastic.Closed
		} else if f.decision.Action != outcome.Deliver {
			s.Kind, s.Text = f.decision.Signal, f.reply.Text
		}
		if s.Kind != elastic.Accepted {
			break
		}
	}
	return s
}

// settle makes reports, writes the journal, tells of it, and returns what the queue
// must know.
func (r *report) settle(done []queue.Settled, events []spool.Event) ([]queue.Settled, []spool.Event) {
	r.at = time.Now()
	rest := *r
	done = rest.tellSender(done)
	return rest.conclude(done, events)
}

// conclude is settle without reports.
func (r *report) conclude(done []queue.Settled, events []spool.Event) ([]queue.Settled, []spool.Event) {
	done, events = r.outcomes(done, events)
	r.tellAll(events, r.agent.record(events))
	return done, events
}

// tellAll tells of outcomes that are written to the journal, if they are.
func (r *report) tellAll(events []spool.Event, written bool) {
	if written {
		r.agent.logTaken(r)
		for _, f := range r.fates {
			r.tell(f, r.at)
		}
	}
	for i := range events {
		if events[i].Last {
			r.agent.logRemoved(r.envelope, r.job.ID)
		}
	}
}

// outcomes are what conclude writes and returns, for who writes many at once and tells
// of them then.
func (r *report) outcomes(done []queue.Settled, events []spool.Event) ([]queue.Settled, []spool.Event) {
	for _, f := range r.fates {
		s := f.settled(r.way.Handback && r.envelope != nil && r.envelope.Origin == spool.Diverted)
		if !s.Untried {
			tries := min(f.item.Tries+1, math.MaxUint16)
			if s.Handback {
				tries = 0 // at the host they are counted anew
			}
			events = append(events, spool.Event{
				ID: r.job.ID, Recipient: f.item.Ordinal,
				State: spool.State{
					Status: s.Status, Handback: s.Handback || r.way.Handback && s.Status == spool.Queued, Tries: uint16(tries),
					Class: uint8(f.decision.Class), Stuck: s.Stuck, Due: s.Due, Reply: s.Reason,
				},
			})
		}
		done = append(done, s)
	}
	return done, events
}

// settled translates a decision for the queue.
func (f *fate) settled(handedBack bool) queue.Settled {
	d := f.decision
	s := queue.Settled{Handle: f.item.Handle, Reason: d.Reason, Untried: f.untried}
	if f.untried {
		return s
	}
	switch d.Action {
	case outcome.Deliver:
		s.Status = spool.Delivered
		if handedBack {
			s.Status = spool.HandedBack
		}
	case outcome.Bounce:
		s.Status = spool.Bounced
	case outcome.Damage:
		s.Status = spool.Damaged
	case outcome.Cancel:
		s.Status = spool.Cancelled
	case outcome.HandBack:
		s.Handback = true
	default:
		s.Due, s.Stuck = d.Due, d.Action == outcome.Stuck
	}
	if f.suppressed && s.Status.Final() {
		s.Status = spool.Suppressed
	}
	return s
}

// record writes outcomes to the journal. While that fails nothing new is sent
// on this session: an outcome that is not written would be repeated. It returns
// false if they are not all in the journal in the end, so that nobody tells of one
// that has another outcome.
func (a *Agent) record(events []spool.Event) bool {
	if len(events) == 0 {
		return true
	}
	first := true
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := a.store.Record(events...)
		if err != nil && first {
			first = false
			a.stalled.Add(1)
			defer a.stalled.Add(-1)
		}
		switch {
		case err == nil:
			for i := range events {
				if events[i].State.Status == spool.HandedBack {
					a.returned.Add(1)
				}
			}
			return true
		case errors.Is(err, spool.ErrFinal), errors.Is(err, spool.ErrNotFound):
			// Somebody else settled it, as when an admin cancels mail in flight. The
			// other outcomes of this call are written.
			a.log.Warn("outcome comes too late", "id", events[0].ID, "err", err)
			return false
		}
		a.metrics.JournalError()
		a.log.Error("cannot write outcomes to the journal; this session waits", "err", err)
		select {
		case <-time.After(wait):
		case <-a.stop.Done():
			a.log.Error("outcomes are not in the journal; these recipients may get the message twice",
				"id", events[0].ID, "nrcpt", len(events))
			return false
		}
	}
}

// fail settles a whole job for one reason that needed no connection, and
// returns what the queue must know.
func (a *Agent) fail(job queue.Job, q *config.Queue, at outcome.Attempt) []queue.Settled {
	e, err := a.store.Envelope(job.ID)
	if err != nil {
		at = outcome.Attempt{Stage: outcome.Internal, Fault: outcome.Unreadable, Text: err.Error()}
	}
	return a.failWith(job, q, e, at)
}

func (a *Agent) failWith(job queue.Job, q *config.Queue, e *spool.Envelope, at outcome.Attempt) []queue.Settled {
	r := report{agent: a, envelope: e, job: job, way: queue.Way{Queue: q}}
	at.Born, at.Luck = job.Born, rand.Float64()
	at.Report = e != nil && e.Origin == spool.Report
	for _, item := range job.Items {
		at.Tries = item.Tries
		r.fates = append(r.fates, fate{item: item, decision: a.policy(q).Decide(time.Now(), at)})
	}
	done, _ := r.settle(nil, nil)
	return done
}

// tell makes the account of a delivery attempt and gives it to all who tell of it.
func (r *report) tell(f fate, now time.Time) {
	d := event.Delivery{
		Time: now, ID: r.job.ID, Envelope: r.envelope, Ordinal: f.item.Ordinal,
		Domain: r.job.Domain, Queue: r.way.Queue.Name, Site: r.way.Site,
		Peer: r.peer.addr, Relay: "none", Reuse: r.reuse, Tries: f.item.Tries + 1,
		Connect: r.times.connect, Transmit: r.times.transmit,
		Status: f.status(r.way.Handback), Class: f.decision.Class, Code: f.reply.Code,
		Enhanced: f.decision.Enhanced, Reason: f.decision.Reason, Due: f.decision.Due,
	}
	if r.peer.known() {
		d.Relay = r.words.relay
	}
	if f.untried || f.suppressed {
		d.Tries--
	}
	r.agent.logDelivery(&d)
	r.agent.count(&d)
	r.agent.events.Delivery(&d)
	r.agent.history.Delivery(&d)
	r.agent.metrics.Delivery(&d)
}

// status names the decision for those who tell of it.
func (f *fate) status(handback bool) event.Status {
	if f.untried {
		return event.Returned
	}
	if a := f.decision.Action; f.suppressed && (a == outcome.Bounce || a == outcome.Cancel) {
		return event.Suppressed
	}
	switch f.decision.Action {
	case outcome.Deliver:
		if handback {
			return event.HandedBack
		}
		return event.Sent
	case outcome.Bounce:
		return event.Bounced
	case outcome.Cancel:
		return event.Cancelled
	case outcome.HandBack:
		return event.Returning
	case outcome.Stuck:
		return event.Stuck
	case outcome.Damage:
		return event.Damaged
	default:
		return event.Deferred
	}
}
