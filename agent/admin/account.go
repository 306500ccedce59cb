package admin

import (
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
)

// siteOf is a site as the socket shows it, that accepts so many recipients a second.
func siteOf(s *queue.Site, rate float64) control.Site {
	x := control.Site{
		Name: s.Name, Queue: s.Queue, Hosts: s.Hosts, Waiting: s.Waiting, Limited: s.Limited,
		Sessions: s.Sessions, Opening: s.Opening, Ready: s.Ready,
		Target: s.Target.Sessions, Pace: s.Target.Pace, Cause: s.Target.Cause,
		Rate: rate, Latency: s.Latency.Seconds(), Refused: s.Refused,
		State: s.State, Want: s.Want, Held: s.Held, Lagging: s.Lagging,
	}
	x.Paused, x.PausedBy = s.Paused, pausesOf(s.PausedBy)
	if s.Source.IsValid() {
		x.Source = s.Source.String()
	}
	if h := &s.HeldBack; h.Reason != "" {
		x.HeldBack = &control.HeldBack{Reason: string(h.Reason), How: h.How, Reply: h.Reply, Until: h.Until, Next: h.Next}
	}
	return x
}

// pausesOf are pauses as the socket shows them.
func pausesOf(list []queue.Pause) (all []control.Pause) {
	for _, p := range list {
		all = append(all, control.Pause{Filter: orders.FilterOf(&p), Reason: p.Reason})
	}
	return all
}

// account is all that is told of a site.
func account(a *queue.Account, rate float64) *control.Account {
	s := &a.Snapshot
	x := &control.Account{
		Site: siteOf(&a.Site, rate), MaxSessions: a.Limits.MaxSessions, MaxRate: a.Limits.MaxRate, LimitsBy: a.Limits.Why,
		Host: s.Host, Whose: s.Whose, Lag: s.Lag, Reply: s.Reply, Opens: s.Opens, Punished: s.Punished,
	}
	for _, p := range s.PerAddress {
		x.Addresses = append(x.Addresses, control.Address{
			Address: a.AddressOf(p.Address), Sessions: p.Up, Held: p.Held, Accepted: p.Accepted, Limited: p.Limited, Pace: p.Pace, Down: p.Down, Opens: p.Opens, Reply: p.Reply,
		})
		if f := p.Failing; f.Times > 0 {
			x.Addresses[len(x.Addresses)-1].Failing = &control.Failing{Times: f.Times, Since: f.Since, Until: f.Until, How: f.How, Why: f.Why}
		}
	}
	return x
}
