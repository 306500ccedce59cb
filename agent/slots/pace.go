package slots

import "time"

// How the pace answers "too fast". A receiver with a bucket of a second's messages says
// it 1/e seconds after the pace has exceeded the rate by the part e, so a step is small and
// is left alone for some seconds.
const (
	paceCutTo   = 0.95             // of what was accepted
	paceCutGap  = 2 * time.Second  // between two cuts of a pace that is nearly right
	paceStep    = 5 * time.Second  // between two steps up
	paceGain    = 0.02             // of a step; doubles after careful ones
	paceCareful = 4                // steps: 0.95*1.02^4 is past the rate that was refused
	paceProof   = 20               // accepted before a step: a refusal of one in a hundred, where a few steps are between two
	paceSample  = 12               // answers that tell the share accepted
	paceFar     = 0.8              // share accepted, below which the pace is far off
	paceShut    = 1.0 / 30         // messages per second while all are refused
	paceLeast   = 1.0 / 300        // messages per second, the least: a raise takes paceProof of them
	paceIdle    = 4                // times what is accepted: a pace above that holds nothing back, and no answer speaks for a higher one
	paceTried   = 5                // accepted before a step where chance is taken to refuse
	paceBack    = 0.98             // of what was begun when a pace was refused: it has come back from the cut
	paceRate    = 3                // trials that failed, from which on half of the share that seemed to be chance is taken to be
	paceFew     = 200              // answers for each refused: the way up to a rate costs as many
	paceVain    = 2                // refused at paces below what was begun at the first cut: a higher one is tried; twice as many after each that was too high
	paceChance  = 4                // refused tell nothing of it; beside twice its share more are not chance
	paceWindow  = 200              // answers by which that is judged
	paceStart   = 1.0              // messages per second, when too few were accepted to measure
	meterWindow = 10 * time.Second // long enough for a rate of one message a second
)

// Pace is the rate that addresses accept, each of them, as far as they have told.
type Pace struct {
	Value float64 // messages per second at each address; 0: no limit is known
	Known float64 // what was accepted when it last refused only some, or before a restart; 0: too few to measure

	cut, step int64 // last lowered; next raised; Unix time in nanoseconds
	good, bad int32 // answers to what was begun since the cut
	proof     int32 // accepted since the last step
	clean     int32 // steps since the cut

	// Some receivers answer a share of the messages as if they were too fast, at whatever pace.
	chance  float64 // that share; 0: none is known
	from    float64 // messages per second begun at the first of the cuts in a row, none of which the pace came back from; 0: none
	refused int32   // messages in that row, the first cut apart
	of      int32   // answers, likewise
	trial   bool    // a higher pace is tried
	trials  int32   // of a higher pace, at which more were refused

	meter Meter
}

// Bucket spaces messages.
type Bucket struct {
	tokens float64
	filled time.Time
}

// Wait is how long it is until a message may begin at a rate; 0 has no limit.
func (b *Bucket) Wait(now time.Time, rate float64) time.Duration {
	if rate == 0 {
		*b = Bucket{filled: now}
		return 0
	}
	b.tokens = min(max(1, rate/10), b.tokens+now.Sub(b.filled).Seconds()*rate)
	b.filled = now
	if b.tokens >= 1 {
		return 0
	}
	return time.Duration((1-b.tokens)/rate*float64(time.Second)) + time.Microsecond
}

// Take takes a message's token; Wait was 0.
func (b *Bucket) Take() { b.tokens-- }

// Rate is what was accepted in the last seconds at an address, messages per second in which a
// session was up there or a gap was counted; of n addresses now.
func (p *Pace) Rate(now time.Time, n int) float64 {
	p.meter.Run(now, n)
	return p.meter.Rate()
}

// Run counts the time until now, in which so many addresses were there; to be called before
// their number changes.
func (p *Pace) Run(now time.Time, n int) { p.meter.Run(now, n) }

// Gap counts for an address, beside so many that were there, the time until now in which nothing was up at
// it, as it had ended its sessions for the rate. A gap longer than LagMax has other reasons and is not counted.
func (p *Pace) Gap(d time.Duration, n int) { p.meter.gap(d, n) }

