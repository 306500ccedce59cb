package elastic

import (
	"math"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// lagSteps is how many lags are thinkable: none, and from 19 ms to slots.LagMax in steps that
// grow from 34 ms to 0.19 s: a slot that is held for one of 0.5 s too long costs a receiver that
// ends its connections after a second a third of what it allows.
const lagSteps = 48

// certain is how many votes more than against another one show that there is a lag at all; where
// votes are against each, an eighth of those more.
const certain = 2

// chance is the share of the votes against the worst lag that are against the best one where
// refusals do not go by the slots held.
const chance = 1.0 / 3

// lags are the thinkable ones.
var lags = func() (l [lagSteps]time.Duration) {
	for i := range l[1:] {
		l[i+1] = time.Duration(float64(slots.LagMax) * math.Pow(float64(i+1)/(lagSteps-1), 1.5))
	}
	return l
}()

// step is the place of a lag among the thinkable ones.
func step(lag time.Duration) int {
	k, _ := slices.BinarySearch(lags[:], lag)
	return min(k, lagSteps-1)
}

// fade is the half-life of a vote.
const fade = 2 * time.Minute

// held is how many slots a connect met when it arrived, for each thinkable lag: those of
// sessions that were up, and of those that had ended less than the lag before.
type held [lagSteps]uint16

// scope is what connects met at one address, or at all of the site's.
type scope struct {
	refused, letIn held // the last of each
	any            [2]bool
}

// votes tell how late the receiver frees slots, by what connects met. Who was refused met
// more slots than who was let in, if both are counted with the right lag: with one that is
// too short not all are counted when many have just ended, with one that is too long too
// many. So each pair of a refusal and an acceptance, one after the other, speaks against the
// lags with which it is the wrong way round, and the lag is that against which least is
// spoken. Nothing has to be known of the limit, and connects that meet a receiver with room
// tell nothing wrong. Whether the limit is each address's or the site's is told in the same
// way. They take some 600 octets, and 250 for each address, of which there are 128 at most.
type votes struct {
	all     scope                     // all addresses together
	each    map[*slots.Address]*scope // those by themselves
	faded   time.Time
	against [2][lagSteps]float32 // if the limit is each address's, and the site's
}

// end is the end of a session.
type end struct {
	at int64 // Unix time in nanoseconds
	of *slots.Address
}

const (
	// mostEnds bounds the ends of sessions that are looked at for each connect.
	mostEnds = 512
	// endLong is how long the end of a session is kept: for connects that were under way at
	// most so long. An end takes 16 octets, and the most that are kept 10 KB.
	endLong = time.Minute
	// faded is after how long without a vote there are none worth keeping: five half-lives.
	faded = 5 * fade
)

// ended notes the end of a session.
func (l *late) ended(now time.Time, a *slots.Address) {
	if len(l.ends) == cap(l.ends) {
		l.shed(now)
	}
	l.ends = append(l.ends, end{now.UnixNano(), a})
}

// shed lets go of ends that are of no use any more, and sees that there is room for about
// as many again as are left, but not for many more.
func (l *late) shed(now time.Time) {
	from, to := now.Add(-endLong).UnixNano(), now.UnixNano()
	l.ends = slices.DeleteFunc(l.ends, func(e end) bool { return e.at < from || e.at > to }) // the clock may have stepped back
	l.ends = slices.Delete(l.ends, 0, max(0, len(l.ends)-mostEnds))
	room := min(max(4, 2*len(l.ends)), mostEnds+mostEnds/4)
	if n := cap(l.ends); n < room || n > 2*room {
		l.ends = append(make([]end, 0, room), l.ends...)
	}
}

// rest frees what is of no use any more. The lag that was found is kept, and counts as
// remembered when there is something to compare again.
func (l *late) rest(now time.Time) {
	if len(l.ends) > 0 {
		l.shed(now)
	}
	if len(l.ends) == 0 {
		l.ends = nil
	}
	l.forget(now)
}

// forget drops votes that have faded.
func (l *late) forget(now time.Time) {
	if l.votes != nil && now.Sub(l.votes.faded) >= faded {
		l.votes = nil
	}
}

// meet takes in what a connect met that has just been answered. Before the first refusal
// there is nothing to compare it with, and most sites never refuse one.
func (l *late) meet(now time.Time, x *slots.Slot, letIn bool) {
	if l.forget(now); l.votes == nil {
		if letIn && l.lag == 0 {
			return
		}
		l.votes = remembered(now, l.lag)
	}
	if now.Sub(x.Began) <= endLong {
		l.votes.meet(now, x, l.ends, letIn)
	}
}

func (l *votes) meet(now time.Time, x *slots.Slot, ends []end, letIn bool) {
	here := l.each[x.Address]
	if here == nil {
		if len(l.each) >= 2*mostAddresses {
			clear(l.each)
		}
		here = &scope{}
		l.each[x.Address] = here
	}
	began, there := x.Began.UnixNano(), x.Began.UnixNano() // in doubt a refusal met a session that has ended meanwhile
	if letIn {
		there = x.Began.Add(now.Sub(x.Began) / 2).UnixNano()
	}
	var n, all held
	atAddress, atAll := x.Met()
	k := 0 // the shortest lag with which the slot was held
	for _, e := range slices.Backward(ends[max(0, len(ends)-mostEnds):]) {
		if e.at > there {
			continue
		}
		ago := time.Duration(there - e.at)
		if ago > slots.LagMax {
			break
		}
		for k < lagSteps && lags[k] <= ago {
			k++
		}
		if k < lagSteps {
			all[k]++
		}
		if e.at > began { // it was up then
			atAll--
		}
		if e.of != x.Address {
			continue
		}
		if k < lagSteps {
			n[k]++
		}
		if e.at > began {
			atAddress--
		}
	}
	if !letIn { // who began later may have come first
		besideHere, beside := x.Beside()
		atAddress, atAll = max(atAddress, besideHere), max(atAll, beside)
	}
	n[0] += uint16(max(0, atAddress))
	all[0] += uint16(max(0, atAll))
	for k := 1; k < lagSteps; k++ {
		n[k] += n[k-1]
		all[k] += all[k-1]
	}
	left := float32(math.Exp2(-now.Sub(l.faded).Seconds() / fade.Seconds()))
	for i := range l.against {
		for k := range l.against[i] {
			l.against[i][k] *= left
		}
	}
	l.faded = now
	here.compare(&n, &l.against[0], letIn)
	l.all.compare(&all, &l.against[1], letIn)
}

// compare votes against the lags with which what was met does not fit the last answer of the
// other kind.
func (s *scope) compare(n *held, against *[lagSteps]float32, letIn bool) {
	for k := range n {
		if letIn && s.any[0] && n[k] >= s.refused[k] || !letIn && s.any[1] && s.letIn[k] >= n[k] {
			against[k]++
		}
	}
	if letIn {
		s.letIn, s.any[1] = *n, true
	} else {
		s.refused, s.any[0] = *n, true
	}
}

// least are the shortest and the longest of the lags against which least is spoken. Sessions that
// end together make a lag look like that and one of their cycles more: of lags against which about
// as little is spoken, and much against those between them, the shortest count.
func (l *votes) least() (from, to uint8) {
	if l == nil {
		return 0, 0
	}
	least := float32(math.Inf(1))
	for i := range l.against {
		against := &l.against[i]
		at := lowest(against)
		if against[at] >= least {
			continue
		}
		least = against[at]
		for k, ridge := at, float32(0); k >= 0; k-- {
			ridge = max(ridge, against[k])
			switch {
			case against[k] > least+least/8:
			case ridge > 2*least+certain: // between it and the last there are some with much against them
				at, ridge = k, 0
			case against[k] < against[at]:
				at = k
			}
		}
		if from = uint8(at); against[0] < least+certain+least/8 {
			from = 0
		}
		for to = uint8(at); to+1 < lagSteps && against[to+1] < against[at]+0.5; {
			to++
		}
	}
	return from, to
}

// most is the longest lag that is not ruled out, as clearly more is spoken against it than
// against another. Where much is spoken against each, none is ruled out: refusals go by chance
// there, or by what others hold, and not by the slots that connects met.
func (l *votes) most() time.Duration {
	if l == nil {
		return slots.LagMax
	}
	var against [lagSteps]float32
	for k := range against {
		against[k] = min(l.against[0][k], l.against[1][k])
	}
	least, highest := slices.Min(against[:]), slices.Max(against[:])
	if least > certain && least > chance*highest {
		return slots.LagMax
	}
	k := lagSteps - 1
	for against[k] >= least+certain {
		k--
	}
	return lags[k]
}

// lowest is the first of the least.
func lowest(x *[lagSteps]float32) (at int) {
	for k := range x {
		if x[k] < x[at] {
			at = k
		}
	}
	return at
}

// remembered are votes for a lag that was found before; none if there was none.
func remembered(now time.Time, lag time.Duration) *votes {
	v := &votes{each: make(map[*slots.Address]*scope), faded: now}
	if lag == 0 {
		return v
	}
	k := step(lag)
	for i := range v.against {
		for j := range v.against[i] {
			if j != k {
				v.against[i][j] = 2 * certain // so that they are enough for a half-life
			}
		}
	}
	return v
}
