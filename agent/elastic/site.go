package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// What a test costs and earns: one more slot, an earlier replacement, a faster pace. Each
// refusal costs 1.
const (
	earn   = 1.0 / 100 // an accepted message: refusals stay below one percent
	saved  = 2.0       // at most: two tests at a time
	owed   = -1.0      // at least: 200 messages until the next test
	gapMin = 4 * time.Second
	gapMax = 30 * time.Second // so that a lifted limit is found within a minute
	// hangTimes is how many times as long as others at its site a connect takes that hangs: where
	// these times are random, of a hundred one or two take that long.
	hangTimes = 4
	waryMin   = 5 * time.Minute // where refusals are punished: penalties are mostly forgotten by then
	waryMax   = 20 * time.Minute
	waryLong  = time.Hour
	testLong  = time.Minute // a round of probes that neither came up nor were refused is over
)

// startSessions are the slots wanted at a site about which nothing is known.
const startSessions = 2

// state is what a site is about.
type state uint8

const (
	growing state = iota // no refusal yet: doubling while it pays
	bounded              // at what was accepted, with a probe now and then
	plateau              // more sessions bring no more goodput
)

func (s state) String() string { return [...]string{"growing", "bounded", "plateau"}[s] }

// Site is the controller of one site and source address; the package comment tells what it
// does. Its methods must not be called at the same time.
type Site struct {
	limits  Limits
	free    int      // slots wanted when limits were set; counts while limits.MaxSessions is reached
	part    float64  // of limits.MaxRate that is this agent's; 0: all
	clamps  *clamps  // nil: none were ever put
	history []Change // the last historySize
	host    hostRoom

	slots.Count          // of its own slots
	addresses   []called // where it has, or lately had, slots

	want   int // slots: to be doubled, or what was accepted at most lately
	window int // connects that may be under way
	credit float64
	ends   [8]int64 // of the last sessions, Unix time in nanoseconds
	nends  uint32
	turn   uint32 // so that equal addresses take turns

	pace    slots.Pace     // of each address
	paced   slots.Bucket   // by the pace, of all addresses together
	bucket  slots.Bucket   // by a limit or a clamp
	fast    *slots.Address // that said too fast last
	fastRow uint32         // times in a row, no other did
	tooFast string         // the words

	state    state
	growth   growth
	late     late
	probe    probing
	refusals refusals

	now     level
	asked   time.Time // when a connect was last asked for
	latency float64
	connect float64
	next    time.Time
	reply   string
}

// NewSite returns the controller of a site about which nothing is known.
func NewSite(now time.Time, l Limits) *Site {
	l.MaxSessions = max(1, l.MaxSessions)
	s := &Site{limits: l, want: min(startSessions, l.MaxSessions), window: startSessions, credit: saved, probe: probing{gap: gapMin}}
	s.now = level{n: s.want}
	s.record(now, 0, "start")
	return s
}

// SetLimits changes the configured ceilings, as at a reload. What a lower one cuts off is wanted again
// when that ends, as a ceiling says nothing of what the receiver takes.
func (s *Site) SetLimits(now time.Time, l Limits) {
	l.MaxSessions = max(1, l.MaxSessions)
	if s.limits == l {
		return
	}
	s.free = s.unbound()
	s.limits = l
	rate := ""
	if l.MaxRate > 0 {
		rate = fmt.Sprintf(", max_message_rate %.3g/s", l.MaxRate)
	}
	s.set(now, s.free, fmt.Sprintf("max_sessions is %d%s: %s", l.MaxSessions, rate, l.Why))
}

// unbound is the slots that would be wanted without a ceiling.
func (s *Site) unbound() int {
	if s.want < s.limits.MaxSessions {
		return s.want
	}
	return max(s.want, s.free)
}

// set changes the number of slots wanted and begins a new measurement.
func (s *Site) set(now time.Time, n int, cause string) {
	from := s.want
	s.want = max(1, min(n, s.limits.MaxSessions))
	s.now, s.growth.proofs = level{n: s.want}, 0
	s.record(now, from, cause)
}

