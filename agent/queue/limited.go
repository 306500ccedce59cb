package queue

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/windows"
)

// StreamLimits are what holds for the streams that fit, together.
type StreamLimits struct {
	Name     string // of the [[stream]]
	Fits     func(stream string) bool
	Priority int     // of each of them; 0: none
	Rate     float64 // messages per second; 0: no limit
	Shared   bool    // the rate is that of all nodes of the fleet together
	Window   windows.Window
	// Expire takes the place of the queue's; 0: it does not. The time outside of the window
	// does not count for either, unless ExpireAlways.
	Expire       time.Duration
	ExpireAlways bool
	Quotas       []*quotas.Counter // of all receivers
	ByQueue      map[string][]*quotas.Counter
}

// bounds says whether there is anything that a gate would mind.
func (l *StreamLimits) bounds() bool {
	return l.Rate > 0 || !l.Window.Zero() || len(l.Quotas)+len(l.ByQueue) > 0
}

// limited is a [[stream]] with what waits behind its gates.
type limited struct {
	StreamLimits
	gates    map[gateKey]*gate
	open     ring[*gate] // with flows behind them, and no quota that is used up
	tokens   tokens
	out      []*flow // that have permits, perhaps
	granted  bool    // a grant is under way
	again    bool    // it is to look once more
	lent     float64 // of the rate, if that is shared with others of the fleet
	planned  time.Time
	closes   time.Time // when the window closes next, if a timer knows
	turn     int       // permits given
	toldAt   time.Time // when Wanted told last
	toldTurn int       // permits given by then
	left     int       // messages that left their flows in this grant (overflow)
}

// SetStreams replaces what holds for streams. The first that fits is a stream's.
func (q *Queue) SetStreams(list []StreamLimits) {
	now := time.Now()
	q.mu.Lock()
	old := q.limited
	q.limited = nil
	for i := range list {
		l := &limited{StreamLimits: list[i], gates: make(map[gateKey]*gate)}
		for _, x := range old {
			if x.Name == l.Name {
				l.turn, l.toldTurn, l.toldAt = x.turn, x.toldTurn, x.toldAt
				l.tokens = x.tokens // a reload is no reason for another burst
			}
		}
		q.limited = append(q.limited, l)
	}
	q.mu.Unlock()
	walk(q, &q.destByNo, func(d *destination) {
		for _, f := range d.flows {
			q.regate(f)
		}
		q.serveAll(d, now)
	}, always)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.limited {
		q.grant(l, now)
	}
}

// shared is the name that those of its streams have which are past the number of distinct ones:
// no limit ends where there are many streams.
func (l *limited) shared() string { return sharedPrefix + "of " + l.Name + ")" }

// sharedStream is the name that a stream shares with others past the number of distinct ones.
func (q *Queue) sharedStream(name string) string {
	if l := q.limitsOfName(name); l != nil {
		return l.shared()
	}
	return shared(name)
}

// limitsFor is what holds for a stream; nil: nothing.
func (q *Queue) limitsFor(stream uint32) *limited {
	if len(q.limited) == 0 {
		return nil
	}
	return q.limitsOfName(q.streams.text(stream))
}

func (q *Queue) limitsOfName(name string) *limited {
	for _, l := range q.limited {
		if l.Fits(name) || name == l.shared() {
			return l
		}
	}
	return nil
}

// Limited is how many recipients wait for a window to open or a quota to have room.
func (q *Queue) Limited() (n int) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachGate(func(g *gate) {
		if g.shut(now) {
			n += g.mail
		}
	})
	return n
}

// waitsFor says which limit mail behind a gate waits for; "" if for none. What one address has no
// room for says nothing of the others.
func (g *gate) waitsFor(now time.Time) string {
	if g.forWarmup && g.warmup != nil && g.until.After(now) && g.asleep() > 0 {
		return g.warmup.inWords()
	}
	if g.of.Name == "" { // of addresses that warm up, and no [[stream]]
		return ""
	}
	why, _ := g.of.waitsFor(now)
	return why
}

// waitsFor says which limit mail behind the gates waits for, and until when; "" if for none.
func (l *limited) waitsFor(now time.Time) (why string, until time.Time) {
	asleep := 0
	for _, g := range l.gates {
		asleep += g.asleep()
		if g.asleep() > 0 && g.until.After(now) && (until.IsZero() || g.until.Before(until)) {
			why, until = "a quota of [[stream]] "+l.Name+" is used up", g.until
			if g.forWarmup && g.warmup != nil {
				why = g.warmup.inWords()
			}
		}
	}
	switch {
	case asleep == 0:
		return "", time.Time{}
	case !l.Window.Open(now):
		return "the window of [[stream]] " + l.Name + " (" + l.Window.String() + ") is closed", l.Window.Next(now)
	case why != "":
		return why, until
	case l.Shared && l.lent < l.Rate && l.open.n > 0 && l.tokens.n < 1:
		return fmt.Sprintf("max_message_rate of [[stream]] %s is %s for the whole fleet, which has lent this node %.3g%% of it", l.Name, rate(l.Rate), 100*l.lent/l.Rate), time.Time{}
	case l.Rate > 0 && l.open.n > 0 && l.tokens.n < 1:
		return "max_message_rate of [[stream]] " + l.Name + " is " + rate(l.Rate), time.Time{}
	}
	return "", time.Time{}
}
