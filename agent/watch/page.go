package watch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/web"
)

// page is what the status page asks of the agent.
type page struct {
	watch *Watch

	mu      sync.Mutex
	streams []web.Stream
	stale   time.Time // when they are to be counted again
}

var _ web.Backend = (*page)(nil)

// maxUnknown is how many replies that no rule knew the page shows.
const maxUnknown = 5

// Snapshot implements web.Backend.
func (p *page) Snapshot() web.Snapshot {
	w := p.watch
	s := web.Snapshot{
		Time: time.Now(), Hostname: w.settings.Now().Config.Hostname, Version: w.version, Trouble: append(w.NotReady(), w.Warnings()...),
	}
	s.Waiting, s.Deferred, s.Active, s.Sessions = w.queue.Counts()
	sessions := make(map[string]int) // by source
	w.queue.EachSite(func(page []queue.Site) bool {
		for i := range page {
			x := &page[i]
			if x.Source.IsValid() {
				sessions[x.Source.String()] += x.Sessions
			}
			pausedBy := ""
			if len(x.PausedBy) > 0 {
				by := &x.PausedBy[0]
				pausedBy = fmt.Sprintf("a pause of %s: %s", orders.FilterOf(by), by.Reason)
			}
			s.Sites = append(s.Sites, web.Site{
				Paused: x.Paused, PausedBy: pausedBy,
				Name: x.Name, Queue: x.Queue, Waiting: x.Waiting, Limited: x.Limited, Sessions: x.Sessions, Opening: x.Opening,
				Target: x.Target.Sessions, Pace: x.Target.Pace, Cause: x.Target.Cause, Held: held(&x.HeldBack),
			})
		}
		return true
	})
	s.Streams = slices.Clone(p.waiting())
	sources := w.Sources()
	for i := range sources {
		x := &sources[i]
		s.Sources = append(s.Sources, web.Source{Address: x.Address, What: x.InWords(), Sessions: sessions[x.Address], Trouble: x.Absent || x.Blocked != nil})
	}
	limits := w.StreamLimits()
	for i := range limits {
		s.Limits = append(s.Limits, web.Limit{Name: limits[i].Name, What: limits[i].InWords()})
	}
	for _, x := range w.Warmups() {
		if x.Done != "" {
			continue
		}
		y := web.Warmup{Address: x.Address, Queue: x.Queue, What: x.InWords(), Trouble: x.HeldDays > 0 || x.Lost}
		for _, d := range x.Days {
			y.Days = append(y.Days, web.WarmupDay{Date: d.Date, Share: d.Share, Used: d.Used})
		}
		s.Warmups = append(s.Warmups, y)
	}
	unknown := w.orders.Unknown().List()
	for _, x := range unknown[:min(len(unknown), maxUnknown)] {
		s.Unknown = append(s.Unknown, web.UnknownReply{Count: x.Count, Example: x.Example})
	}
	return s
}

// waiting is what waits of each stream. Counting it looks at every recipient in the
// queue, so it is done at most every other second, and never for more than a
// twentieth of the time.
func (p *page) waiting() []web.Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if began := time.Now(); !began.Before(p.stale) {
		p.streams = nil
		for _, x := range p.watch.orders.Streams() {
			p.streams = append(p.streams, web.Stream{Name: x.Name, Waiting: x.Waiting, Deferred: x.Deferred, Active: x.Active, Paused: x.Paused, Waits: x.Waits})
		}
		now := time.Now()
		p.stale = now.Add(max(2*time.Second, 20*now.Sub(began)))
	}
	return p.streams
}

func held(h *queue.HeldBack) web.Held {
	return web.Held{Reason: string(h.Reason), How: h.How, Reply: h.Reply, Until: h.Until, Next: h.Next}
}

// Explain implements web.Backend.
func (p *page) Explain(site string) (web.Account, bool) {
	a, ok := p.watch.queue.Explain(site)
	if !ok {
		return web.Account{}, false
	}
	s := &a.Snapshot
	x := web.Account{State: s.State, Want: s.Want, Held: a.Held, Lagging: s.Lagging, Host: s.Host, MaxSessions: a.Limits.MaxSessions, Whose: s.Whose, Lag: s.Lag}
	for _, c := range a.Changes {
		x.Changes = append(x.Changes, web.Change{At: c.At, From: c.From, To: c.To, Pace: c.Pace, Cause: c.Cause})
	}
	for _, b := range s.PerAddress {
		x.Addresses = append(x.Addresses, web.Address{
			Address: a.AddressOf(b.Address), Held: b.Held, Accepted: b.Accepted, Limited: b.Limited, Pace: b.Pace, Down: b.Down, Opens: b.Opens, Reply: b.Reply,
		})
		if f := b.Failing; f.Times > 0 {
			y := &x.Addresses[len(x.Addresses)-1]
			y.Failed, y.Error, y.Since, y.Until = f.How, f.Why, f.Since, f.Until
		}
	}
	return x, true
}

// HistoryLoop takes the samples of the history until ctx ends.
func (w *Watch) HistoryLoop(ctx context.Context) {
	loop.Every(ctx, history.Step, func(tick time.Time) {
		s := history.Sample{Time: tick}
		s.Waiting, s.Deferred, _, s.Sessions = w.queue.Counts()
		w.queue.EachSite(func(page []queue.Site) bool {
			for i := range page {
				x := &page[i]
				s.Sites = append(s.Sites, history.Site{Name: x.Name, Queue: x.Queue, Waiting: x.Waiting, Sessions: x.Sessions})
			}
			return true
		})
		w.history.Sample(s)
	})
}

// pastEvery is the time between two looks at what was counted long ago.
const pastEvery = 5 * time.Minute

// PastLoop gives the history what was counted before its own samples, until ctx ends.
func (w *Watch) PastLoop(ctx context.Context) {
	look := func(now time.Time) {
		counts, err := w.outcomes.Past(ctx)
		if err != nil {
			if ctx.Err() == nil {
				w.log.Warn("the charts do not show what was counted earlier", "err", err)
			}
			return
		}
		w.history.SetPast(counts, now)
	}
	look(time.Now())
	loop.Every(ctx, pastEvery, look)
}

// WebLink is the URL that lets one browser see addresses on the status page.
func (w *Watch) WebLink() (string, error) {
	listen := w.settings.Now().Config.Agent.HTTP.Listen.First()
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
	w.log.Info("a browser may see addresses on the status page, once it follows the link that was asked for")
	return "http://" + net.JoinHostPort(host, port) + w.web.Link(), nil
}