// Accepted notes a message that was begun at a time, one of so many addresses, and
// raises the pace when that is due.
func (p *Pace) Accepted(now, began time.Time, n int) {
	p.meter.Run(now, n)
	p.meter.cur++
	if began.UnixNano() < p.cut {
		return
	}
	p.good++
	p.shed()
	if p.Value == 0 {
		return
	}
	p.proof++
	if now.UnixNano() < p.step {
		return
	}
	idle, guess := p.Value > paceIdle*p.meter.rate(time.Second), p.Known == 0
	switch {
	case idle && p.trial && p.proof >= paceProof && p.meter.rate(time.Second) < p.Known: // it brought nothing
		p.failed()
		p.Value = p.Known
		p.begin(now)
		return
	case idle && p.proof >= paceProof && (guess || p.trial || p.clean > paceCareful):
		*p = Pace{meter: p.meter, chance: p.chance, good: p.good, bad: p.bad}
		return
	case idle && (guess || p.trial):
		return
	case guess:
		p.Value, p.step = 2*p.Value, later(now, time.Second)
		return
	case p.trial:
		if p.proof >= paceTried {
			p.Value, p.proof, p.step = 2*p.Value, 0, later(now, paceCutGap)
		}
		return
	case p.Value < p.Known: // the way back from a time when all was refused
		p.Value, p.step = min(max(2*p.Value, p.Known/4), p.Known), later(now, time.Second)
		return
	}
	if p.proof < paceProof {
		return
	}
	p.clean++
	gain := paceGain
	if over := p.clean - paceCareful; over > 0 {
		gain = min(0.5, paceGain*float64(int(1)<<min(over, 6)))
	}
	p.Value *= 1 + gain
	p.proof, p.step = 0, later(now, paceStep)
}

// Trial is the share of messages that seem to be refused as too fast whatever the pace, from 0 to 0.2,
// while a higher one is tried for that; 0: none is.
func (p *Pace) Trial() float64 {
	if p.trial {
		return p.chance
	}
	return 0
}

// Forget leaves of a pace only what was accepted.
func (p *Pace) Forget() { *p = Pace{meter: p.meter} }

// TooFast notes a refusal of a message begun at a time, while so many addresses share what
// is sent, and says whether it lowered the pace.
func (p *Pace) TooFast(now, began time.Time, n int) bool {
	if began.UnixNano() < p.cut {
		return false
	}
	p.bad++
	p.meter.Run(now, n)
	p.shed()
	if p.chance > 0 && float64(p.bad) <= paceChance+2*p.chance*float64(p.good+p.bad) {
		return false
	}
	rate, share := p.meter.Rate(), float64(p.good)/float64(p.good+p.bad)
	was, guess := p.Value, p.Known == 0
	switch {
	case p.Value == 0 && p.bad == 1 && p.good >= paceProof: // by chance, maybe: of a rate that is exceeded more come at once
		return false
	case p.Value == 0:
		before := paceCutTo * p.Known
		p.Value = paceCutTo * rate
		if p.Known = p.Value; p.good < paceProof {
			p.Value, p.Known = max(p.Value, before, paceStart/float64(n)), 0
		}
	case p.trial:
		p.Value = min(max(paceCutTo*rate, p.Value/2), paceCutTo*p.Value)
		p.Known = p.Value
		p.failed()
		guess = true
	case p.good < 4 && p.bad >= 6: // not the rate is at fault, but a quota is used up
		p.Value = max(p.Value/2, paceShut)
	case p.good+p.bad >= paceSample && share < paceFar:
		p.Value *= paceCutTo * max(share, 0.25)
		p.Known = p.Value
	case p.good >= p.bad && later(now, -paceCutGap) >= p.cut:
		p.Value = min(max(paceCutTo*rate, p.Value/2), paceCutTo*p.Value)
		p.Known = p.Value
	default:
		return false
	}
	if !guess {
		p.judge(was, rate/max(share, 0.25))
	}
	p.Value = max(p.Value, paceLeast) // a few messages an hour never raised it again
	p.begin(now)
	return p.Value != was
}

