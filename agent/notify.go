package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/dsn"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// notices hold failures that are to be reported for a moment, so that those of
// one message make one report. No session waits for that: its recipients stay
// taken in the queue, and in the journal as they were, until the report is
// durable. Only then are they bounced. A crash in between has them tried, and
// refused, once more; nothing is lost by it.
type notices struct {
	mu    sync.Mutex
	open  map[spool.ID]*notice
	order []*notice // as they came, so by due; some may be closed
	held  int       // recipients
}

// notice is one report in the making.
type notice struct {
	id    spool.ID
	due   time.Time
	parts []report // their fates are failures
	n     int      // recipients
	sent  bool     // or being sent
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

// add takes failures in. If it returns a notice, that is to be sent now: it has
// all there is to wait for, or there is no room to wait.
func (ns *notices) add(r report, now time.Time) *notice {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.open[r.job.ID]
	if n == nil {
		n = &notice{id: r.job.ID, due: now.Add(mergeFor)}
	} else {
		r.envelope = n.parts[0].envelope // one is enough: it may be large
	}
	fresh := n.n == 0
	n.parts = append(n.parts, r)
	n.n += len(r.fates)
	ready := n.n >= min(len(r.envelope.Recipients), maxMerged) || ns.held+len(r.fates) > maxHeld
	switch {
	case ready && fresh:
		n.sent = true
	case ready:
		ns.held += len(r.fates)
		ns.close(n)
	default:
		ns.held += len(r.fates)
		if fresh {
			if ns.open == nil {
				ns.open = make(map[spool.ID]*notice)
			}
			ns.open[n.id] = n
			ns.order = append(ns.order, n)
		}
		return nil
	}
	return n
}

// close takes a notice that is held out. Callers hold mu.
func (ns *notices) close(n *notice) {
	n.sent = true
	delete(ns.open, n.id)
	ns.held -= n.n
}

// take takes out those that are due; with all, every one.
func (ns *notices) take(now time.Time, all bool) (due []*notice) {
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

// noticeTick is how often it is looked for what is due.
const noticeTick = 500 * time.Millisecond

// sendNotices sends what is due until ctx ends, and tells the admin when reports, or
// mail that went back to the host, begin to be refused there.
func (a *Agent) sendNotices(ctx context.Context) {
	tick := time.NewTicker(noticeTick)
	defer tick.Stop()
	stuck := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.bounceAll(a.notices.take(time.Now(), false))
		n := a.queue.Stuck()
		if n > 0 && stuck == 0 {
			a.log.Error(a.refused(n))
		}
		stuck = n
	}
}

// refused says what an admin must know of recipients that are stuck.
func (a *Agent) refused(n int) string {
	return fmt.Sprintf("the host MTA at %s refuses bounces or returned mail for %d recipients; they are kept and tried once an hour (millrace queue: stuck)",
		a.now.Load().config.Handback.Relay, n)
}

// appendsAtOnce is how many reports go to the spool together: they share syncs.
const appendsAtOnce = 16

func (a *Agent) bounceAll(list []*notice) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, appendsAtOnce)
	for _, n := range list {
		places <- struct{}{}
		wg.Go(func() {
			a.bounce(n)
			<-places
		})
	}
}

// bounce makes a report durable and then its failures final.
func (a *Agent) bounce(n *notice) {
	var list []dsn.Recipient
	for i := range n.parts {
		for j := range n.parts[i].fates {
			list = append(list, n.parts[i].reported(&n.parts[i].fates[j], dsn.Failed))
		}
	}
	e := n.parts[0].envelope
	if err := a.notify(e, n.id, "sender non-delivery notification", list); err != nil {
		// The report could not be made durable, so the failure cannot be final.
		a.log.Error("cannot spool a delivery report; its recipients stay queued", "qid", e.QueueID, "id", n.id, "err", err)
		due := time.Now().Add(5 * time.Minute)
		for i := range n.parts {
			for j := range n.parts[i].fates {
				d := &n.parts[i].fates[j].decision
				d.Action, d.Due = outcome.Retry, due
			}
		}
	}
	for i := range n.parts {
		done, _ := n.parts[i].conclude(nil, nil)
		a.queue.Settle(done)
	}
}

