package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// How sessions are tried and paid for.
const (
	startSessions = 2
	creditGain    = 0.01 // earned by an accepted message; a refusal costs 1
	creditMax     = 2.0
	creditMin     = -2.0
	probeGapMin   = 10 * time.Second // doubles with each probe that is refused
	probeGapMax   = 30 * time.Second // so that a lifted limit is found within a minute
	waryFor       = time.Hour        // refusals are taken to be punished
	waryGapMin    = 5 * time.Minute  // between two tries to come back then: penalties are mostly forgotten
	waryGapMax    = 20 * time.Minute
	probeFor      = time.Minute // a probe whose connects neither came up nor were refused is given up
	flatMin       = 20 * time.Second
	flatSamples   = 64 // transactions that tell how long one takes
	flatMax       = 10 * time.Minute
	decayEvery    = time.Minute // without backlog, the sessions wanted halve
	settleFor     = 30 * time.Second
)

// phase is what the controller is about.
type phase uint8

const (
	grow  phase = iota // doubling while it pays
	hold               // at what the receiver accepts
	probe              // trying more than that
	flat               // more sessions bring no more goodput
)

// Control is the controller of one site and source address. Its methods must
// not be called at the same time.
type Control struct {
	limits  Limits
	load    Load // as of the last Target
	history history
	clamps  clamps

	phase    phase
	want     int       // sessions
	base     int       // sessions before the probe under way
	began    time.Time // of the probe or the flat phase
	probeAt  time.Time // not before
	probeGap time.Duration
	flatFor  time.Duration
	flats    int     // times more sessions brought nothing, one after the other
	streak   int     // probes that came up, one after the other
	credit   float64 // refusals that we may cause
	busy     time.Time
	now      level // the level being measured
	ref      level // the one to compare it with
	door     door
	pace     pace
	meter    slots.Meter
	host     hostRoom
	hanging  int // connects under way that are not counted, since they seem to hang

	latency float64 // of a transaction, seconds, smoothed
	connect float64 // of a connect, likewise
	next    time.Time
}

// New returns the controller of a site about which nothing is known.
func New(now time.Time, l Limits) *Control {
	c := &Control{limits: l, want: startSessions, probeGap: probeGapMin, busy: now}
	c.limits.MaxSessions = max(1, l.MaxSessions)
	c.want = min(c.want, c.limits.MaxSessions)
	c.restart()
	c.record(now, 0, "start")
	return c
}

// SetLimits changes the configured ceilings, as at a reload.
func (c *Control) SetLimits(now time.Time, l Limits) {
	l.MaxSessions = max(1, l.MaxSessions)
	if c.limits == l {
		return
	}
	c.limits = l
	why := fmt.Sprintf("max_sessions is %d", l.MaxSessions)
	if l.MaxRate > 0 {
		why += fmt.Sprintf(", max_message_rate %.3g/s", l.MaxRate)
	}
	if l.Why != "" {
		why += ": " + l.Why
	}
	if c.want > l.MaxSessions {
		c.set(now, l.MaxSessions, why)
		c.base = min(c.base, c.want)
		return
	}
	c.record(now, c.want, why)
}

// Observe takes in one piece of evidence. A signal that does not say when it
// began is taken to have begun now.
func (c *Control) Observe(now time.Time, s Signal) {
	if s.Began.IsZero() {
		s.Began = now
	}
	switch s.Kind {
	case Accepted:
		c.credit = min(creditMax, c.credit+creditGain)
		d := max(now.Sub(s.Began), 0).Seconds()
		smooth(&c.latency, d)
		c.now.add(d)
		c.meter.Add(now)
		c.pace.accepted(&s)
	case Up:
		smooth(&c.connect, max(now.Sub(s.Began), 0).Seconds())
		c.load.Live++
		c.cameUp(now, s)
	case Refused:
		c.refused(now, s)
	case RateRefused:
		c.tooFast(now, s)
	case Closed, Lost:
		c.load.Live = max(0, c.load.Live-1)
		c.door.closed(now)
	case Failed:
		// One host's trouble is no limit. With nothing up there is nothing
		// left to be held: begin small when the site comes back.
		if c.load.Live == 0 && c.want > startSessions {
			c.phase, c.streak = grow, 0
			c.set(now, startSessions, "nothing is up, and "+s.Host+" does not answer")
			c.restart()
		}
	}
}

// Target says what is wanted now. It also does what is due with time, so it is
// to be called at Next.
func (c *Control) Target(now time.Time, l Load) Target {
	if !c.now.last.IsZero() {
		c.now.run(now, c.load.Live)
	}
	c.hang(l)
	c.load = l
	c.settle(now)
	c.recover(now)
	c.decay(now)
	cl, clamped := c.clamps.tightest(now)
	kept := c.keep(now)
	switch {
	case l.Backlog == 0: // idle sessions would spoil what is being measured
		c.now = level{n: c.want}
	case !clamped:
		c.advance(now)
		kept = c.keep(now)
	}

	t := Target{Sessions: min(c.want+c.hanging, c.limits.MaxSessions) - kept, Pace: tighter(c.rate(), cl.Pace), Cause: c.history.last()}
	t.Slowed = c.pace.value > 0 && c.pace.value == t.Pace
	if cl.Sessions >= 0 {
		t.Sessions = min(t.Sessions, cl.Sessions)
	}
	if t.Sessions > 0 {
		t.Unproven = c.unproven(now, t.Sessions)
		// No more than there is work for; but what is up stays up.
		t.Sessions = min(t.Sessions, l.Live+l.Opening+l.Backlog)
	}
	c.next = c.wake(now, clamped)
	return t
}

