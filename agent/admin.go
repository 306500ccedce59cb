package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
)

// Streams implements control.Backend.
func (a *Agent) Streams() []control.Stream {
	var list []control.Stream
	for _, s := range a.queue.Streams() {
		list = append(list, control.Stream{
			Name: s.Name, Waiting: s.Waiting, Deferred: s.Deferred, Active: s.Active, Held: s.Held,
			Paused: s.Paused, Priority: s.Priority,
		})
	}
	return list
}

// Standing implements control.Backend.
func (a *Agent) Standing() control.Standing { return a.orders.Standing() }

// Pause implements control.Backend. One of the same filter is replaced.
func (a *Agent) Pause(ctx context.Context, b control.Brake) error {
	f, err := a.pauseFilter(b.Filter)
	if err != nil {
		return err
	}
	b.Filter, b.Since, b.Who = f, time.Now(), control.PeerOf(ctx).String()
	if b.Reason == "" {
		b.Reason = "by the admin"
	}
	if !b.Until.IsZero() && !b.Until.After(b.Since) {
		return fmt.Errorf("%s is over already", b.Until.Format(time.RFC3339))
	}
	err = a.orders.Change(func(s *control.Standing) error {
		s.Brakes = append(slices.DeleteFunc(s.Brakes, func(x control.Brake) bool { return x.Filter == f }), b)
		return nil
	})
	if orders.OfEnvelope(f) {
		a.orders.ApplyToQueued() // it is in force even if it could not be kept
	}
	return err
}

// Resume implements control.Backend.
func (a *Agent) Resume(_ context.Context, f control.Filter) (left []control.Brake, err error) {
	f = plainFilter(f)
	err = a.orders.Change(func(s *control.Standing) error {
		n := len(s.Brakes)
		s.Brakes = slices.DeleteFunc(s.Brakes, func(x control.Brake) bool { return x.Filter == f })
		if len(s.Brakes) == n {
			return fmt.Errorf("no brake is on for %s: %w", f, control.ErrUnknown)
		}
		return nil
	})
	if errors.Is(err, control.ErrUnknown) {
		return nil, err
	}
	if orders.OfEnvelope(f) {
		a.orders.ApplyToQueued()
	}
	return a.orders.Standing().Brakes, err
}

// plainFilter is a filter in the form that names a brake.
func plainFilter(f control.Filter) control.Filter {
	f.Domain, f.Sender = strings.ToLower(f.Domain), strings.ToLower(f.Sender)
	f.All = f.All && f == control.Filter{All: true} // all, and ..., is not all
	return f
}

// pauseFilter checks what a brake is to be on for.
func (a *Agent) pauseFilter(f control.Filter) (control.Filter, error) {
	f = plainFilter(f)
	lanes := f.Queue != "" || f.Site != "" || f.Stream != "" || f.Domain != ""
	switch {
	case f.Empty():
		return f, errors.New("the filter is empty; say all to pause everything")
	case f.ID != "" || f.Recipient != "" || f.State != "" || f.OlderThan != 0 || f.Text != "":
		return f, errors.New("a pause is by queue, site, stream and domain, or by sender, user and client; remedy: hold is for single messages and recipients")
	case lanes && orders.OfEnvelope(f):
		return f, errors.New("a pause by sender, user or client is for all their mail; remedy: leave out queue, site, stream and domain, or hold what is queued now")
	case f.Queue != "" && !a.isQueue(f.Queue):
		return f, fmt.Errorf("queue %s: %w", f.Queue, control.ErrUnknown)
	case f.Site != "" && !a.isSite(f.Site):
		return f, fmt.Errorf("site %s: %w", f.Site, control.ErrUnknown)
	}
	return f, nil
}

func (a *Agent) isQueue(name string) bool {
	c := a.settings.Now().Config
	if name == c.General.Name || name == settings.HandbackQueue {
		return true
	}
	for i := range c.Queues {
		if c.Queues[i].Name == name {
			return true
		}
	}
	return false
}

func (a *Agent) isSite(name string) bool {
	return slices.ContainsFunc(a.queue.Sites(), func(s queue.Site) bool { return s.Name == name })
}

// Limit implements control.Backend. One of the same name is replaced.
func (a *Agent) Limit(ctx context.Context, l control.Limit) error {
	ends := l.Sessions == 0 && l.Rate == 0
	switch {
	case l.Sessions < 0 || l.Rate < 0:
		return errors.New("a limit is not negative; remedy: pause is for nothing at all")
	case !ends && !l.Until.After(time.Now()):
		return errors.New("a temporary limit needs a time in the future at which it ends")
	case !ends && !a.isQueue(l.Name) && !a.isSite(l.Name):
		return fmt.Errorf("site or queue %s: %w", l.Name, control.ErrUnknown)
	}
	l.Who = control.PeerOf(ctx).String()
	return a.orders.Change(func(s *control.Standing) error {
		n := len(s.Limits)
		s.Limits = slices.DeleteFunc(s.Limits, func(x control.Limit) bool { return x.Name == l.Name })
		switch {
		case !ends:
			s.Limits = append(s.Limits, l)
		case len(s.Limits) == n:
			return fmt.Errorf("temporary limit of %s: %w", l.Name, control.ErrUnknown)
		}
		return nil
	})
}

// Prioritize implements control.Backend.
func (a *Agent) Prioritize(_ context.Context, p control.Priority) error {
	if p.Priority < 1 || p.Priority > queue.MaxPriority {
		return fmt.Errorf("priority %d is not between 1 and %d", p.Priority, queue.MaxPriority)
	}
	return a.orders.Change(func(s *control.Standing) error {
		if s.Priorities == nil {
			s.Priorities = make(map[string]int)
		}
		s.Priorities[p.Stream] = p.Priority
		if p.Priority == 1 {
			delete(s.Priorities, p.Stream)
		}
		return nil
	})
}

// ReloadBy says what reads the configuration anew and calls Reload with it. It is
// called before Run.
func (a *Agent) ReloadBy(reload func() error) { a.reload = reload }

// ReloadConfig implements control.Backend.
func (a *Agent) ReloadConfig(context.Context) error {
	if a.reload == nil {
		return errors.New("this agent has no configuration file")
	}
	return a.reload()
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

// Milter implements control.Backend.
func (a *Agent) Milter(r control.MilterReport) { a.watch.Milter(r) }

// WebLink implements control.Backend.
func (a *Agent) WebLink() (string, error) { return a.watch.WebLink() }
