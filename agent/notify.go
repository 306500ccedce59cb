package agent

import (
	"bytes"
	"io"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/dsn"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
)

// notify appends the reports that are owed for the failures (and, where the
// sender asked for it, the successes) of this job.
func (r *report) notify(now time.Time) error {
	e := r.envelope
	if e == nil {
		return nil
	}
	var list []dsn.Recipient
	for _, f := range r.fates {
		action := dsn.Failed
		switch {
		case f.untried:
			continue
		case f.decision.Action == outcome.Bounce:
		case f.decision.Action == outcome.Deliver && f.relayed && !r.way.Handback:
			action = dsn.Relayed
		default:
			continue
		}
		rcpt := e.Recipients[f.item.Ordinal]
		if !dsn.Owed(e, rcpt, action) {
			continue
		}
		x := dsn.Recipient{
			Recipient: rcpt, Action: action, Status: f.decision.Enhanced,
			Diagnostic: f.decision.Reason, LastAttempt: now,
		}
		if f.reply.Code != 0 {
			x.Diagnostic, x.RemoteHost = f.reply.String(), r.peer.name
		}
		list = append(list, x)
	}
	if len(list) == 0 {
		return nil
	}
	full := dsn.WantsFull(e) && e.Size <= dsn.MaxContent
	original, err := r.agent.original(e, r.job.ID, full)
	if err != nil {
		r.agent.log.Warn("report goes without the original's header", "id", r.job.ID, "err", err)
	}
	env, content, err := dsn.Compose(dsn.Report{
		Hostname: r.agent.now.Load().config.Hostname, Original: e, ID: r.job.ID,
		Recipients: list, Content: original, Full: full, Now: now,
	})
	if err != nil {
		// Nothing that a later try would mend; failing for ever would be worse.
		r.agent.log.Error("cannot compose a delivery report; none is sent", "qid", e.QueueID, "id", r.job.ID, "err", err)
		return nil
	}
	// Not cut short by a stop: the outcome waits for it.
	receipt, err := r.agent.writer.Append(r.agent.stop, env, bytes.NewReader(content))
	if err != nil {
		return err
	}
	if err := receipt.Release(); err != nil {
		return err
	}
	what := "sender delivery status notification" // Postfix's words
	if slices.ContainsFunc(list, func(x dsn.Recipient) bool { return x.Action == dsn.Failed }) {
		what = "sender non-delivery notification"
	}
	r.agent.log.Info(what, "qid", e.QueueID, "id", r.job.ID,
		"report", receipt.ID(), "to", e.Sender)
	return nil
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
