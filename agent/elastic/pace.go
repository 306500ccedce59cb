package elastic

import (
	"fmt"
	"time"
)

// How the pace answers the receiver's "too fast".
const (
	paceCutTo    = 0.9             // of the measured goodput
	paceCutEvery = 2 * time.Second // a few refusals lower it no sooner again
	paceStep     = 5 * time.Second // between two small steps up
	paceProof    = 10              // messages accepted at a pace before it is raised
	paceGain     = 0.02            // of each of the first steps
	paceGainMax  = 0.5             // of the steps after a long clean time
	paceCareful  = 7               // steps before they grow: 0.9*1.02^7 is past the rate that was refused
	paceStart    = 1.0             // messages per second, when too few were accepted to measure
	paceFloor    = 0.1             // messages per second, the least that Slow asks for
	paceShut     = 1.0 / 30        // messages per second while all are refused: so many tries find it open again
	paceRegain   = 4               // part of the known rate to go on with then
	paceDouble   = time.Second     // between two steps back to the known rate
	paceFew      = 4               // of those accepted and of those refused, to measure by
	paceSample   = 12              // of both together
	paceFar      = 0.8             // share accepted, below which the pace is far too fast
	paceMany     = 12              // refused since a cut that was not enough
	paceLeast    = 0.25            // share taken to be accepted where one host refuses, at least
	paceAll      = 6               // refused, with fewer than paceFew accepted, that mean all are
)

// pace is the rate limit that was found, if any. known is what the receiver
// accepted when it last refused only some: below it the way back is short. Where
// all is refused it is not the rate that is at fault (a quota is used up); a few
// tries a minute find the end of that, and we go on from a part of what is known.
type pace struct {
	value  float64   // messages per second; 0: none
	known  float64   // messages per second
	shut   bool      // everything was refused down to paceShut
	opened bool      // it is no longer, and known is not reached yet
	cut    time.Time // when it was last lowered
	step   time.Time // when it may next be raised
	clean  int       // steps up since the last cut
	good   int       // accepted since the last step or cut, of those begun after it
	bad    int       // refused, likewise since the cut
	seen   int       // accepted since the cut, begun after it

	// Since the first refusal after the cut:
	host   string // that refused
	mixed  bool   // others did, too
	there  int    // accepted there
	beside int    // accepted by others
}

// accepted counts a transaction, unless it was begun before the last cut.
func (p *pace) accepted(s *Signal) {
	if p.value == 0 || s.Began.Before(p.cut) {
		return
	}
	p.good++
	p.seen++
	switch {
	case p.bad == 0:
	case s.Host == p.host:
		p.there++
	default:
		p.beside++
	}
}

// refused counts one that was too fast, begun after the last cut.
func (p *pace) refused(s *Signal) {
	p.bad++
	if p.bad == 1 {
		p.host, p.mixed, p.there, p.beside = s.Host, false, 0, 0
	}
	p.mixed = p.mixed || s.Host != p.host
}

// share is how much of what was begun since the cut was accepted. Where one host of
// several is the narrow one it is its share that counts, since all get equal parts;
// but none if it accepts nothing, which no pace of ours will help.
func (p *pace) share() float64 {
	share := float64(p.seen) / float64(p.seen+p.bad)
	switch {
	case p.mixed || p.beside < paceFew:
		return share
	case p.there == 0:
		return 1
	}
	return min(share, max(paceLeast, float64(p.there)/float64(p.there+p.bad)))
}

// tooMuch says whether the last cut is seen not to have been enough, without waiting
// for paceCutEvery.
func (p *pace) tooMuch() bool {
	share := p.share()
	return share < paceFar || share < 1 && p.bad >= paceMany
}

// tooFast lowers the pace. A transaction begun before the last cut tells
// nothing about the pace that was set then.
func (c *Control) tooFast(now time.Time, s Signal) {
	p := &c.pace
	if s.Began.Before(p.cut) {
		return
	}
	p.refused(&s)
	rate := c.meter.Rate(now)
	was := p.value
	switch {
	case was == 0:
		p.find(paceCutTo * rate)
		if c.meter.Few() {
			p.find(max(p.value, paceStart))
		}
	case p.shut:
		return // it still is
	case p.seen >= paceFew && p.bad >= paceFew && p.seen+p.bad >= paceSample && p.tooMuch():
		// As when the first rate held what the receiver had let run up. What it
		// accepted of those begun since is a measure that does not lag.
		p.find(paceCutTo * was * p.share())
	case p.seen >= p.bad && now.Sub(p.cut) >= paceCutEvery:
		// The measured rate lags; never less than half in one go.
		p.find(min(max(paceCutTo*rate, was/2), paceCutTo*was))
	case p.seen < paceFew && p.bad >= paceAll:
		p.value = max(was/2, paceShut)
		p.shut = p.value == paceShut
		if p.opened { // the way back was too short
			p.known, p.opened = p.value, false
		}
	default:
		return
	}
	p.cut, p.step = now, now.Add(paceStep)
	p.clean, p.good, p.bad, p.seen = 0, 0, 0, 0
	c.record(now, c.want, fmt.Sprintf("too fast at %.3g messages/s accepted, pace now %.3g/s: %s", rate, p.value, said(s)))
}

// find sets the pace to a rate that was measured.
func (p *pace) find(rate float64) {
	p.value = max(rate, paceFloor)
	p.known, p.opened = p.value, false
}

// recover raises the pace in time: in small steps near the rate that was
// refused, in growing ones after that, and drops it when it binds no more.
func (c *Control) recover(now time.Time) {
	p := &c.pace
	if p.value == 0 || now.Before(p.step) {
		return
	}
	if p.shut || p.value < p.known {
		c.regain(now)
		return
	}
	p.step = now.Add(paceStep)
	if p.good < paceProof { // hardly used, so untested
		return
	}
	p.good = 0
	p.clean++
	gain := paceGain
	if over := p.clean - paceCareful; over > 0 {
		gain = min(paceGainMax, paceGain*float64(int(1)<<min(over, 8)))
	}
	p.value *= 1 + gain
	if rate := c.meter.Rate(now); p.clean > paceCareful && c.load.Backlog > 0 && p.value > 4*rate {
		p.value = 0
		c.restart()
		c.record(now, c.want, fmt.Sprintf("no pace needed at %.3g messages/s", rate))
	}
}

// regain leads back to the known rate.
func (c *Control) regain(now time.Time) {
	p := &c.pace
	p.step = now.Add(paceDouble)
	if p.good == 0 {
		return
	}
	if p.shut {
		p.shut, p.opened = false, true
		p.value = max(p.value, p.known/paceRegain)
		c.record(now, c.want, fmt.Sprintf("messages are accepted again, pace now %.3g/s", p.value))
	} else {
		p.value = min(2*p.value, p.known)
	}
	p.opened = p.opened && p.value < p.known
	p.good, p.bad, p.seen = 0, 0, 0
}
