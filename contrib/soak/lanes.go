package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// lanes are all that may fail.
func lanes() []lane {
	list := []lane{
		{"agent", 8 * time.Second, daemonKinds(func(s *scene) *daemon { return s.agent })},
		{"milter", 8 * time.Second, daemonKinds(func(s *scene) *daemon { return s.milter })},
		{"postfix", 30 * time.Second, []kind{
			{name: "kill -9", most: 2 * time.Second, do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
				s.postfixStops.Add(1)
				s.openBack.Add(int64(s.relay.Passing()))
				s.Postfix.Kill()
				wait(ctx, lasts)
				return s.Postfix.Start(s.ctx)
			}},
			{name: "stop", most: 2 * time.Second, do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
				s.postfixStops.Add(1)
				s.openBack.Add(int64(s.relay.Passing()))
				if err := s.Postfix.Halt(); err != nil {
					return err
				}
				wait(ctx, lasts)
				return s.Postfix.Start(s.ctx)
			}},
			{name: "reload", do: func(_ context.Context, s *scene, _ time.Duration, _ uint64) error { return s.Postfix.Reload(s.ctx) }},
		}},
		{"dns", 20 * time.Second, []kind{
			{name: "the resolver is away", least: 500 * time.Millisecond, most: 5 * time.Second,
				do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
					if err := s.resolver.Stop(); err != nil {
						return err
					}
					wait(ctx, lasts)
					return s.startResolver()
				}},
		}},
		{"disk", 12 * time.Second, diskKinds},
		{"hand-back", 20 * time.Second, []kind{
			{name: "nobody is there", least: time.Second, most: 8 * time.Second, do: handback((*scene).absent)},
			{name: "too many connections", least: time.Second, most: 8 * time.Second, do: handback((*scene).full)},
		}},
		{"admin", 8 * time.Second, []kind{
			{name: "pauses a stream", least: time.Second, most: 8 * time.Second, weight: 2, do: between(
				func(ctx context.Context, c *control.Client, f control.Filter) error {
					return c.Pause(ctx, control.Pause{Filter: f, Reason: "soak"})
				},
				func(ctx context.Context, c *control.Client, f control.Filter) error {
					_, err := c.Resume(ctx, f)
					return err
				})},
			{name: "holds what waits of a stream", least: time.Second, most: 8 * time.Second, do: between(act(control.VerbHold), act(control.VerbRelease))},
			{name: "flushes a stream", do: between(act(control.VerbFlush), nil)},
			{name: "requeues a stream", do: between(act(control.VerbRequeue), nil)},
			{name: "hands a stream back", do: between(func(ctx context.Context, c *control.Client, f control.Filter) error {
				_, err := c.HandBack(ctx, f)
				return err
			}, nil)},
			{name: "gives a stream priority", do: between(func(ctx context.Context, c *control.Client, f control.Filter) error {
				return c.Prioritize(ctx, control.Priority{Stream: f.Stream, Priority: 4})
			}, nil)},
		}},
	}
	for _, p := range providers {
		list = append(list, lane{p.Name, 10 * time.Second, moods(p)})
	}
	return list
}

// daemonKinds are what befalls a daemon of ours.
func daemonKinds(of func(*scene) *daemon) []kind {
	down := func(stop func(*scene, *daemon) error) func(context.Context, *scene, time.Duration, uint64) error {
		return func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
			d := of(s)
			if !d.Running() {
				s.violation("%s had ended by itself", d.name)
			} else if err := stop(s, d); err != nil {
				return err
			}
			wait(ctx, lasts)
			return s.start(d)
		}
	}
	kill := func(s *scene, d *daemon) error { return s.kill(d) }
	reload := func(good bool) func(context.Context, *scene, time.Duration, uint64) error {
		return func(_ context.Context, s *scene, _ time.Duration, pick uint64) error {
			return s.reload(of(s), good, pick)
		}
	}
	return []kind{
		{name: "kill -9", most: 2 * time.Second, weight: 4, do: down(kill)},
		{name: "kill -9, long down", least: 2 * grace, most: 3 * grace, do: down(kill)},
		{name: "SIGTERM", most: 2 * time.Second, weight: 2, do: down(func(_ *scene, d *daemon) error { return d.Stop() })},
		{name: "SIGHUP, good file", do: reload(true)},
		{name: "SIGHUP, bad file", do: reload(false)},
		{name: "SIGSTOP", least: time.Second, most: 4 * time.Second, do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
			d := of(s)
			if err := d.Freeze(s.ctx); err != nil {
				return err
			}
			wait(ctx, lasts)
			return d.resume()
		}},
	}
}

