package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// Streams implements control.Backend.
func (a *Agent) Streams() []control.Stream {
	var list []control.Stream
	for _, s := range a.queue.Streams() {
		list = append(list, control.Stream{
			Name: s.Name, Waiting: s.Waiting, Deferred: s.Deferred, Active: s.Active,
			Paused: s.Paused, Priority: s.Priority,
		})
	}
	return list
}

// Set implements control.Backend.
func (a *Agent) Set(s control.Setting) error {
	now, err := a.setting(s.Stream, func(now *queue.StreamSetting) {
		if s.Paused != nil {
			now.Paused, now.Until = *s.Paused, time.Time{}
		}
		if s.Priority != nil {
			now.Priority = *s.Priority
		}
	})
	if err == nil {
		a.log.Info("stream set", "stream", s.Stream, "paused", now.Paused, "priority", max(1, now.Priority))
	}
	return err
}

// setting changes what is asked of a stream, one change at a time.
func (a *Agent) setting(stream string, change func(*queue.StreamSetting)) (queue.StreamSetting, error) {
	a.settingMu.Lock()
	defer a.settingMu.Unlock()
	s := a.queue.Setting(stream)
	change(&s)
	if err := a.queue.SetStream(stream, s); err != nil {
		return s, err
	}
	return s, a.keepSettings()
}

// Why implements control.Backend.
func (a *Agent) Why(site string) ([]control.Change, error) {
	changes := a.queue.Why(site)
	if changes == nil {
		return nil, fmt.Errorf("site %s: %w", site, control.ErrUnknown)
	}
	list := make([]control.Change, len(changes))
	for i, c := range changes {
		list[i] = control.Change{At: c.At, From: c.From, To: c.To, Pace: c.Pace, Cause: c.Cause}
	}
	return list, nil
}

const (
	// patience is how long an admin's verb goes after recipients that are in a
	// transaction, which may come back to the queue.
	patience = 5 * time.Second
	// glance is the time between two looks.
	glance = 200 * time.Millisecond
)

// Cancel implements control.Backend.
func (a *Agent) Cancel(ctx context.Context, f control.Filter) (done control.Selected, err error) {
	if f.Empty() {
		return done, fmt.Errorf("the filter is empty; say all to cancel everything")
	}
	done, err = a.sweep(ctx, selection{agent: a, filter: f}, outcome.Decision{
		Action: outcome.Cancel, Enhanced: "5.7.1", Reason: "cancelled by the admin",
	})
	a.log.Info("cancelled", "filter", fmt.Sprintf("%+v", f), "nrcpt", done.Recipients, "active", done.Active)
	return done, err
}

// selection finds what a filter selects. What only the envelope tells is read
// from the spool, once for a message.
type selection struct {
	agent  *Agent
	filter control.Filter
	away   bool // leaves out what waits for the host already
	last   spool.ID
	env    *spool.Envelope
	fits   bool // the envelope
}

// each takes what is selected out of the queue and hands it over, job by job. It
// returns how many more are in transactions.
func (s *selection) each(ctx context.Context, yield func(*spool.Envelope, queue.Job)) (active int, err error) {
	s.agent.queue.List(func(page []queue.Entry) bool {
		chosen := page[:0]
		for i := range page {
			switch e := &page[i]; {
			case !s.entry(e) || s.deep() && !s.envelope(e.ID):
			case e.State == "active":
				active++
			default:
				chosen = append(chosen, *e)
			}
		}
		for _, job := range s.agent.queue.Take(chosen) {
			s.envelope(job.ID)
			yield(s.env, job)
		}
		err = ctx.Err()
		return err == nil
	})
	return active, err
}

// entry looks at what the queue knows.
func (s *selection) entry(e *queue.Entry) bool {
	f := &s.filter
	return !(s.away && e.Domain == s.agent.now.Load().relay) && (f.ID == "" || strings.EqualFold(f.ID, e.ID.String())) &&
		(f.Stream == "" || f.Stream == e.Stream) &&
		(f.Queue == "" || f.Queue == e.Queue) &&
		(f.Site == "" || f.Site == e.Site) &&
		(f.Domain == "" || strings.EqualFold(f.Domain, e.Domain))
}

// deep says whether the filter asks for what only the envelope tells.
func (s *selection) deep() bool {
	return s.filter.Sender != "" || s.filter.User != "" || s.filter.Client != ""
}

// envelope looks at what only the spool knows. An envelope that cannot be read
// fits if nothing in it is asked for.
func (s *selection) envelope(id spool.ID) bool {
	if id == s.last && id != 0 {
		return s.fits
	}
	f := &s.filter
	s.last = id
	env, err := s.agent.store.Envelope(id)
	if s.env = env; err != nil {
		s.env = nil
		s.fits = !s.deep()
		return s.fits
	}
	s.fits = (f.Sender == "" || strings.EqualFold(f.Sender, env.Sender)) &&
		(f.User == "" || f.User == env.AuthUser) &&
		(f.Client == "" || f.Client == env.ClientAddr)
	return s.fits
}