// Latency is how long a transaction takes, smoothed; 0 if there was none.
func (c *Control) Latency() time.Duration { return time.Duration(c.latency * float64(time.Second)) }

// Next is the earliest time at which Target may change without new evidence.
// It is zero if there is none.
func (c *Control) Next() time.Time { return c.next }

// hang leaves connects that hang out of account: others are begun in their stead, or
// one silent host of several would keep the sessions from growing until it times
// out.
func (c *Control) hang(l Load) {
	most := 2 * startSessions
	if l.Live > 0 {
		most = max(most, c.want)
	}
	c.hanging = min(l.Hanging, most)
}

// set changes the number of sessions and begins a new measurement.
func (c *Control) set(now time.Time, n int, cause string) {
	from := c.want
	c.want = max(1, min(n, c.limits.MaxSessions))
	c.now = level{n: c.want}
	c.record(now, from, cause)
}

// restart forgets what was measured.
func (c *Control) restart() {
	c.ref = level{}
	c.now = level{n: c.want}
}

// advance goes on from phase to phase while there is a backlog.
func (c *Control) advance(now time.Time) {
	goal := c.want - c.host.kept
	up := c.load.Live >= goal-goal/8 // sessions that are being replaced need not be waited for
	if c.now.last.IsZero() && up {
		c.now.last = now
	}
	switch c.phase {
	case grow:
		if up && c.now.enough() && c.room(now) {
			c.raise(now)
		}
	case hold:
		if up && c.mayPay(now) && !now.Before(c.mayBegin(now)) && c.room(now) && c.alone(now) && c.mayProbe(now) {
			more := min(1<<min(c.streak, 16), c.want, c.limits.MaxSessions-c.want)
			if c.door.wary(now) {
				more = min(more, c.door.regain-c.want)
			}
			c.phase, c.base, c.began = probe, c.want, now
			c.set(now, c.want+more, fmt.Sprintf("all %d up: trying %d more", c.base, more))
		}
	case probe:
		// Some receivers let a session in and refuse its first MAIL: it is
		// proven when each could have delivered once.
		if c.load.Live >= c.want && c.now.count >= float64(c.want) {
			c.phase = hold
			c.streak++
			c.credit = max(c.credit, 1)
			c.probeGap, c.probeAt = probeGapMin, now
			c.record(now, c.want, fmt.Sprintf("all %d were accepted", c.want))
		} else if now.Sub(c.began) >= probeFor {
			c.endProbe(now, "not all came up in time")
		}
	case flat:
		faster := c.faster()
		// The first time rests on few transactions: it lasts until there are more.
		if faster || now.Sub(c.began) >= c.flatFor && (c.flatFor > 0 || c.ref.n == c.want) {
			c.retest(now, faster)
		}
	}
}

// mayPay says whether a refusal is affordable. Where refusals are punished it is
// time that a try is paid with, the time since the last one.
func (c *Control) mayPay(now time.Time) bool { return c.credit >= 1 || c.door.wary(now) }

// retest leaves the flat phase. The many transactions since are a better measure
// than the few that led into it.
func (c *Control) retest(now time.Time, faster bool) {
	cause := "trying again whether more sessions help"
	if faster {
		cause = "the receiver became faster"
	}
	switch {
	case c.door.wary(now):
		c.phase, c.probeAt = hold, now
	case faster || c.ref.n != c.want || !c.room(now):
		c.phase = grow
	default:
		c.phase = grow
		c.set(now, c.twice(now), cause)
		return
	}
	c.restart()
	c.record(now, c.want, cause)
}

// room says whether more sessions could be had and used: the ceiling is not
// reached, nor what a receiver that punishes more is known to accept, and what is
// there does not already suffice for the pace.
func (c *Control) room(now time.Time) bool {
	if c.want >= c.limits.MaxSessions {
		return false
	}
	if c.door.wary(now) && c.want >= c.door.regain {
		return false
	}
	rate := c.rate()
	return rate == 0 || float64(c.want) < 1+1.5*rate*c.latency
}

// rate is the pace that binds, messages per second; 0: none.
func (c *Control) rate() float64 { return tighter(c.pace.value, c.limits.MaxRate) }

// judge says whether the last raise paid. Under a pace sessions wait, so their
// time tells nothing, and room alone bounds them. A first look that says no is
// followed by a second one, at transactions begun when all were up.
func (c *Control) judge() verdict {
	if c.rate() > 0 {
		return pays
	}
	v := compare(&c.ref, &c.now)
	if v != pays && !c.now.settled {
		c.now = level{n: c.now.n, last: c.now.last, settled: true}
		return unsure
	}
	return v
}

