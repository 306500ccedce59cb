// Package settle makes outcomes final. It is the only place where that happens, so the
// order of writes stands here alone: above Settlement.
//
// A Settler owns the reports in the making (bounces that wait for others of their
// message, delay warnings that are due later), the suppression list's part in an
// outcome, and the count of sessions that wait for the journal. It promises that no
// listener hears of an outcome that is not in the journal, that no failure is final
// before its report is durable, and that the queue hears of a recipient last.
//
// Begin starts the Settlement of a job; its owner adds Results and calls Settle, which may
// wait for the disk, and gives the queue what Settle returns. Jobs that failed without a
// connection go to Fail or Unreadable, an admin's decisions to Decide, DecideAndReport,
// Restate or Forget. BounceLoop and WarnLoop run as long as there are sessions; Bounce
// sends what is pending after the last of them has ended.
//
// A report is mail of our own (package dsn) that goes the way of all mail, to the host MTA
// in most cases. The terms are explained in agent/doc.go.
package settle

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
)

// Options are what a Settler works with. None may be missing.
type Options struct {
	Log      *slog.Logger
	Mail     *event.Log
	Settings *settings.Source
	Store    *spool.Store
	Writer   *spool.Writer // takes the reports
	Queue    *queue.Queue
	Bounced  *suppress.List
	// Listeners hear of each delivery attempt once its outcome is in the journal, in this
	// order; Events alone hears of records that are damaged.
	Listeners []event.Listener
	Events    event.Listener
	// JournalError is called for each time that outcomes could not be written.
	JournalError func()
	// Stop ends when outcomes that cannot be written are to be given up.
	Stop context.Context
}

// Settler settles what became of mail. Its methods may be called by many goroutines.
type Settler struct {
	log          *slog.Logger
	mail         *event.Log
	settings     *settings.Source
	store        *spool.Store
	writer       *spool.Writer
	queue        *queue.Queue
	bounced      *suppress.List
	listeners    []event.Listener
	damaged      event.Listener
	journalError func()
	stop         context.Context

	stalled        atomic.Int32 // sessions that cannot write an outcome
	returned       atomic.Int64 // recipients handed back since the start
	pendingBounces pendingBounces
	delayWarnings  delayWarnings
	deliveries     sync.Pool // of *event.Delivery
}

// New returns a Settler.
func New(o Options) *Settler {
	return &Settler{
		log: o.Log, mail: o.Mail, settings: o.Settings, store: o.Store, writer: o.Writer, queue: o.Queue, bounced: o.Bounced,
		listeners: o.Listeners, damaged: o.Events, journalError: o.JournalError, stop: o.Stop,
		deliveries: sync.Pool{New: func() any { return new(event.Delivery) }},
	}
}

// Stalled is how many sessions wait, as they cannot write an outcome.
func (s *Settler) Stalled() int { return int(s.stalled.Load()) }

// Returned is how many recipients were handed back to the host MTA since the start.
func (s *Settler) Returned() int64 { return s.returned.Load() }

// Settlement is what became of a job's recipients. Settle settles them:
//
//  1. reports that are owed are appended to the spool, durable, as mail of our own;
//  2. the outcomes are written to the journal (in the kernel on return, synced
//     within 100 ms);
//  3. only then are they published, to the log and the other listeners;
//  4. and only then do they reach the queue, whose next Step may send the next dot.
//
// A crash before 2 repeats the transaction (and its settlement); none loses one. For
// failures that are reported these steps come a little later, apart from the rest
// of the job (pendingBounces).
type Settlement struct {
	Envelope *spool.Envelope // nil when it could not be read
	Job      queue.Job
	Route    queue.Route
	Host     settings.Host // the zero Host: none was reached
	Source   netip.Addr    // where the connection came from; zero: there was none, or by a Unix socket
	Names    settings.HostNames
	Reuse    int           // transactions on the connection, this one counted
	Used     bool          // the connection has taken mail in one of those before
	Connect  time.Duration // 0 on a connection that was up
	Transmit time.Duration
	Results  []Result

	settler *Settler
	at      time.Time // when the job was settled
}

// Begin returns a settlement of a job without results.
func (s *Settler) Begin(e *spool.Envelope, job queue.Job, route queue.Route) Settlement {
	return Settlement{Envelope: e, Job: job, Route: route, settler: s}
}

