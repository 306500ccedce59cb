package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
)

// connect opens a connection for a session to the place that the queue chose. sig is the
// evidence of it. When ctx ends for errAbandoned, the host had its time to answer.
func (d *Deliverer) connect(ctx context.Context, rt queue.Route, at queue.Place, said *dialogue.Session) (c *smtp.Conn, p settings.Host, sig []elastic.Signal, err error) {
	set := d.settings.Now()
	if p, err = set.Host(rt, at); err != nil {
		d.log.Info("connect", "site", rt.Site, "status", "failed", "reason", err)
		return nil, p, nil, err // the site has shown nothing
	}
	began := time.Now()
	if c, err = d.dial(ctx, set, rt, p, said); err == nil {
		d.metrics.Connect(rt.Queue.Name, rt.Site, time.Now(), elastic.Up)
		return c, p, []elastic.Signal{{Kind: elastic.Up, Began: began}}, nil
	}
	abandoned := errors.Is(context.Cause(ctx), errAbandoned)
	if ctx.Err() != nil && !abandoned {
		return nil, p, nil, err
	}
	attempt := failure(err, p)
	if abandoned {
		attempt = unanswered(p, time.Since(began))
	}
	decision := set.RetryPolicy(rt.Queue).Decide(time.Now(), attempt)
	d.orders.ApplyRule(orders.Reply{Decision: decision, Route: rt, Host: p, Code: attempt.Code})
	d.metrics.Connect(rt.Queue.Name, rt.Site, time.Now(), decision.Signal)
	// TLS that does not satisfy this destination may do for the next: the address answers.
	if attempt.Stage != outcome.TLS {
		sig = []elastic.Signal{{
			Kind: decision.Signal, Began: began, Text: attempt.Text, How: how(err, &attempt),
			Wordless:  wordless(&decision),
			Connected: attempt.Stage == outcome.Connect && (attempt.Fault == outcome.LostConnection || attempt.Fault == outcome.Garbled),
		}}
	}
	d.log.Info("connect", "relay", p.Relay(), "site", rt.Site, "dsn", decision.Enhanced, "status", "failed", "reason", decision.Reason)
	return nil, p, sig, &connectError{decision.Reason, err}
}

// connectError is why a connect failed, in the words of logs.
type connectError struct {
	reason string
	cause  error
}

func (e *connectError) Error() string { return e.reason }
func (e *connectError) Unwrap() error { return e.cause }

// dial opens a connection to one host.
func (d *Deliverer) dial(ctx context.Context, set *settings.Settings, rt queue.Route, p settings.Host, said *dialogue.Session) (*smtp.Conn, error) {
	opt := set.Options(rt, p, func(what string) { d.reportTesting(rt, p, what) })
	said.With(p.Relay())
	opt.Trace, opt.Traced = said.Trace, said.Traced
	c, err := call(ctx, d.manners, p, opt, func(next manners.TLS, err error) {
		d.log.Info("TLS failed, trying "+next.String(), "relay", p.Relay(), "err", err)
	})
	if err = d.relays.note(rt.Queue, &opt, p, err, d.log); err != nil {
		return nil, err
	}
	if p.Need.Asks == route.Report {
		if p.Need.Err != nil {
			d.reportTesting(rt, p, p.Need.Err.Error())
		}
		if _, ok := c.TLS(); !ok {
			d.reportTesting(rt, p, "there was no TLS")
		}
	}
	return c, nil
}

// reportTesting says what MTA-STS in testing mode found, where enforcement
// would have kept the mail from this host.
func (d *Deliverer) reportTesting(rt queue.Route, p settings.Host, what string) {
	d.log.Warn("MTA-STS in testing mode: this host would not be used if the policy were enforced",
		"site", rt.Site, "relay", p.Relay(), "reason", what)
}

// failure describes an error of a connection for package outcome.
func failure(err error, p settings.Host) outcome.Attempt {
	at := outcome.Attempt{Stage: outcome.Connect, Fault: outcome.Unreachable, Text: err.Error(), Peer: p.String()}
	e, ok := errors.AsType[*smtp.Error](err)
	if !ok {
		return at
	}
	at.Stage, at.BeforeContent = stages[e.Stage], e.Stage == smtp.StageData
	if e.Reply.Code != 0 {
		at.Fault, at.Code, at.Enhanced, at.Text = outcome.NoFault, e.Reply.Code, e.Reply.Enhanced, e.Reply.Text
		return at
	}
	if at.Stage == outcome.Connect && e.Reply.Text != "" {
		at.Fault, at.Text = outcome.Garbled, e.Reply.Text
		return at
	}
	switch e.Stage {
	case smtp.StageConnect:
		at.Fault = outcome.Unreachable
	case smtp.StageStartTLS:
		at.Fault = outcome.TLSFailed
	default:
		at.Fault = outcome.LostConnection
	}
	return at
}

// how says in words of ours alone how a connect failed.
func how(err error, a *outcome.Attempt) string {
	var late net.Error
	switch {
	case a.Code > 0:
		return fmt.Sprintf("answered %d", a.Code)
	case a.Fault == outcome.Garbled:
		return "spoke no SMTP"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused the connection"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "cannot be reached"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "closed the connection"
	case a.Fault == outcome.Unreachable, errors.As(err, &late) && late.Timeout():
		return "no answer"
	}
	return "no session came up"
}

// unanswered describes a connect that was abandoned.
func unanswered(p settings.Host, took time.Duration) outcome.Attempt {
	return outcome.Attempt{
		Stage: outcome.Connect, Fault: outcome.Unreachable, Peer: p.String(),
		Text: fmt.Sprintf("no answer in %v, and %v", took.Round(time.Second), errAbandoned),
	}
}

var stages = map[smtp.Stage]outcome.Stage{
	smtp.StageConnect:  outcome.Connect,
	smtp.StageGreeting: outcome.Connect,
	smtp.StageHello:    outcome.Connect,
	smtp.StageStartTLS: outcome.TLS,
	smtp.StageAuth:     outcome.Connect,
	smtp.StageReset:    outcome.Mail,
	smtp.StageMail:     outcome.Mail,
	smtp.StageRcpt:     outcome.Rcpt,
	smtp.StageData:     outcome.Data,
	smtp.StageContent:  outcome.Data,
	smtp.StageDot:      outcome.Data,
}