// raise doubles the sessions, or finds that the last doubling did not pay.
func (c *Control) raise(now time.Time) {
	v := c.judge()
	switch v {
	case unsure:
	case pays:
		if c.ref.count >= flatSamples {
			c.flats = 0
		}
		c.ref = c.now
		c.set(now, c.twice(now), fmt.Sprintf("%d sessions: %.3g ms a transaction, doubling", c.ref.n, 1000*c.ref.mean()))
	default:
		c.toFlat(now, v == useless)
	}
}

// twice is the next step of growth: where refusals are punished, not past what
// was held before.
func (c *Control) twice(now time.Time) int {
	if c.door.wary(now) {
		return min(2*c.want, c.door.regain)
	}
	return 2 * c.want
}

// mayProbe looks at what the sessions won by probes brought, once they are half
// as many again as when that was last known.
func (c *Control) mayProbe(now time.Time) bool {
	if c.streak == 0 || c.ref.n == 0 {
		if c.now.enough() {
			c.ref = c.now
		}
		return true
	}
	if 2*c.want < 3*c.ref.n {
		return true
	}
	if !c.now.enough() {
		return false
	}
	switch v := c.judge(); v {
	case unsure:
		return false
	case pays:
		c.ref = c.now
		return true
	default:
		c.toFlat(now, v == useless)
		return false
	}
}

// toFlat ends a growth that brings too little, at the sessions that are worth it.
func (c *Control) toFlat(now time.Time, useless bool) {
	was, mean := c.ref, c.now.mean()
	c.phase, c.began, c.streak = flat, now, 0
	c.flatFor = 0
	if c.flats++; c.flats > 1 {
		c.flatFor = min(flatMin<<min(c.flats-2, 8), flatMax)
	}
	to := c.want
	if useless {
		to = was.n
	}
	c.set(now, to, fmt.Sprintf("%d sessions bring little more than %d: a transaction takes %.3g ms, was %.3g ms",
		c.want, was.n, 1000*mean, 1000*was.mean()))
	c.restart()
}

// mayBegin is when the next probe may begin: not before the last refusal is seen to
// have had no consequences, unless nothing shows that for long, nor before a
// receiver that punishes refusals will have forgotten them.
func (c *Control) mayBegin(now time.Time) time.Time {
	if c.door.wary(now) {
		return c.door.climb
	}
	if at := c.door.cut.Add(probeGapMax); !c.door.proved && !c.door.cut.IsZero() && at.After(c.probeAt) {
		return at
	}
	return c.probeAt
}

// faster says, in the flat phase, whether transactions have become much shorter
// than they were at its start, batch by batch.
func (c *Control) faster() bool {
	if c.now.count < float64(max(flatSamples, 4*c.want)) {
		return false
	}
	if c.ref.n == 0 {
		c.ref = c.now
	}
	f := c.now.mean() < 0.6*c.ref.mean()
	c.now = level{n: c.want}
	return f
}

// endProbe goes back to what was held before, or to what is up if that is more.
func (c *Control) endProbe(now time.Time, cause string) {
	c.phase, c.streak = hold, 0
	least, most := probeGapMin, probeGapMax
	if c.host.messages >= hostLeast {
		least, most = hostGapMin, hostGapMax
	}
	gap := min(max(c.probeGap, least), most)
	c.probeAt = now.Add(gap)
	if c.still(now) { // else the host's connections may have been what was too many
		c.probeGap = min(2*gap, most)
	}
	c.set(now, max(c.base, c.load.Live), cause)
}

// decay lets go of sessions that nothing needs. What was learned about the
// limit goes with them; finding it again costs a few doublings.
func (c *Control) decay(now time.Time) {
	if c.load.Backlog > 0 {
		c.busy = now
		return
	}
	if now.Sub(c.busy) < decayEvery || c.want <= startSessions {
		return
	}
	c.busy = now
	c.phase, c.streak = grow, 0
	c.set(now, max(startSessions, c.want/2), "no backlog")
	c.restart()
}

// wake is the earliest time at which one of the timed rules may act.
func (c *Control) wake(now time.Time, clamped bool) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range c.clamps {
		sooner(c.clamps[i].Until)
	}
	if c.pace.value > 0 {
		sooner(c.pace.step)
	}
	if c.load.Backlog == 0 {
		if c.want > startSessions {
			sooner(c.busy.Add(decayEvery))
		}
		return at
	}
	c.door.wake(now, c.load, sooner)
	if clamped {
		return at
	}
	switch c.phase {
	case hold:
		if c.mayPay(now) {
			sooner(c.mayBegin(now))
			sooner(c.probeAt.Add(hostGapMax))
		}
	case probe:
		sooner(c.began.Add(probeFor))
	case flat:
		sooner(c.began.Add(c.flatFor))
	}
	return at
}

// smooth is an exponential mean over some sixteen samples.
func smooth(mean *float64, x float64) {
	if *mean == 0 {
		*mean = x
		return
	}
	*mean += (x - *mean) / 16
}