// run counts the time that the sessions had since the last call, before their number changes.
func (s *Site) run(now time.Time) {
	if !s.now.last.IsZero() {
		s.now.run(now, s.Live)
	}
}

// Hangs notes that a connect has been under way for slots.HangAfter, or longer: it hangs if it takes
// much longer than others of the site. It says whether the caller is to end it, and to tell that it
// was refused: hosts that take no more answer nobody, or first when another connection has ended,
// as a Postfix whose processes are all busy. So it is read where sessions are up.
func (s *Site) Hangs(x *slots.Slot, now time.Time) (refused bool) {
	others := s.connect
	if at := s.at(x.Address); at.live > 0 && x.Address.Accepted == 0 {
		others = max(others, float64(at.connect))
	}
	if now.Sub(x.Began).Seconds() < hangTimes*others {
		return false
	}
	x.Hangs()
	return x.Address.Live > 0
}

// CameUp notes that greeting and EHLO were answered.
func (s *Site) CameUp(x *slots.Slot, now time.Time) {
	s.run(now)
	if !s.refusals.atMail {
		s.met(now, x, true)
	}
	if x.Why == slots.Grow {
		s.growth.open--
	}
	s.pace.Run(now, s.active())
	at := s.at(x.Address)
	at.back(now, s)
	x.CameUp(now)
	at.live++
	if !s.refusals.atMail {
		s.letIn(x, now)
		s.window = min(s.window+1, s.limits.MaxSessions)
	}
	switch {
	case x.Why == slots.Probe:
		s.probe.sound = s.probe.sound && !s.endedWhile(x, now)
	case x.Full && s.probe.trial > 0:
		if s.probe.proofs++; s.probe.proofs >= proofsLeast {
			s.confirm(now)
		}
	}
	if d := now.Sub(x.Began).Seconds(); x.Address.Accepted > 0 {
		smooth(&s.connect, d)
	} else { // who joins a provider by the names of his hosts may greet late, and take nothing
		s.at(x.Address).connect = float32(d)
	}
}

// Accepted notes a transaction, begun at a time, of which the receiver took something.
func (s *Site) Accepted(x *slots.Slot, now, began time.Time) {
	s.at(x.Address).tie(now, s, ours)
	s.answered(x, now, began)
}

// Vain notes a transaction, begun at a time, of which the receiver took nothing, for reasons of
// the recipients or the content: the server worked.
func (s *Site) Vain(x *slots.Slot, now, began time.Time) {
	if at := s.at(x.Address); at.whose == unknown {
		at.tie(now, s, others)
	}
	s.answered(x, now, began)
}

func (s *Site) answered(x *slots.Slot, now, began time.Time) {
	s.run(now)
	d := max(now.Sub(began), 0).Seconds()
	s.credit = min(saved, s.credit+earn)
	smooth(&s.latency, d)
	s.now.add(d)
	at := s.at(x.Address)
	at.slowed = false
	if at.whose != others {
		s.pace.Accepted(now, began, s.active())
	}
	x.Address.Pace.Accepted(now, began, 1)
	if !x.Proven() {
		s.prove(x, now)
	}
}

