package elastic

import (
	"math"
	"time"
)

// level is what was measured with a number of sessions since all of them were
// up: how much session time a transaction took. Durations alone would be biased,
// since the short transactions are the first to end; they only give the noise.
type level struct {
	n       int       // sessions
	last    time.Time // up to when exposure is counted; zero: not all were up yet
	busy    float64   // session seconds
	count   float64   // transactions
	sum, sq float64   // of their durations, in seconds
	settled bool      // what began before all were up is no longer in it
}

// levelWindow keeps a level that lasts for hours young: past it, the old
// samples lose half their weight.
const levelWindow = 1024

// leastGain is the logarithm of the goodput that makes more sessions worth keeping.
const leastGain = 0.05

// leastSamples is how many transactions tell anything about their spread.
const leastSamples = 8

// run counts the time that the sessions had since the last call.
func (l *level) run(now time.Time, live int) {
	l.busy += float64(live) * now.Sub(l.last).Seconds()
	l.last = now
}

func (l *level) add(d float64) {
	if l.last.IsZero() {
		return
	}
	l.count++
	l.sum += d
	l.sq += d * d
	if l.count >= max(levelWindow, float64(16*l.n)) {
		l.count /= 2
		l.busy /= 2
		l.sum /= 2
		l.sq /= 2
	}
}

// enough says whether there are samples enough to look at: one for each session.
func (l *level) enough() bool {
	least := l.n
	if l.n >= 4 {
		least = max(leastSamples, l.n)
	}
	return l.count >= float64(least)
}

// mean is the session time of a transaction, in seconds.
func (l *level) mean() float64 { return l.busy / l.count }

// variance is that of the mean's logarithm.
func (l *level) variance() float64 {
	m := l.sum / l.count
	return max(0, l.sq/l.count-m*m) / (m * m * l.count)
}

// verdict is what comparing two levels says.
type verdict uint8

const (
	unsure verdict = iota
	pays           // more sessions brought more goodput
	paysLittle
	useless
)

// compare judges going from sessions a.n to b.n by the elasticity of goodput,
// d ln(goodput) / d ln(sessions); goodput is sessions over the time of a
// transaction. More sessions pay from 0.5 on. Below that, noise is ruled out first
// (three standard errors), and it is made out whether they bring anything at all,
// with a bound on the time that this may take.
func compare(a, b *level) verdict {
	if b.n <= a.n || a.count < leastSamples || a.busy == 0 || b.busy == 0 {
		return pays
	}
	dn := math.Log(float64(b.n) / float64(a.n))
	dt := math.Log(b.mean() / a.mean())
	if dt <= 0.5*dn {
		return pays
	}
	se := math.Sqrt(a.variance() + b.variance())
	gain := dn - dt - leastGain
	if patient := b.count < float64(8*b.n); patient && (dt-3*se <= 0.5*dn || math.Abs(gain) < 2*se) {
		return unsure
	}
	if gain < 0 {
		return useless
	}
	return paysLittle
}
