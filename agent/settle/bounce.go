package settle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/dsn"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// pendingBounces hold failures that are to be reported for a moment, so that those of
// one message make one report. No session waits for that: its recipients stay
// taken in the queue, and in the journal as they were, until the report is
// durable. Only then are they bounced. A crash in between has them tried, and
// refused, once more; nothing is lost by it.
type pendingBounces struct {
	mu    sync.Mutex
	open  map[spool.ID]*pendingBounce
	order []*pendingBounce // as they came, so by due; some may be closed
	held  int              // recipients
}

// pendingBounce is one report in the making.
type pendingBounce struct {
	id    spool.ID
	due   time.Time
	parts []Settlement // their results are failures
	n     int          // recipients
	sent  bool         // or being sent
}

const (
	// mergeFor is how long failures wait for others of their message.
	mergeFor = 5 * time.Second
	// maxHeld bounds the recipients that wait so, at about 1 KB each. Past it
	// failures are reported at once, each transaction's by themselves.
	maxHeld = 20_000
	// maxMerged bounds the recipients of one report, which tells some 500 octets
	// of each.
	maxMerged = 1000
)

// add takes failures in. A bounce that it returns must be sent now: it has all that there
// is to wait for, or there is no room to wait.
func (ns *pendingBounces) add(r Settlement, now time.Time) *pendingBounce {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.open[r.Job.ID]
	if n == nil {
		n = &pendingBounce{id: r.Job.ID, due: now.Add(mergeFor)}
	} else {
		r.Envelope = n.parts[0].Envelope // one is enough: it may be large
	}
	fresh := n.n == 0
	n.parts = append(n.parts, r)
	n.n += len(r.Results)
	ready := n.n >= min(len(r.Envelope.Recipients), maxMerged) || ns.held+len(r.Results) > maxHeld
	switch {
	case ready && fresh:
		n.sent = true
	case ready:
		ns.held += len(r.Results)
		ns.close(n)
	default:
		ns.held += len(r.Results)
		if fresh {
			if ns.open == nil {
				ns.open = make(map[spool.ID]*pendingBounce)
			}
			ns.open[n.id] = n
			ns.order = append(ns.order, n)
		}
		return nil
	}
	return n
}

// close takes out a bounce that is held. Callers hold mu.
func (ns *pendingBounces) close(n *pendingBounce) {
	n.sent = true
	delete(ns.open, n.id)
	ns.held -= n.n
}

// take takes out the bounces that are due; with all, every one.
func (ns *pendingBounces) take(now time.Time, all bool) (due []*pendingBounce) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for len(ns.order) > 0 && (ns.order[0].sent || all || !ns.order[0].due.After(now)) {
		n := ns.order[0]
		ns.order[0] = nil
		ns.order = ns.order[1:]
		if !n.sent {
			ns.close(n)
			due = append(due, n)
		}
	}
	return due
}

// bounceEvery is how often bounces that are due are sent.
const bounceEvery = 500 * time.Millisecond

// BounceLoop sends what is due until ctx ends, and tells the admin when reports, or
// mail that went back to the host, begin to be refused there.
func (s *Settler) BounceLoop(ctx context.Context) {
	stuck := 0
	loop.Every(ctx, bounceEvery, func(time.Time) {
		s.bounceAll(s.pendingBounces.take(time.Now(), false))
		n := s.queue.Stuck()
		if n > 0 && stuck == 0 {
			s.log.Error(s.stuckText(n))
		}
		stuck = n
	})
}

// Bounce sends all reports that are pending, due or not.
func (s *Settler) Bounce() { s.bounceAll(s.pendingBounces.take(time.Time{}, true)) }

// stuckText says what an admin must know of recipients that are stuck.
func (s *Settler) stuckText(n int) string {
	return fmt.Sprintf("the host MTA at %s refuses bounces or returned mail for %d recipients; they are kept and tried once an hour (millrace queue: stuck)",
		s.settings.Now().Config.Handback.Relay, n)
}

// Stuck is what an admin must know of recipients that the host MTA refuses; "" if there
// are none.
func (s *Settler) Stuck() string {
	if n := s.queue.Stuck(); n > 0 {
		return s.stuckText(n)
	}
	return ""
}

// appendsAtOnce is how many reports go to the spool together: they share syncs.
const appendsAtOnce = 16

func (s *Settler) bounceAll(list []*pendingBounce) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, appendsAtOnce)
	for _, n := range list {
		places <- struct{}{}
		wg.Go(func() {
			s.bounce(n)
			<-places
		})
	}
}

// bounce makes a report durable and then its failures final.
func (s *Settler) bounce(n *pendingBounce) {
	var list []dsn.Recipient
	for i := range n.parts {
		for j := range n.parts[i].Results {
			list = append(list, n.parts[i].reported(&n.parts[i].Results[j], dsn.Failed))
		}
	}
	e := n.parts[0].Envelope
	if err := s.notify(e, n.id, "sender non-delivery notification", list); err != nil {
		// The report could not be made durable, so the failure cannot be final.
		s.log.Error("cannot spool a delivery report; its recipients stay queued", "qid", e.QueueID, "id", n.id, "err", err)
		due := time.Now().Add(5 * time.Minute)
		for i := range n.parts {
			for j := range n.parts[i].Results {
				d := &n.parts[i].Results[j].Decision
				d.Action, d.Due = outcome.Retry, due
			}
		}
	}
	for i := range n.parts {
		done, _ := n.parts[i].commit(nil, nil)
		s.queue.Settle(done)
	}
}