// prove reads the first transaction of a session: the slot was accepted.
func (s *Site) prove(x *slots.Slot, now time.Time) {
	a := x.Address
	if s.refusals.atMail {
		s.met(now, x, true)
		s.window = min(s.window+1, s.limits.MaxSessions)
	}
	x.Prove()
	s.growth.proofs++
	s.letIn(x, now)
	if s.refusals.doubt { // a refusal had no consequences
		s.refusals.doubt, s.probe.at = false, earlier(s.probe.at, now.Add(s.probe.gap-gapMin+time.Second))
	}
	up := a.Live
	if s.refusals.atMail {
		up = a.Proven
	}
	if a.Accepted == 0 {
		smooth(&s.connect, float64(s.at(a).connect))
	}
	a.Accepted = max(a.Accepted, up+a.Lagging)
	a.Strikes, a.Opens = 0, time.Time{}
	if s.late.early == x {
		s.late.early = nil
	}
	if x.Why == slots.Probe {
		s.probe.open--
		// Places that are left to the host are not held for long, so that no replacement shows
		// that a slot won is one: then what is up, with the host's, must be more than what was
		// wanted, which shows it whatever has ended meanwhile.
		if x.Over && (s.host.kept == 0 || s.Live+s.Lagging+s.hostSurely(now) > s.want) && s.want < s.limits.MaxSessions {
			s.want++
			s.probe.trial++
			s.now = level{n: s.want}
		}
		if s.probe.open == 0 && s.probe.round == 0 {
			switch s.probe.proofs = 0; {
			case s.probe.refused && (s.probe.sound || s.host.kept > 0):
				s.probe.trial = 0
			case s.probe.refused:
			case s.probe.sound || s.probe.trial == 0 || s.host.kept > 0:
				s.confirm(now)
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Ended notes the end of a session that was up.
func (s *Site) Ended(x *slots.Slot, now time.Time) {
	s.run(now)
	s.leave(x, now)
	s.ends[s.nends%uint32(len(s.ends))] = now.UnixNano()
	s.nends++
	x.End(now, s.late.lag)
	s.late.ended(now, x.Address)
}

// leave takes a slot out of what it was for: it has ended, or did not come up, or will not be proven.
func (s *Site) leave(x *slots.Slot, now time.Time) {
	if x.Up() {
		s.pace.Run(now, s.active())
		at := s.at(x.Address)
		if at.live--; at.live == 0 && at.slowed {
			at.left = now.UnixNano()
		}
	}
	if x.Why == slots.Grow && !x.Up() {
		s.growth.open--
	}
	if s.late.early == x {
		s.late.early = nil
	}
	if x.Why == slots.Probe && !x.Proven() {
		s.probe.open--
	}
}

// Hasten has one more than was accepted tried now, if the limit is known: an address may answer
// again, and where all places are taken elsewhere, only such a probe would show it. It does not
// wait to see whether the last refusal had consequences.
func (s *Site) Hasten(now time.Time) {
	s.probe.at, s.refusals.doubt = earlier(s.probe.at, now), false
	s.credit = max(s.credit, 1)
}

// Surplus is how many sessions are up beyond what is wanted.
func (s *Site) Surplus(now time.Time) int {
	n := s.limits.MaxSessions
	if kept := s.keep(now); (kept > 0 || s.state == plateau && s.host.sends(now)) && s.probe.open == 0 && s.probe.round == 0 && s.probe.trial == 0 {
		n = min(n, s.want-kept)
	}
	if cl, ok := s.Clamped(now); ok && cl.Sessions >= 0 {
		n = min(n, cl.Sessions)
	}
	return s.Live - n
}

// Want is the slots wanted now.
func (s *Site) Want() int { return s.want }

// Shut says whether no connect begins before a time, as the receiver lets nobody in.
func (s *Site) Shut(until time.Time) bool { return until.Before(s.refusals.opens) }

// Next is when Open may say something else without new evidence; zero: never.
func (s *Site) Next() time.Time { return s.next }

// Latency is the time of a transaction, smoothed.
func (s *Site) Latency() time.Duration { return time.Duration(s.latency * float64(time.Second)) }

// String tells the state in a line.
func (s *Site) String() string {
	return fmt.Sprintf("%v: %d wanted, %d up, %d opening (window %d), %d lagging, %d waiting, %d vacant; lag %.2gs (from %.2gs); credit %.2f, streak %d, trial %d, row %d, pace %.3g, kept %d",
		s.state, s.want, s.Live, s.Opening, s.window, s.Lagging, s.Waiting, s.Vacant, s.late.lag.Seconds(), lags[s.late.from].Seconds(), s.credit, s.probe.streak, s.probe.trial, s.refusals.row, s.pace.Value, s.host.kept)
}

// smooth is an exponential mean over some sixteen samples.
func smooth(mean *float64, x float64) {
	if *mean == 0 {
		*mean = x
		return
	}
	*mean += (x - *mean) / 16
}
