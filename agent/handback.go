package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// This file is about the way back to the host MTA. A recipient that takes it moves
// to the lane of the hand-back relay, and the journal says so: it never goes to its
// receiver again, over restarts too. It ends when the host has said 250. What the
// host refuses stays there, and is tried again.

// HandBack implements control.Backend.
func (a *Agent) HandBack(ctx context.Context, f control.Filter) (control.Selected, error) {
	if f.Empty() {
		return control.Selected{}, fmt.Errorf("the filter is empty; say all to hand everything back")
	}
	done, err := a.sweep(ctx, selection{agent: a, filter: f, away: true}, outcome.Decision{
		Action: outcome.HandBack, Enhanced: "4.3.0", Reason: "handed back by the admin",
	})
	a.log.Info("handed back by the admin", "filter", fmt.Sprintf("%+v", f), "nrcpt", done.Recipients, "active", done.Active)
	return done, err
}

// sweep decides on all that is selected. It goes for a while after recipients that
// are in a transaction, as these may come back to the queue.
func (a *Agent) sweep(ctx context.Context, sel selection, d outcome.Decision) (done control.Selected, err error) {
	for end := time.Now().Add(patience); ; {
		n := 0
		done.Active, err = sel.each(ctx, func(e *spool.Envelope, job queue.Job) { a.rule(e, job, d); n += len(job.Items) })
		done.Recipients += n
		if err != nil || done.Active == 0 || time.Now().After(end) {
			return done, err
		}
		select {
		case <-time.After(glance):
		case <-ctx.Done(): // the next look tells
		}
	}
}

// rule decides on a job that was taken out of the queue.
func (a *Agent) rule(e *spool.Envelope, job queue.Job, d outcome.Decision) {
	r := report{agent: a, envelope: e, job: job, way: queue.Way{Queue: a.now.Load().policy(job.Domain)}}
	for _, item := range job.Items {
		r.fates = append(r.fates, fate{item: item, decision: d})
	}
	done, _ := r.settle(nil, nil)
	a.queue.Settle(done)
}

// Return implements control.Backend.
func (a *Agent) Return() control.Return {
	set := a.now.Load()
	r := control.Return{Relay: set.config.Handback.Relay, Done: a.returned.Load(), HostQueue: -1}
	r.Waiting, r.Later = a.queue.AtRelay()
	r.Stuck = a.queue.Stuck()
	if h := a.hostQueue.Load(); h != nil && set.config.Handback.MaxHostQueue > 0 {
		r.HostQueue = h.length
		if time.Now().Before(h.held) {
			r.Held = h.reason(int(set.config.Handback.MaxHostQueue))
		}
	}
	return r
}

// hostQueue is what is known of the host's queue.
type hostQueue struct {
	length int       // -1: it cannot be had
	held   time.Time // nothing goes back before
}

func (h *hostQueue) reason(most int) string {
	return fmt.Sprintf("the host has %d messages in its incoming and active queues; max_host_queue is %d", h.length, most)
}

const (
	// lookEvery is how often the host's queue is counted while mail goes back, as
	// long as that is cheap: what goes there meanwhile is bounded by the rate.
	lookEvery = time.Second
	// lookShare keeps the counting from being a load itself: so many times as long
	// as it took it is left alone.
	lookShare = 20
	// holdFor is the time to the next look after the host was found to have too much.
	holdFor = 5 * time.Second
)

// heedHost holds up what goes back while the host has enough to do. Reading its
// queue takes rights: where they are missing, that is logged once, and only the
// rate bounds what goes there.
func (a *Agent) heedHost(ctx context.Context) {
	var host postconf.HostQueue
	wait, unknown := lookEvery, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = lookEvery
		set := a.now.Load()
		most := int(set.config.Handback.MaxHostQueue)
		if most == 0 || a.queue.Waiting(set.relay) == 0 {
			a.hostQueue.Store(nil)
			continue
		}
		began := time.Now()
		n, err := host.Length(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		wait = max(wait, lookShare*now.Sub(began))
		if err != nil {
			a.hostQueue.Store(&hostQueue{length: -1})
			wait = askHostEvery
			if !unknown {
				unknown = true
				remedy := "add the agent's user to the group postdrop, or let it read Postfix's incoming and active directories"
				if errors.Is(err, postconf.ErrNone) {
					remedy = "none without Postfix; set max_host_queue = 0"
				}
				a.log.Warn("the length of the host's queue is not known, so max_host_queue is not kept; max_message_rate is", "err", err, "remedy", remedy)
			}
			continue
		}
		unknown = false
		h := &hostQueue{length: n}
		if n > most {
			wait = max(wait, holdFor)
			h.held = now.Add(wait + lookEvery) // until after the next look
			a.queue.Clamp(set.relay, elastic.Clamp{Until: h.held, Reason: h.reason(most)})
		}
		a.hostQueue.Store(h)
	}
}