// report makes the reports that are owed for this job. Failures that it has to
// report are taken out of it: they are settled when the report is durable.
// Successes, where the sender asked for it and the next server will not tell, are
// reported before they are journalled: a crash in between repeats the report.
func (r *Settlement) report(done []queue.Settled) []queue.Settled {
	e := r.Envelope
	if e == nil {
		return done
	}
	var failed []Result
	var relayed []dsn.Recipient
	for _, f := range r.Results {
		switch {
		case r.owesDSN(&f, outcome.Bounce, dsn.Failed):
			failed = append(failed, f)
			done = append(done, queue.Settled{Handle: f.Item.Handle, How: queue.Pending})
		case f.Relayed && !r.Route.Handback && r.owesDSN(&f, outcome.Deliver, dsn.Relayed):
			relayed = append(relayed, r.reported(&f, dsn.Relayed))
		}
	}
	if len(failed) > 0 {
		part := *r
		part.Results = failed
		r.Results = slices.DeleteFunc(slices.Clone(r.Results), func(f Result) bool { return r.owesDSN(&f, outcome.Bounce, dsn.Failed) })
		if n := r.settler.pendingBounces.add(part, r.at); n != nil {
			r.settler.bounce(n)
		}
	}
	if len(relayed) > 0 {
		if err := r.settler.notify(e, r.Job.ID, "sender delivery status notification", relayed); err != nil {
			r.settler.log.Error("cannot spool a report of success; none is sent", "qid", e.QueueID, "id", r.Job.ID, "err", err)
		}
	}
	return done
}

// owesDSN says whether a recipient came to this end and the sender wants to hear of it.
func (r *Settlement) owesDSN(f *Result, end outcome.Action, a dsn.Action) bool {
	return f.Decision.Action == end && !f.Untried && dsn.Owed(r.Envelope, r.Envelope.Recipients[f.Item.Ordinal], a)
}

// reported is what a report says of one recipient.
func (r *Settlement) reported(f *Result, action dsn.Action) dsn.Recipient {
	x := dsn.Recipient{
		Recipient: r.Envelope.Recipients[f.Item.Ordinal], Action: action, Status: f.Decision.Enhanced,
		Text: f.Decision.Reason, Diagnostic: f.Decision.Reason, LastAttempt: r.at,
	}
	if c := f.Decision.Class; c != outcome.ClassNone {
		x.Class = c.String()
	}
	if f.Reply.Code != 0 {
		x.Diagnostic, x.RemoteHost = f.Reply.String(), r.Host.Name
	}
	return x
}

// appendTimeout is how long a report may take to become durable.
const appendTimeout = 30 * time.Second

// notify appends a report to the spool as mail of our own, durable. what names it
// in the log, in Postfix's words.
func (s *Settler) notify(e *spool.Envelope, id spool.ID, what string, list []dsn.Recipient) error {
	full := dsn.WantsFull(e) && e.Size <= dsn.MaxContent && !s.toldBefore(e, id)
	original, err := s.original(e, id, full)
	if err != nil {
		s.log.Warn("report goes without the original's header", "id", id, "err", err)
	}
	env, content, err := dsn.Compose(dsn.Report{
		Hostname: s.settings.Now().Config.Hostname, Original: e, ID: id,
		Recipients: list, Content: original, Full: full, Now: time.Now(),
	})
	if err != nil {
		// A later try would not mend this; failing for ever would be worse.
		s.log.Error("cannot compose a delivery report; none is sent", "qid", e.QueueID, "id", id, "err", err)
		return nil
	}
	as, err := s.post(env, content)
	if err != nil {
		return err
	}
	s.mail.Report(what, e, id, as, len(list))
	return nil
}

// post appends mail of our own to the spool, durable.
func (s *Settler) post(e *spool.Envelope, content []byte) (spool.ID, error) {
	// A stop does not cut this short: the outcome waits for it.
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	receipt, err := s.writer.Append(ctx, e, bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	s.queue.Expect(receipt.ID())
	return receipt.ID(), receipt.Release()
}

// Post appends a mail of our own that is no delivery report to the spool, durable; the host MTA
// gets it as it gets those.
func (s *Settler) Post(e *spool.Envelope, content []byte) error {
	_, err := s.post(e, content)
	return err
}

// toldBefore says whether the sender has had a report of a failure of the message. Only the
// first returns all of it: a receiver that refuses one recipient after the other would have
// us write it for each. The journal knows, also after a restart; reports of one message
// that are made at the same moment may each be the first.
func (s *Settler) toldBefore(e *spool.Envelope, id spool.ID) bool {
	states, _ := s.store.States(id) // none: there is nothing to say of them
	for i, st := range states {
		ended := st.Status == spool.Bounced || st.Status == spool.Suppressed && s.settings.Now().Config.Suppression.Notify
		if ended && dsn.Owed(e, e.Recipients[i], dsn.Failed) {
			return true
		}
	}
	return false
}

// original reads what a report returns of a message: its header or all of it.
func (s *Settler) original(e *spool.Envelope, id spool.ID, full bool) ([]byte, error) {
	c, err := s.store.Open(id)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	n := e.Size
	if !full {
		n = min(e.HeaderSize, dsn.MaxContent)
	}
	return io.ReadAll(io.LimitReader(c, n))
}