// Result is the decision on one recipient.
type Result struct {
	Item     queue.Item
	Decision outcome.Decision
	Reply    smtp.Reply // of the server; zero if it did not speak
	Untried  bool       // never offered to a server: goes back uncounted
	Again    bool       // of an untried one: the server worked, and the next transaction takes it
	Relayed  bool       // accepted, and reports on it are ours to make
	AtRcpt   bool       // refused in reply to RCPT

	// suppressed: not tried, as the address is suppressed. The decision's action says
	// whether the sender is told: Bounce, or Cancel.
	suppressed bool
}

// Settle makes the reports, writes the journal and publishes, and returns what the queue
// must know: done and events with more at their ends.
func (r *Settlement) Settle(done []queue.Settled, events []spool.Event) ([]queue.Settled, []spool.Event) {
	r.at = time.Now()
	rest := *r
	done = rest.report(done)
	return rest.commit(done, events)
}

// commit is Settle without reports.
func (r *Settlement) commit(done []queue.Settled, events []spool.Event) ([]queue.Settled, []spool.Event) {
	before := len(events)
	done, events = r.events(done, events)
	r.publish(events[before:], r.settler.record(events[before:]))
	return done, events
}

// publish tells the listeners of outcomes, if they are in the journal. events are those of
// the results.
func (r *Settlement) publish(events []spool.Event, written bool) {
	s := r.settler
	if written {
		if r.Route.Site != "" { // else it was settled without a try
			tried := slices.ContainsFunc(r.Results, func(f Result) bool { return f.Item.Tries > 0 })
			s.mail.Taken(r.Envelope, r.Job.ID, len(r.Results), tried)
		}
		d := s.deliveries.Get().(*event.Delivery) // listeners keep none
		rest := events
		for i := range r.Results {
			if !r.Results[i].Untried { // it has an event, see events
				late := rest[0].Late
				if rest = rest[1:]; late {
					continue
				}
			}
			r.delivery(d, &r.Results[i])
			for _, l := range s.listeners {
				l.Delivery(d)
			}
		}
		*d = event.Delivery{}
		s.deliveries.Put(d)
	}
	for i := range events {
		if events[i].Last {
			s.mail.Removed(r.Envelope, r.Job.ID)
		}
	}
}

// events are what commit writes and returns, for callers that write the events of many
// settlements at once and publish then.
func (r *Settlement) events(done []queue.Settled, events []spool.Event) ([]queue.Settled, []spool.Event) {
	for _, f := range r.Results {
		s := r.settled(&f)
		if s.How != queue.Untried {
			events = append(events, spool.Event{ID: r.Job.ID, Recipient: f.Item.Ordinal, State: s.State})
		}
		done = append(done, s)
	}
	return done, events
}

// settled is what the journal and the queue get to know of a result.
func (r *Settlement) settled(f *Result) queue.Settled {
	s := queue.Settled{Handle: f.Item.Handle}
	if f.Untried {
		s.How = queue.Untried
		return s
	}
	d, st := f.Decision, &s.State
	st.Tries, st.Class, st.Reply = uint16(min(f.Item.Tries+1, math.MaxUint16)), uint8(d.Class), d.Reason
	switch d.Action {
	case outcome.Deliver:
		st.Status = spool.Delivered
		if r.Route.Handback && r.Envelope != nil && r.Envelope.Origin == spool.Diverted {
			st.Status = spool.HandedBack
		}
	case outcome.Bounce:
		st.Status = spool.Bounced
	case outcome.Damage:
		st.Status = spool.Damaged
	case outcome.Cancel:
		st.Status = spool.Cancelled
	case outcome.Move:
		st.Status, st.Tries = spool.Moved, uint16(min(f.Item.Tries, math.MaxUint16))
	case outcome.HandBack:
		s.How = queue.ToHost
		st.Handback, st.Tries = true, 0 // at the host they are counted anew
	default:
		st.Handback, st.Due, st.Stuck = r.Route.Handback, d.Due, d.Action == outcome.Stuck
		st.From = r.Route.From // settled by the first try; the same at each further one
	}
	if f.suppressed && st.Status.Final() {
		st.Status = spool.Suppressed
	}
	return s
}

