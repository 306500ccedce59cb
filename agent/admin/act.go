package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// action is what a verb does, in steps that each go through the queue: a recipient that
// a step has changed must not be picked by it again, as it may come by a second time.
type action struct {
	steps []pass
	again bool // goes after recipients that were in a transaction and come back
}

type pass struct {
	picks func(b *Backend, s *orders.Selection, e *queue.Entry) bool
	// do does it to those of one page that were picked and are in no transaction, and
	// returns to how many.
	do func(b *Backend, s *orders.Selection, chosen []queue.Entry) int
}

// actionOf is nil for a verb that is none.
func actionOf(v control.Verb) *action {
	switch v {
	case control.VerbCancel:
		return &action{[]pass{{all, (*Backend).cancel}}, true}
	case control.VerbExpire:
		return &action{[]pass{{mayExpire, (*Backend).expireNow}}, true}
	case control.VerbHold:
		return &action{[]pass{{func(_ *Backend, _ *orders.Selection, e *queue.Entry) bool { return !e.OnHold }, (*Backend).hold}}, true}
	case control.VerbRelease:
		return &action{[]pass{{func(_ *Backend, _ *orders.Selection, e *queue.Entry) bool { return e.OnHold }, (*Backend).release}}, false}
	case control.VerbFlush: // what waits for a connect or a way first: it would be counted twice after the others
		return &action{[]pass{{waits, (*Backend).flush}, {deferred, (*Backend).flush}}, false}
	case control.VerbRequeue:
		// Once: what was requeued looks untouched.
		return &action{[]pass{{untouched, (*Backend).rerouteDomains}, {tried, (*Backend).requeue}}, false}
	}
	return nil
}

func all(*Backend, *orders.Selection, *queue.Entry) bool { return true }

// mayExpire leaves alone what is held, as Postfix does, unless that is asked for; and
// what is on its way home, which never expires.
func mayExpire(b *Backend, s *orders.Selection, e *queue.Entry) bool {
	return (e.State != "held" || s.Filter.State == "held") && e.Domain != b.settings.Now().Relay &&
		s.Envelope(e.ID) != nil // else nobody could be told; a try settles it as damaged
}

func waits(_ *Backend, _ *orders.Selection, e *queue.Entry) bool {
	return e.Due.IsZero() && (e.State == "waiting" || e.State == "stuck")
}

func deferred(_ *Backend, _ *orders.Selection, e *queue.Entry) bool {
	return !e.Due.IsZero() && e.State != "held"
}

// untouched says that requeue would change nothing but the route.
func untouched(b *Backend, s *orders.Selection, e *queue.Entry) bool { return !tried(b, s, e) }

func tried(b *Backend, s *orders.Selection, e *queue.Entry) bool {
	if e.Tries > 0 || !e.Due.IsZero() || e.OnHold {
		return true
	}
	if e.Domain != b.settings.Now().Relay {
		return false
	}
	env := s.Envelope(e.ID)
	return env != nil && env.Origin == spool.Diverted // it was to be handed back
}

const (
	// retryFor is how long an admin's verb goes after recipients that are in a
	// transaction, which may come back to the queue.
	retryFor = 5 * time.Second
	// recheckEvery is the time between two looks.
	recheckEvery = 200 * time.Millisecond
)

// Act implements control.Backend.
func (b *Backend) Act(ctx context.Context, o control.Action, tell func(control.Selected)) (done control.Selected, err error) {
	if o.Verb == control.VerbMove {
		return b.move(ctx, o, tell)
	}
	d := actionOf(o.Verb)
	if d == nil {
		return done, fmt.Errorf("%q %s", o.Verb, control.NoVerb)
	}
	return b.do(ctx, d, o, tell)
}

func (b *Backend) do(ctx context.Context, d *action, o control.Action, tell func(control.Selected)) (done control.Selected, err error) {
	if o.Filter.Empty() {
		return done, fmt.Errorf("the filter is empty; say all for everything")
	}
	if !b.watch.Loaded() {
		// Half of what is meant would be left out, in silence.
		return done, errors.New("the spool is still being read; try again in a moment")
	}
	sel, err := b.selection(ctx, o.Filter)
	if err != nil {
		return done, err
	}
	if b.isCommonCancel(ctx, o) {
		return b.cancelInFleet(ctx, o, sel, tell)
	}
	return b.pass(ctx, d, sel, o.Dry, tell)
}

