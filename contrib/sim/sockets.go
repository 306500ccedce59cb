package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/contrib/lab/sink"
)

// Provider is the receiver over sockets, as it is at first: hosts mx1.<name>.test and so
// on. What changes later is told by [Receiver.Changes] and [Receiver.Host]. A test holds
// both to the same answers.
//
// Package sink has no quotas, closes no port for a limit, calls nothing too fast by chance, and its
// greylisting goes by recipients; one connection too many at the final dot is known there from its
// connect on; nor does it refuse all for a time, or count connections. Receivers with those, those with other than two
// round trips a message, and limits by source address give an error.
func (r *Receiver) Provider(name string, domains ...string) (sink.Provider, error) {
	p := sink.Provider{Name: name, Domains: domains}
	switch {
	case r.Trips != 2:
		return p, errors.New("sim: over sockets a message takes two round trips")
	case r.Quota > 0, r.Greylist > 0, r.LimitAt == AtDot, r.Full > 0, r.Closed, r.Silent, r.Moody > 0, r.Busy != nil, r.Calls > 0:
		return p, errors.New("sim: not known over sockets: a quota, greylisting, a limit at the dot, full hosts, a port closed at the limit, too fast by chance, connections refused for a time or counted by the minute")
	}
	p.Behaviour.RTT = r.RTT // the hosts have the rest
	for h := range r.hosts() {
		b := r.Host(h, 0)
		p.Host = append(p.Host, sink.Host{Name: r.HostName(name, h), Behaviour: &b})
	}
	return p, nil
}

// HostName is the name over sockets of host h.
func (r *Receiver) HostName(provider string, h int) string {
	return fmt.Sprintf("mx%d.%s.test", h+1, provider)
}

// Changes are the times after the start at which hosts change.
func (r *Receiver) Changes() []time.Duration {
	var at []time.Duration
	for _, c := range []Course{r.Limit, r.Scale, r.Other, r.Rate, r.Down} {
		for _, s := range c {
			if s.At > 0 {
				at = append(at, s.At)
			}
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// Host is how host h behaves over sockets at a time.
func (r *Receiver) Host(h int, at time.Duration) sink.Behaviour {
	b := sink.Behaviour{
		RTT: r.RTT, AcceptTime: r.Service, AcceptNoise: r.Noise, Capacity: r.Capacity,
		ReleaseLag: r.Lag, ReleaseNoise: r.LagNoise,
		MaxMessages: r.PerConnection, MaxMessagesClose: r.Close, CountTries: true,
		TempShare: r.Later, TempTimes: 1, Drop: r.Drop,
		Backends: r.Backends,
	}
	if r.Slow != nil && r.Slow[h] > 0 {
		b.AcceptTime = time.Duration(float64(r.Service) * r.Slow[h])
	}
	if limit, ok := r.Limit.at(at); ok {
		b.ProviderConnections = r.limitOf(limit, at)
	}
	if n := r.hostLimit(place{host: h}); n > 0 {
		b.HostConnections = r.limitOf(float64(n), at)
	}
	switch {
	case r.LimitAt == AtMail:
		b.OverLimit = sink.AtFirstMail
	case r.Unspoken:
		b.OverLimit = sink.ByReset
	}
	if r.Ban > 0 || r.Shrink > 0 {
		b.PenaltyEvery, b.PenaltyConnections = 1, true
		b.PenaltyBan, b.PenaltyShrink, b.PenaltyForget = r.Ban, r.Shrink, max(1, r.Forget)
	}
	if rate, ok := r.Rate.at(at); ok {
		b.Rate, b.Burst, b.RatePerHost = rate, max(1, rate), r.RatePerHost
		b.Say = map[sink.Cause]string{sink.CauseRate: "450 4.7.1 Too fast, try again later"}
		if r.RateEnds {
			b.Say[sink.CauseRate] = "421 4.7.0 Too fast, try again later"
		}
	}
	down, _ := r.Down.at(at)
	b.Down = down != 0 || h < r.Dead
	b.Unreachable = !b.Down && h < r.Dead+r.Hanging
	return b
}