// record writes outcomes to the journal, and waits while that fails: nothing new is sent
// on this session meanwhile, as an outcome that is not written would be repeated. It
// returns false if they are not in the journal in the end. Those that come too late, as
// when an admin cancels mail in flight, have Late set: no listener must hear of an outcome
// that is not the recipient's.
func (s *Settler) record(events []spool.Event) bool {
	if len(events) == 0 {
		return true
	}
	first := true
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := s.store.Record(events...)
		if err != nil && first {
			first = false
			s.stalled.Add(1)
			defer s.stalled.Add(-1)
		}
		if err == nil || errors.Is(err, spool.ErrFinal) || errors.Is(err, spool.ErrNotFound) {
			late, id := 0, spool.ID(0)
			for i := range events {
				switch ev := &events[i]; {
				case ev.Late:
					late, id = late+1, ev.ID
				case ev.State.Status == spool.HandedBack:
					s.returned.Add(1)
				}
			}
			if late > 0 {
				s.log.Warn("outcomes come too late: the recipients were settled otherwise meanwhile", "id", id, "nrcpt", late)
			}
			return true
		}
		s.journalError()
		s.log.Error("cannot write outcomes to the journal; this session waits", "err", err)
		select {
		case <-time.After(wait):
		case <-s.stop.Done():
			s.log.Error("outcomes are not in the journal; these recipients may get the message twice",
				"id", events[0].ID, "nrcpt", len(events))
			return false
		}
	}
}

// Fail settles a whole job for one failure that needed no connection, and
// returns what the queue must know. Mail whose envelope cannot be read is settled as
// Unreadable says: the failure is reported once it can.
func (s *Settler) Fail(job queue.Job, q *config.Queue, at outcome.Attempt) []queue.Settled {
	e, err := s.store.Envelope(job.ID)
	if err != nil {
		return s.Unreadable(job, q, nil, err)
	}
	return s.failWith(job, q, e, at)
}

func (s *Settler) failWith(job queue.Job, q *config.Queue, e *spool.Envelope, at outcome.Attempt) []queue.Settled {
	r := s.Begin(e, job, queue.Route{Queue: q})
	now, set := time.Now(), s.settings.Now()
	stream := ""
	if e != nil {
		stream, at.Report = e.Stream, e.Origin == spool.Report
	}
	at.Born, at.Jitter = set.BornOf(stream, job.Born, now), rand.Float64()
	policy := set.PolicyOf(q, stream)
	for _, item := range job.Items {
		at.Tries = item.Tries
		r.Results = append(r.Results, Result{Item: item, Decision: policy.Decide(now, at)})
	}
	done, _ := r.Settle(nil, nil)
	return done
}

// delivery fills in the account of the attempt for one recipient.
func (r *Settlement) delivery(d *event.Delivery, f *Result) {
	*d = event.Delivery{
		Time: r.at, ID: r.Job.ID, Envelope: r.Envelope, Ordinal: f.Item.Ordinal,
		Domain: r.Job.Domain, Queue: r.Route.Queue.Name, Site: r.Route.Site,
		Peer: r.Host.Addr, Pool: pools.PoolOf(r.Route.From), Source: r.Source, Relay: "none", Reuse: r.Reuse, Tries: f.Item.Tries + 1,
		Connect: r.Connect, Transmit: r.Transmit,
		Status: f.status(r.Route.Handback), Class: f.Decision.Class, Hard: f.Decision.Hard, Rule: f.Decision.Rule, Code: f.Reply.Code,
		Enhanced: f.Decision.Enhanced, Reason: f.Decision.Reason, Due: f.Decision.Due,
		Simulated: r.Route.Simulated,
	}
	if r.Host.Known() {
		d.Relay = r.Names.Relay
	}
	if f.Untried || f.suppressed || f.Decision.Action == outcome.Move {
		d.Tries--
	}
}

// status names the decision for listeners.
func (f *Result) status(handback bool) event.Status {
	if f.Untried {
		return event.Returned
	}
	if a := f.Decision.Action; f.suppressed && (a == outcome.Bounce || a == outcome.Cancel) {
		return event.Suppressed
	}
	switch f.Decision.Action {
	case outcome.Deliver:
		if handback {
			return event.HandedBack
		}
		return event.Sent
	case outcome.Bounce:
		return event.Bounced
	case outcome.Cancel:
		return event.Cancelled
	case outcome.Move:
		return event.Moved
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