// begin has a pace that was lowered judged by what is begun from now on.
func (p *Pace) begin(now time.Time) {
	p.cut, p.step = now.UnixNano(), later(now, paceStep)
	p.good, p.bad, p.proof, p.clean = 0, 0, 0, 0
}

// failed ends a trial of a higher pace: the rate is at fault.
func (p *Pace) failed() {
	p.trial, p.from = false, 0
	if p.trials++; p.trials < paceRate { // that there is chance, too, only more trials make believe
		p.chance = 0
	} else {
		p.chance /= 2
	}
}

// judge looks at a cut of a pace, beside so many messages per second that were begun: after others that it
// has not come back from, below what was begun at the first of them, nothing is refused for the rate. A
// higher pace shows which it is.
func (p *Pace) judge(was, begun float64) {
	if p.from == 0 || was >= paceBack*p.from {
		p.from, p.refused, p.of = min(was, begun), 0, 0 // a pace above that held nothing back
		return
	}
	p.refused += p.bad
	p.of += p.good + p.bad
	if p.of < paceFew*p.refused && p.refused < paceVain<<min(p.trials, 6) {
		return
	}
	if all := float64(p.refused) / float64(p.of); all <= 1-paceFar && all >= 1.0/paceFew {
		p.chance, p.trial = all, true
	}
	p.from = 0
}

// shed lets older answers count less, and chance that is no more be forgotten.
func (p *Pace) shed() {
	n := float64(p.good + p.bad)
	due := p.chance * n
	if p.chance > 0 && !p.trial && due >= 2*paceChance && float64(p.bad) < due/4 {
		p.chance = 0
	}
	if (p.chance > 0 || p.Value == 0) && n > paceWindow && (p.chance == 0 || due > 3*paceChance) {
		p.good, p.bad = p.good/2, p.bad/2
	}
}

// later is a time after another, in nanoseconds of Unix time.
func later(t time.Time, d time.Duration) int64 { return t.Add(d).UnixNano() }

// Meter measures the accepted messages of a second in which an address was there to take them,
// over about meterWindow. The zero value has seen none.
type Meter struct {
	at   int64         // up to when time is counted, Unix time in nanoseconds; 0: not yet
	wall time.Duration // of the current window, in which any address was there
	sum  time.Duration // over those addresses
	cur  int
	prev float64 // messages per second in the window before
}

// Few says that too few messages were seen to tell a rate.
func (m *Meter) Few() bool { return m.cur < 4 && m.prev == 0 }

// Run counts the time until now, in which so many addresses were there.
func (m *Meter) Run(now time.Time, n int) {
	d := time.Duration(now.UnixNano() - m.at)
	if m.at == 0 || d < 0 || d >= 2*meterWindow {
		*m = Meter{at: now.UnixNano()}
		return
	}
	m.at += int64(d)
	if n == 0 {
		return
	}
	m.wall += d
	m.sum += time.Duration(n) * d
	if m.wall >= meterWindow {
		m.prev = float64(m.cur) / m.sum.Seconds()
		m.wall, m.sum, m.cur = 0, 0, 0
	}
}

func (m *Meter) gap(d time.Duration, n int) {
	if d <= 0 || d > LagMax {
		return
	}
	m.sum += d
	if n == 0 {
		m.wall += d
	}
}

// Rate is the messages per second at an address until now.
func (m *Meter) Rate() float64 { return m.rate(100 * time.Millisecond) }

// rate is the same, where a first window counts as so long at least.
func (m *Meter) rate(least time.Duration) float64 {
	if m.prev == 0 { // the first window: what there is of it
		return float64(m.cur) / max(m.sum, least).Seconds()
	}
	share := float64(m.wall) / float64(meterWindow)
	if m.sum == 0 {
		return m.prev
	}
	return m.prev*(1-share) + share*float64(m.cur)/m.sum.Seconds()
}
