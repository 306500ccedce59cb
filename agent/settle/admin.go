package settle

import (
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// journalBatch is how many outcomes of an admin's decision are written at once.
const journalBatch = 256

// Decide settles recipients of which an admin decides, each by its last reply, and
// returns how many. envelope gives a message's envelope, nil if it cannot be read. No
// sender is told: decide must not return a Bounce.
func (s *Settler) Decide(jobs []queue.Job, envelope func(spool.ID) *spool.Envelope, decide func(last string) outcome.Decision) (n int) {
	n, _ = s.DecideEach(jobs, envelope, func(_ spool.ID, last string) outcome.Decision { return decide(last) })
	return n
}

// DecideEach is Decide with a decision by message. It says as well whether all of it is in the
// journal: not if the agent was stopped while that could not be written.
func (s *Settler) DecideEach(jobs []queue.Job, envelope func(spool.ID) *spool.Envelope, decide func(id spool.ID, last string) outcome.Decision) (n int, recorded bool) {
	recorded = true
	var done []queue.Settled
	var events []spool.Event
	var parts []Settlement
	write := func() {
		written := s.record(events)
		recorded = recorded && written
		rest := events
		for i := range parts { // each with its own part of the events
			n := len(parts[i].Results)
			parts[i].publish(rest[:n], written)
			rest = rest[n:]
		}
		s.queue.Settle(done)
		done, events, parts = done[:0], events[:0], parts[:0]
	}
	for _, job := range jobs {
		r := s.decided(job, envelope(job.ID), func(last string) outcome.Decision { return decide(job.ID, last) })
		done, events = r.events(done, events)
		parts = append(parts, r)
		if len(events) >= journalBatch {
			write()
		}
		n += len(job.Items)
	}
	write()
	return n, recorded
}

// DecideAndReport is Decide with the reports that are owed, which are sent before it returns.
func (s *Settler) DecideAndReport(jobs []queue.Job, envelope func(spool.ID) *spool.Envelope, decide func(last string) outcome.Decision) (n int) {
	for _, job := range jobs {
		r := s.decided(job, envelope(job.ID), decide)
		done, _ := r.Settle(nil, nil)
		s.queue.Settle(done)
		n += len(job.Items)
	}
	s.Bounce() // who waits for this should not wait for more failures
	return n
}

// decided is a settlement of recipients on whom an admin decides.
func (s *Settler) decided(job queue.Job, e *spool.Envelope, decide func(last string) outcome.Decision) Settlement {
	r := s.Begin(e, job, queue.Route{Queue: s.settings.Now().QueueOf(job.Domain)})
	r.at = time.Now()
	states, _ := s.store.States(job.ID) // none: there is nothing to say of them
	for _, item := range job.Items {
		last := ""
		if int(item.Ordinal) < len(states) {
			last = states[item.Ordinal].Reply
		}
		r.Results = append(r.Results, Result{Item: item, Decision: decide(last)})
	}
	return r
}

// Restate changes what the journal knows of recipients, and then where they are in
// the queue. It returns of how many.
func (s *Settler) Restate(jobs []queue.Job, change func(*spool.State) queue.How) int {
	return s.RestateEach(jobs, func(_ spool.ID, _ uint32, st *spool.State) queue.How { return change(st) })
}

// RestateEach is Restate with a change by recipient.
func (s *Settler) RestateEach(jobs []queue.Job, change func(id spool.ID, ordinal uint32, st *spool.State) queue.How) int {
	var events []spool.Event
	var done []queue.Settled
	for _, job := range jobs {
		states, _ := s.store.States(job.ID)
		for _, item := range job.Items {
			if int(item.Ordinal) >= len(states) {
				done = append(done, queue.Settled{Handle: item.Handle, How: queue.Untried})
				continue
			}
			st := states[item.Ordinal]
			done = append(done, queue.Settled{Handle: item.Handle, How: change(job.ID, item.Ordinal, &st)})
			events = append(events, spool.Event{ID: job.ID, Recipient: item.Ordinal, State: st})
		}
	}
	s.record(events)
	s.queue.Settle(done)
	return len(events)
}

// Forget has the journal forget what is known of a job's recipients, and takes them out
// of the queue, for a caller that adds them anew.
func (s *Settler) Forget(job queue.Job) {
	events := make([]spool.Event, 0, len(job.Items))
	done := make([]queue.Settled, 0, len(job.Items))
	for _, item := range job.Items {
		events = append(events, spool.Event{ID: job.ID, Recipient: item.Ordinal})
		done = append(done, queue.Settled{Handle: item.Handle, State: spool.State{Status: spool.Cancelled}}) // of the queue alone
	}
	s.record(events)
	s.queue.Settle(done)
}
