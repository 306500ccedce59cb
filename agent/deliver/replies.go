package deliver

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

// read decides on one recipient of a transaction. err is the connection's.
func (d *Deliverer) read(set *settings.Settings, r *settle.Settlement, item queue.Item, res smtp.RcptResult, err error) {
	at := outcome.Attempt{
		Stage: stages[res.Stage], BeforeContent: res.Stage == smtp.StageData, Code: res.Reply.Code, Enhanced: res.Reply.Enhanced, Text: res.Reply.Text,
		Tries: item.Tries, Born: r.Job.Born, Jitter: rand.Float64(), Peer: r.Names.Name,
		To:     r.Envelope.Recipients[item.Ordinal].Address,
		ToHost: r.Route.Handback, Report: r.Envelope.Origin == spool.Report,
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, smtp.ErrContent) {
		at.Born = time.Time{} // cut short by us, it was no try: it does not end what is too old
	}
	at.First, at.Shared, at.Used = first(r), shared(r), r.Used
	f := settle.Result{Item: item, Reply: res.Reply, AtRcpt: res.Fate == smtp.Refused && res.Stage == smtp.StageRcpt}
	switch res.Fate {
	case smtp.NotOffered:
		switch {
		case errors.Is(res.Err, smtp.ErrTooBig):
			at.Fault, at.Text = outcome.Oversize, res.Err.Error()
		case res.Err != nil:
			at.Fault, at.Text = outcome.NeedsExtension, res.Err.Error()
		case errors.Is(err, smtp.ErrNoChunking), errors.Is(err, smtp.ErrAbandoned), outOfStep(err):
			// Nothing was said of the message, and the next connection does without BDAT, or
			// without groups of commands; or it was we who had no patience.
			f.Untried = true
			at.Fault, at.Text = outcome.LostConnection, err.Error()
		case err != nil && r.Reuse > 1 && res.Stage < smtp.StageContent:
			// A warm connection that breaks before it saw the content says nothing
			// about this message.
			f.Untried = true
		default:
			x := failure(err, r.Host)
			at.Stage, at.BeforeContent, at.Fault, at.Code, at.Enhanced, at.Text = x.Stage, x.BeforeContent, x.Fault, x.Code, x.Enhanced, x.Text
		}
	case smtp.InDoubt:
		at.Stage, at.Fault, at.Text = outcome.Data, outcome.InDoubt, err.Error()
	case smtp.Accepted:
		f.Relayed = !res.DSNTaken
	}
	now := time.Now()
	if !at.ToHost {
		at.Born = set.BornOf(r.Envelope.Stream, at.Born, now)
	}
	f.Decision = set.PolicyOf(r.Route.Queue, r.Envelope.Stream).Decide(now, at)
	if res.Fate == smtp.Refused && res.Stage == smtp.StageMail && res.Reply.Code == 421 && r.Reuse > 1 && f.Decision.Signal != elastic.RateRefused {
		// It is the server's way to end a warm connection: so many messages and no more, or a
		// shutdown. It says nothing about this message, unless it says that it comes too fast.
		f.Untried = true
	}
	if f.Decision.Signal == elastic.Closed && r.Used {
		// The connection has had its messages, said in whatever words: it says nothing about
		// this one. One that has taken none may say so of more than itself.
		f.Untried = true
	}
	if !at.ToHost { // rules are about receivers
		shown := f.Decision
		shown.Reason = d.mail.ShownReason(shown.Reason, r.Envelope, item.Ordinal) // it is logged
		d.orders.ApplyRule(orders.Reply{Decision: shown, Route: r.Route, Host: r.Host, Code: at.Code, Stream: r.Envelope.Stream})
	}
	r.Results = append(r.Results, f)
}

// outOfStep says whether the replies to a group of commands could not be made out.
func outOfStep(err error) bool {
	e, ok := errors.AsType[*smtp.Error](err)
	return ok && e.Group
}

// first says whether no recipient of the transaction before the next one was accepted: then
// that it is one too many says nothing of the message.
func first(r *settle.Settlement) bool {
	return !slices.ContainsFunc(r.Results, func(f settle.Result) bool { return !f.AtRcpt })
}

// shared says whether a reply to the content is about other recipients too, as far as is
// known by now.
func shared(r *settle.Settlement) bool {
	others := len(r.Job.Items) - 1
	for i := range r.Results {
		if r.Results[i].AtRcpt {
			others--
		}
	}
	return others > 0
}

// evidence is the transaction's evidence for the controller.
func evidence(r *settle.Settlement, began time.Time) elastic.Signal {
	s := elastic.Signal{Kind: elastic.Accepted, Began: began}
	for _, f := range r.Results {
		if f.Again {
			continue
		}
		if f.Untried {
			s.Kind = elastic.Closed
		} else if f.Decision.Action != outcome.Deliver {
			s.Kind, s.Text = f.Decision.Signal, f.Reply.Text
		}
		if s.Kind != elastic.Accepted {
			break
		}
	}
	return s
}