// order is something an admin asks for.
type order func(ctx context.Context, c *control.Client, f control.Filter) error

func act(v control.Verb) order {
	return func(ctx context.Context, c *control.Client, f control.Filter) error {
		_, err := c.Act(ctx, control.Action{Verb: v, Filter: f}, nil)
		return err
	}
}

// between gives an order about a stream, and after a while the one that undoes it.
func between(begin, end order) func(context.Context, *scene, time.Duration, uint64) error {
	return func(ctx context.Context, s *scene, lasts time.Duration, pick uint64) error {
		f := control.Filter{Stream: "weekly." + senders[pick%uint64(len(senders))]}
		if err := s.insist(begin, f); err != nil || end == nil {
			return err
		}
		wait(ctx, lasts)
		return s.insist(end, f)
	}
}

// insist gives an order until the agent answers. It may have done it already, and
// died before it could say so.
func (s *scene) insist(o order, f control.Filter) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var last error
	err := lab.Until(ctx, func() (bool, error) {
		one, cancel := context.WithTimeout(ctx, 15*time.Second) // the agent may stand still
		defer cancel()
		last = o(one, s.client, f)
		return last == nil || errors.Is(last, control.ErrUnknown), nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// moods are the ways in which a receiver changes its mind.
func moods(p sink.Provider) []kind {
	var list []kind
	for _, m := range []struct {
		name string
		cuts bool // open connections
		f    func(b *sink.Behaviour)
	}{
		{"down", true, func(b *sink.Behaviour) { b.Down = true }},
		{"unreachable", true, func(b *sink.Behaviour) { b.Unreachable = true }},
		{"one connection a host", false, func(b *sink.Behaviour) { b.HostConnections = 1 }},
		{"421 at the dot", false, func(b *sink.Behaviour) { b.HostConnections, b.OverLimit = 2, sink.AtDot }},
		{"resets what is too much", false, func(b *sink.Behaviour) { b.HostConnections, b.OverLimit = 2, sink.ByReset }},
		{"10 messages a second", false, func(b *sink.Behaviour) { b.Rate, b.Burst = 10, 5 }},
		{"bans", false, func(b *sink.Behaviour) {
			b.HostConnections, b.PenaltyEvery, b.PenaltyBan, b.PenaltyForget = 2, 3, 300*time.Millisecond, 2*time.Second
		}},
		{"greylists", false, func(b *sink.Behaviour) { b.Greylist = 2 * time.Second }},
		{"refuses all for now", false, func(b *sink.Behaviour) { b.TempShare, b.TempTimes = 1, 0 }},
		{"hangs at connects", false, func(b *sink.Behaviour) { b.HangConnect = 0.5 }},
		{"hangs at DATA", false, func(b *sink.Behaviour) { b.HangData = 0.2 }},
		{"hangs at the dot", false, func(b *sink.Behaviour) { b.HangDot = 0.2 }},
		{"drops connections at the dot", false, func(b *sink.Behaviour) { b.Drop = 0.3 }},
		{"drops half of them after accepting", false, func(b *sink.Behaviour) { b.Drop, b.DropAccepted = 0.3, 0.5 }},
		{"three messages a connection", false, func(b *sink.Behaviour) { b.MaxMessages = 3 }},
		{"DNS fails", false, func(b *sink.Behaviour) { b.DNS = sink.ServFail }},
		{"DNS is silent", false, func(b *sink.Behaviour) { b.DNS = sink.Silent }},
	} {
		list = append(list, kind{name: m.name, least: time.Second, most: 10 * time.Second,
			do: func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
				if m.cuts {
					st := s.Internet.Stats()
					s.cut.Add(int64(st.Provider(p.Name).Open))
				}
				if err := s.Internet.Change(p.Name, m.f); err != nil {
					return err
				}
				wait(ctx, lasts)
				if err := s.Internet.Change(p.Name, func(b *sink.Behaviour) { *b = p.Behaviour }); err != nil {
					return fmt.Errorf("%s heals: %w", p.Name, err)
				}
				return nil
			}})
	}
	return list
}