// tellSender makes the reports that are owed for this job. Failures that it has to
// report are taken out of it: they are settled when the report is durable.
// Successes, where the sender asked for it and the next server will not tell, are
// reported before they are journalled: a crash in between repeats the report.
func (r *report) tellSender(done []queue.Settled) []queue.Settled {
	e := r.envelope
	if e == nil {
		return done
	}
	var failed []fate
	var relayed []dsn.Recipient
	for _, f := range r.fates {
		switch {
		case r.owes(&f, outcome.Bounce, dsn.Failed):
			failed = append(failed, f)
			done = append(done, queue.Settled{Handle: f.item.Handle, Kept: true})
		case f.relayed && !r.way.Handback && r.owes(&f, outcome.Deliver, dsn.Relayed):
			relayed = append(relayed, r.reported(&f, dsn.Relayed))
		}
	}
	if len(failed) > 0 {
		part := *r
		part.fates = failed
		r.fates = slices.DeleteFunc(slices.Clone(r.fates), func(f fate) bool { return r.owes(&f, outcome.Bounce, dsn.Failed) })
		if n := r.agent.notices.add(part, r.at); n != nil {
			r.agent.bounce(n)
		}
	}
	if len(relayed) > 0 {
		if err := r.agent.notify(e, r.job.ID, "sender delivery status notification", relayed); err != nil {
			r.agent.log.Error("cannot spool a report of success; none is sent", "qid", e.QueueID, "id", r.job.ID, "err", err)
		}
	}
	return done
}

// owes says whether a recipient came to this end and the sender wants to hear of it.
func (r *report) owes(f *fate, end outcome.Action, a dsn.Action) bool {
	return f.decision.Action == end && !f.untried && dsn.Owed(r.envelope, r.envelope.Recipients[f.item.Ordinal], a)
}

// reported is what a report says of one recipient.
func (r *report) reported(f *fate, action dsn.Action) dsn.Recipient {
	x := dsn.Recipient{
		Recipient: r.envelope.Recipients[f.item.Ordinal], Action: action, Status: f.decision.Enhanced,
		Text: f.decision.Reason, Diagnostic: f.decision.Reason, LastAttempt: r.at,
	}
	if c := f.decision.Class; c != outcome.ClassNone {
		x.Class = c.String()
	}
	if f.reply.Code != 0 {
		x.Diagnostic, x.RemoteHost = f.reply.String(), r.peer.name
	}
	return x
}

// appendTimeout is how long a report may take to become durable.
const appendTimeout = 30 * time.Second

// notify appends a report to the spool as mail of our own, durable. what names it
// in the log, in Postfix's words.
func (a *Agent) notify(e *spool.Envelope, id spool.ID, what string, list []dsn.Recipient) error {
	full := dsn.WantsFull(e) && e.Size <= dsn.MaxContent && !a.toldBefore(e, id)
	original, err := a.original(e, id, full)
	if err != nil {
		a.log.Warn("report goes without the original's header", "id", id, "err", err)
	}
	env, content, err := dsn.Compose(dsn.Report{
		Hostname: a.now.Load().config.Hostname, Original: e, ID: id,
		Recipients: list, Content: original, Full: full, Now: time.Now(),
	})
	if err != nil {
		// Nothing that a later try would mend; failing for ever would be worse.
		a.log.Error("cannot compose a delivery report; none is sent", "qid", e.QueueID, "id", id, "err", err)
		return nil
	}
	// Not cut short by a stop: the outcome waits for it.
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	receipt, err := a.writer.Append(ctx, env, bytes.NewReader(content))
	if err != nil {
		return err
	}
	a.queue.Expect(receipt.ID())
	if err := receipt.Release(); err != nil {
		return err
	}
	a.logReport(what, e, id, receipt.ID(), len(list))
	return nil
}

// toldBefore says whether the sender has had a report of a failure of the message. Only the
// first returns all of it: a receiver that refuses one recipient after the other would have
// us write it for each. The journal knows, also after a restart; reports of one message
// that are made at the same moment may each be the first.
func (a *Agent) toldBefore(e *spool.Envelope, id spool.ID) bool {
	states, _ := a.store.States(id) // none: there is nothing to say of them
	for i, st := range states {
		ended := st.Status == spool.Bounced || st.Status == spool.Suppressed && a.now.Load().config.Suppression.Notify
		if ended && dsn.Owed(e, e.Recipients[i], dsn.Failed) {
			return true
		}
	}
	return false
}

// original reads what a report returns of a message: its header or all of it.
func (a *Agent) original(e *spool.Envelope, id spool.ID, full bool) ([]byte, error) {
	c, err := a.store.Open(id)
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
