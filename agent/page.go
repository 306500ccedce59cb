package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/web"
)

// page is what the status page asks of the agent.
type page struct {
	agent *Agent

	mu      sync.Mutex
	streams []control.Stream
	stale   time.Time // when they are to be counted again
}

var _ web.Backend = (*page)(nil)

func (a *Agent) newWeb() *web.Handler {
	return web.New(web.Options{
		Backend: &page{agent: a}, History: a.history, Log: a.log,
		Hostnames: func() []string {
			c := a.now.Load().config
			return append([]string{c.Hostname}, c.Agent.HTTP.Hostnames...)
		},
	})
}

// Snapshot implements web.Backend.
func (p *page) Snapshot() web.Snapshot {
	a := p.agent
	s := web.Snapshot{
		Time: time.Now(), Hostname: a.now.Load().config.Hostname, Version: a.version, Trouble: a.notReady(),
	}
	s.Waiting, s.Deferred, s.Active, s.Sessions = a.queue.Counts()
	for _, x := range a.queue.Sites() {
		s.Sites = append(s.Sites, web.Site{
			Name: x.Name, Queue: x.Queue, Waiting: x.Waiting, Sessions: x.Sessions, Opening: x.Opening,
			Target: x.Target.Sessions, Pace: x.Target.Pace, Slowed: x.Target.Slowed, Cause: x.Target.Cause, Reason: x.Reason,
			Clamp: web.Clamp{Sessions: x.Clamp.Sessions, Pace: x.Clamp.Pace, Until: x.Clamp.Until, Reason: x.Clamp.Reason},
		})
	}
	for _, x := range p.waiting() {
		s.Streams = append(s.Streams, web.Stream{Name: x.Name, Waiting: x.Waiting, Deferred: x.Deferred, Active: x.Active, Paused: x.Paused})
	}
	return s
}

// waiting is what waits of each stream. Counting it looks at every recipient in the
// queue, so it is done at most every other second, and never for more than a
// twentieth of the time.
func (p *page) waiting() []control.Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if began := time.Now(); !began.Before(p.stale) {
		p.streams = p.agent.Streams()
		now := time.Now()
		p.stale = now.Add(max(2*time.Second, 20*now.Sub(began)))
	}
	return p.streams
}

// Changes implements web.Backend.
func (p *page) Changes(site string) ([]web.Change, bool) {
	changes, err := p.agent.Why(site)
	if err != nil {
		return nil, false
	}
	list := make([]web.Change, len(changes))
	for i, c := range changes {
		list[i] = web.Change{At: c.At, From: c.From, To: c.To, Pace: c.Pace, Cause: c.Cause}
	}
	return list, true
}

// keepHistory takes the samples of the history until ctx ends.
func (a *Agent) keepHistory(ctx context.Context) {
	tick := time.NewTicker(history.Step)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s := history.Sample{Time: now}
			s.Waiting, s.Deferred, _, s.Sessions = a.queue.Counts()
			for _, x := range a.queue.Sites() {
				s.Sites = append(s.Sites, history.Site{Name: x.Name, Queue: x.Queue, Waiting: x.Waiting, Sessions: x.Sessions})
			}
			a.history.Sample(s)
		}
	}
}

// WebLink implements control.Backend.
func (a *Agent) WebLink() (string, error) {
	listen := a.now.Load().config.Agent.HTTP.Listen.First()
	if listen == "" {
		return "", errors.New(`the status page has no port that a browser could open; remedy: set listen = "127.0.0.1:8891" under [agent.http], and restart millrace-agent`)
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		host = "127.0.0.1" // one of all that it listens on
	}
	a.log.Info("a browser may see addresses on the status page, once it follows the link that was asked for")
	return "http://" + net.JoinHostPort(host, port) + a.web.Link(), nil
}