// pass goes over the queue until what is selected was dealt with.
func (b *Backend) pass(ctx context.Context, d *action, sel *orders.Selection, dry bool, tell func(control.Selected)) (done control.Selected, err error) {
	several := make(map[spool.ID]bool) // messages of several recipients that were counted
	for end := time.Now().Add(retryFor); ; {
		done.Active = 0
		for _, step := range d.steps {
			b.queue.List(func(page []queue.Entry) bool {
				sel.Page()
				chosen := page[:0]
				for i := range page {
					e := &page[i]
					if !sel.Selects(e) || !step.picks(b, sel, e) {
						continue
					}
					if e.State == "active" && !dry {
						done.Active++
						continue
					}
					if e.Pending == 1 || !several[e.ID] {
						done.Messages++
					}
					if e.Pending > 1 {
						several[e.ID] = true
					}
					chosen = append(chosen, *e)
				}
				if dry {
					done.Recipients += len(chosen)
				} else {
					done.Recipients += step.do(b, sel, chosen)
				}
				tell(done)
				err = ctx.Err()
				return err == nil
			})
		}
		if err != nil || dry || !d.again || done.Active == 0 || time.Now().After(end) {
			return done, err
		}
		select {
		case <-time.After(recheckEvery):
		case <-ctx.Done(): // the next look tells
		}
	}
}

// cancel ends mail for good.
func (b *Backend) cancel(s *orders.Selection, chosen []queue.Entry) int {
	return b.decideAll(s, chosen, outcome.Decision{Action: outcome.Cancel, Enhanced: "5.7.1", Reason: "cancelled by the admin"})
}

// decideAll settles recipients with one decision, of which no sender is told.
func (b *Backend) decideAll(s *orders.Selection, chosen []queue.Entry, d outcome.Decision) int {
	return b.settler.Decide(b.queue.Take(chosen), s.Envelope, func(string) outcome.Decision { return d })
}

// expireNow ends mail as if its time were over.
func (b *Backend) expireNow(s *orders.Selection, chosen []queue.Entry) int {
	return b.settler.DecideAndReport(b.queue.Take(chosen), s.Envelope, func(last string) outcome.Decision {
		reason := "message expired by the admin"
		if last != "" {
			reason += ": " + last
		}
		return outcome.Decision{Action: outcome.Bounce, Class: outcome.ClassExpired, Enhanced: "4.4.7", Reason: reason}
	})
}

// hold keeps mail until it is released, over restarts.
func (b *Backend) hold(_ *orders.Selection, chosen []queue.Entry) int {
	return b.settler.Restate(b.queue.Take(chosen), func(st *spool.State) queue.How { st.Held = true; return queue.Held })
}

// release ends hold.
func (b *Backend) release(_ *orders.Selection, chosen []queue.Entry) int {
	return b.settler.Restate(b.queue.Take(chosen), func(st *spool.State) queue.How { st.Held = false; return queue.Released })
}

// flush makes mail due now.
func (b *Backend) flush(_ *orders.Selection, chosen []queue.Entry) int { return b.queue.Hasten(chosen) }

// rerouteDomains has the routes to the recipients' domains found anew.
func (b *Backend) rerouteDomains(_ *orders.Selection, chosen []queue.Entry) int {
	asked := ""
	for _, e := range chosen {
		if e.Domain != asked {
			asked = e.Domain
			b.queue.Reroute(asked)
		}
	}
	return len(chosen)
}

// requeue takes mail in anew, as if it had just come: to its own domain, without
// tries, not on hold.
func (b *Backend) requeue(s *orders.Selection, chosen []queue.Entry) (n int) {
	for _, job := range b.queue.Take(chosen) {
		e := s.Envelope(job.ID)
		if e == nil {
			done := make([]queue.Settled, 0, len(job.Items))
			for _, item := range job.Items {
				done = append(done, queue.Settled{Handle: item.Handle, How: queue.Untried})
			}
			b.queue.Settle(done)
			continue
		}
		b.settler.Forget(job)
		others := make([]spool.State, len(e.Recipients))
		for i := range others {
			others[i].Status = spool.Delivered // or queued by another record
		}
		for _, item := range job.Items {
			others[item.Ordinal] = spool.State{}
		}
		b.orders.Add(job.ID, e, others)
		n += len(job.Items)
		asked := ""
		for i, domain := range settings.Domains(e) {
			if !others[i].Status.Final() && domain != asked {
				asked = domain
				b.queue.Reroute(domain)
			}
		}
	}
	return n
}
