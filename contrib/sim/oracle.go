package sim

import (
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// oracle is a sender that knows the receiver: its limits, how late it frees slots, and
// its rate. It fills equal hosts evenly (RFC 5321 section 5.1) and meets the same noise,
// deferrals, lost connections and chance as the agent. What it sends is what is
// possible.
type oracle struct {
	*world
	source int
	held   []int // slots on each host as the receiver will have them when a connect arrives
	opened int
	idle   [][]*connection // by host
	timer  []time.Duration
	live   int
}

func newOracle(w *world, source int) agent {
	n := w.receiver.Receiver.hosts()
	o := &oracle{world: w, source: source, held: make([]int, n), idle: make([][]*connection, n), timer: make([]time.Duration, n)}
	o.watch()
	return o
}

func (o *oracle) state() string             { return "" }
func (o *oracle) up() int                   { return o.live }
func (o *oracle) wanted() int               { return o.live }
func (o *oracle) hostMail()                 {}
func (o *oracle) clamp(elastic.Clamp)       {}
func (o *oracle) history() []elastic.Change { return nil }

// watch looks at limits that change.
func (o *oracle) watch() {
	o.clock.after(100*time.Millisecond, func() {
		o.watch()
		o.act()
	})
}

// room is how many more slots a host has, ours apart from those the host MTA needs.
func (o *oracle) room(h int) int {
	r, now := o.receiver, o.clock.now
	n := o.kind.sessions() - o.opened
	if limit, ok := r.Limit.at(now); ok {
		n = min(n, r.limitOf(limit, now)-o.kind.hostPlaces(now)-o.opened)
	}
	if r.HostLimit == nil {
		return n
	}
	limit := r.HostLimit[h]
	if r.Backends > 0 {
		return min(n, r.Backends*r.limitOf(float64(limit), now)-o.kind.hostPlaces(now)-o.held[h])
	}
	return min(n, r.limitOf(float64(limit), now)-(o.kind.hostPlaces(now)+h)/r.Receiver.hosts()-o.held[h])
}

func (o *oracle) act() {
	for {
		best := -1
		for h := range o.held {
			if o.room(h) > 0 && (best < 0 || o.held[h] < o.held[best]) {
				best = h
			}
		}
		if best < 0 {
			return
		}
		o.open(best)
	}
}

func (o *oracle) hold(h, n int) {
	o.held[h] += n
	o.opened += n
}

func (o *oracle) open(h int) {
	o.hold(h, 1)
	rtt := o.receiver.RTT
	o.clock.after(rtt*3/2, func() {
		at := o.receiver.place(o.source, h)
		if o.receiver.called(at) != yes {
			o.clock.after(rtt/2, func() {
				o.hold(h, -1)
				o.act()
			})
			return
		}
		o.receiver.enter(at)
		o.clock.after(rtt*3/2, func() {
			o.live++
			o.ready(&connection{at: at, host: h})
		})
	})
}

// ready sends on a session as soon as the host takes a message.
func (o *oracle) ready(x *connection) {
	o.idle[x.host] = append(o.idle[x.host], x)
	o.serve(x.host)
}

func (o *oracle) serve(h int) {
	for len(o.idle[h]) > 0 {
		if wait := o.receiver.rateWait(h); wait > 0 {
			if at := o.clock.now + wait; o.timer[h] <= o.clock.now {
				o.timer[h] = at
				o.clock.after(wait, func() {
					o.timer[h] = 0
					o.serve(h)
				})
			}
			return
		}
		x := o.idle[h][0]
		o.idle[h] = o.idle[h][1:]
		o.send(x)
	}
}

func (o *oracle) send(x *connection) {
	r := o.receiver
	x.n++
	answer, d := r.offered(x.at, x.n, false)
	o.clock.after(d, func() {
		ended := x.n >= perConnection
		switch answer {
		case taken, takenEnd:
			r.done()
			o.delivered()
			ended = ended || answer == takenEnd || !r.Close && x.n == r.PerConnection
		case lost:
			r.done()
			ended = true
		case tooMany, enough, tooFastEnd:
			ended = true
		}
		if !ended {
			o.ready(x)
			return
		}
		lag := r.leave(x.at)
		o.live--
		o.clock.after(max(0, lag-r.RTT*3/2+time.Millisecond), func() {
			o.hold(x.host, -1)
			o.act()
		})
	})
}
