package elastic

import (
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// What a test costs and earns: one more slot, an earlier replacement, a faster pace. Each
// refusal costs 1.
const (
	earn     = 1.0 / 100 // an accepted message: refusals stay below one percent
	saved    = 2.0       // at most: two tests at a time
	owed     = -1.0      // at least: 200 messages until the next test
	gapMin   = 4 * time.Second
	gapMax   = 30 * time.Second // so that a lifted limit is found within a minute
	waryMin  = 5 * time.Minute  // where refusals are punished: penalties are mostly forgotten by then
	waryMax  = 20 * time.Minute
	waryLong = time.Hour
	testLong = time.Minute // a round of probes that neither came up nor were refused is over
)

// proofsLeast is how many replacements show that slots won by probes are not others'
// places: one in five or so would be refused.
const proofsLeast = 8

// state is what a site is about.
type state uint8

const (
	growing state = iota // no refusal yet: doubling while it pays
	bounded              // at what was accepted, with a probe now and then
	plateau              // more sessions bring no more goodput
)

func (s state) String() string { return [...]string{"growing", "bounded", "plateau"}[s] }

// Candidate is an address that a connect may go to. Those of a higher tier are for when
// all of the lower ones are down: worse MX preferences, and the later protocols of a host.
type Candidate struct {
	*slots.Address
	Tier int
}

// Site is the controller that is to take the place of Control. The queue does not use it
// yet; contrib/sim runs both against the same receivers.
//
// A Site decides for one site and source address: how many slots it may hold, at
// which address the next connect goes, and how fast its sessions may send.
//
// A slot is held at an address from the start of a connect until the receiver has
// surely noticed the end of the connection. A refusal is judged by the slots held then,
// never by how many sessions are up. A connect needs a place in both tables: the
// address's row (slots.Address), bounded by the greatest number of slots at which a
// connect was accepted there lately, once one more was refused; and the site, by the
// number wanted. Evenly filled hosts answer alike whether each has a limit or all have
// one together, so both are kept, and nothing depends on which it is.
//
// The order of calls, all under the caller's lock, with the time passed in:
//
//	a, ok := s.Open(now, &slot, candidates)   // with mail waiting; a says where to dial
//	s.Hangs(&slot)                            // after slots.HangAfter
//	s.CameUp | s.Refused | s.Failed           // exactly one of them ends the connect
//	wait := s.MayBegin(&slot, now)            // before each message; 0: it may
//	s.Accepted | s.TooFast | s.Refused        // after it; Refused ends the session, too
//	s.Ended(&slot, now)                       // however a session that was up ends
//	s.Surplus(now), s.Next()                  // sessions to retire; when to call Open again
//
// # States
//
// A site is growing until the first refusal: the slots wanted are doubled while that pays
// by goodput. Where it does not pay it is on a plateau for a while. After a refusal it is
// bounded at what is held, and tries more from time to time. What a test costs is a
// refusal; accepted messages earn that (credit).
//
// Four conditions qualify the bounded state. lag unsure: it is not known how late the
// receiver frees slots (late.sure). on trial: probes won slots that may be others'
// places (probe.trial). shut: no slot was free for slots.LagMax (refusals.shut). wary: nothing
// was let in though nothing was up, so refusals are punished (refusals.punish).
//
//	evidence               condition    meaning                action
//	growth is refused      growing      the limit              bounded at what is held; that address limited
//	  at an unmet address  growing      its own affair         it waits; the site grows on
//	probe is refused       -            still the limit        the wait until the next round doubles, 10 to 30 s
//	                       wary         -                      it doubles, 5 to 20 min
//	probe is proven        nothing ended on its way            one more wanted; the next round doubles at once
//	                       a session ended on its way          one more wanted, on trial
//	replacement accepted   on trial     8 of them: ours        as proven
//	                       lag unsure   its wait was enough    that is the lag (0 if none was refused before)
//	replacement refused    on trial     others' places         given back
//	                       -            one too many, or taken one place is given up
//	                       3 given up   slots are freed late?  lag unsure; what was given up is wanted again
//	                       lag unsure   not free yet           tried again after 0.2, 0.6, 1.4, 2.8 s
//	                       no free slot for 6 s: lowered, or a ban   shut: wait 15 s, then 1, 4, 15 min
//	                       shut, nothing up: punished          wary; a quarter of what is wanted is given up
//	a later message is     -            what is left fits      bounded at what is still held
//	  refused as one too many
//	anything is let in     shut         it is over             what was held is wanted again, less an eighth
//	early replacement      -            less of a wait does, or does not: the bounds of the lag close in
//	message too fast       -            the pace of all addresses, or after 4 in a row of that one, is lowered
//
// One connect at a time tries an address that gave no answer, or a site whose lag is
// unsure; the number under way (window) grows by one with each that comes up and halves
// with each refusal, and for growth it is an eighth of what is up.
//
// How many refusals there were is never kept as a limit; what is kept is what was accepted.
type Site struct {
	limits  Limits
	clamps  *clamps  // nil: none were ever put
	history []Change // the last siteHistory
	host    hostRoom

	slots.Count                  // of its own slots
	addresses   []*slots.Address // where it has, or lately had, slots

	state  state
	want   int // slots: to be doubled, or what was accepted at most lately
	window int // connects that may be under way
	credit float64
	turn   int      // so that equal addresses take turns
	ends   [8]int64 // of the last sessions, Unix time in nanoseconds
	nends  int

	pace    slots.Pace // of each address
	bucket  slots.Bucket
	fast    *slots.Address // that said too fast last
	fastRow int            // times in a row, no other did

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

func (s *Site) record(now time.Time, from int, cause string) {
	if len(s.history) == siteHistory {
		s.history = append(s.history[:0], s.history[1:]...)
	}
	s.history = append(s.history, Change{At: now, From: from, To: s.want, Pace: s.pace.Value, Cause: cause})
}

// set changes the number of slots wanted and begins a new measurement.
func (s *Site) set(now time.Time, n int, cause string) {
	from := s.want
	s.want = max(1, min(n, s.limits.MaxSessions))
	s.now = level{n: s.want}
	s.record(now, from, cause)
}

// run counts the time that the sessions had since the last call, before their number changes.
func (s *Site) run(now time.Time) {
	if !s.now.last.IsZero() {
		s.now.run(now, s.Live)
	}
}

// Hangs notes that a connect has been under way for slots.HangAfter.
func (s *Site) Hangs(x *slots.Slot) { x.Hangs() }

// CameUp notes that greeting and EHLO were answered.
func (s *Site) CameUp(x *slots.Slot, now time.Time) {
	s.run(now)
	x.CameUp(now)
	s.grown(x)
	if !s.refusals.atMail {
		s.letIn(now)
	}
	switch {
	case x.Why == slots.Probe:
		s.probe.sound = s.probe.sound && !s.endedWhile(x, now)
	case x.Full && s.probe.trial > 0:
		if s.probe.proofs++; s.probe.proofs >= proofsLeast {
			s.confirm(now)
		}
	}
	s.window = min(s.window+1, s.limits.MaxSessions)
	smooth(&s.connect, now.Sub(x.Began).Seconds())
}

// Accepted notes a transaction, begun at a time, that the receiver answered for itself
// (2xx, or a refusal of the recipient or the content: the server worked).
func (s *Site) Accepted(x *slots.Slot, now, began time.Time) {
	s.run(now)
	d := max(now.Sub(began), 0).Seconds()
	s.credit = min(saved, s.credit+earn)
	smooth(&s.latency, d)
	s.now.add(d)
	s.pace.Accepted(now, began, s.active())
	x.Address.Pace.Accepted(now, began, 1)
	if !x.Proven() {
		s.prove(x, now)
	}
}

// prove reads the first transaction of a session: the slot was accepted.
func (s *Site) prove(x *slots.Slot, now time.Time) {
	a := x.Address
	x.Prove()
	s.letIn(now)
	if s.refusals.doubt { // a refusal had no consequences
		s.refusals.doubt, s.probe.at = false, earlier(s.probe.at, now.Add(s.probe.gap-gapMin+time.Second))
	}
	up := a.Live
	if s.refusals.atMail {
		up = a.Proven
	}
	a.Accepted = max(a.Accepted, up+a.Lagging)
	if waited, ok := x.Waited(); ok {
		s.accepted(now, x, waited)
	}
	a.Strikes, a.Opens = 0, time.Time{}
	if s.late.early == x {
		s.late.early = nil
	}
	if x.Why == slots.Probe {
		s.probe.open--
		if x.Over && s.want < s.limits.MaxSessions {
			s.want++
			s.probe.trial++
			s.now = level{n: s.want}
		}
		if s.probe.open == 0 && s.probe.round == 0 {
			switch s.probe.proofs = 0; {
			case s.probe.refused && s.probe.sound:
				s.probe.trial = 0
			case s.probe.refused:
			case s.probe.sound || s.probe.trial == 0:
				s.confirm(now)
			case s.host.kept > 0: // not all are held then, so that replacements show nothing
				s.want, s.probe.trial, s.probe.streak, s.probe.at = s.want-s.probe.trial, 0, 0, now.Add(s.probe.gap)
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
	s.unprobe(x)
	s.ends[s.nends%len(s.ends)] = now.UnixNano()
	s.nends++
	x.End(now, s.late.lag)
}

// grown ends a connect.
func (s *Site) grown(x *slots.Slot) {
	if x.Why == slots.Grow {
		s.growth.open--
	}
}

// unprobe takes out a probe that will not be proven.
func (s *Site) unprobe(x *slots.Slot) {
	if s.late.early == x {
		s.late.early = nil
	}
	if x.Why == slots.Probe && !x.Proven() {
		s.probe.open--
	}
}

// Surplus is how many sessions are up beyond what is wanted.
func (s *Site) Surplus(now time.Time) int {
	n := s.limits.MaxSessions
	if kept := s.keep(now); kept > 0 && s.probe.open == 0 && s.probe.round == 0 && s.probe.trial == 0 {
		n = s.want - kept
	}
	if cl, ok := s.Clamped(now); ok && cl.Sessions >= 0 {
		n = min(n, cl.Sessions)
	}
	return s.Live - n
}

// Clamp puts a bound on the site from outside.
func (s *Site) Clamp(now time.Time, cl Clamp) {
	if !cl.Until.After(now) {
		return
	}
	if s.clamps == nil { // most sites never have one
		s.clamps = new(clamps)
	}
	s.clamps.put(now, cl)
	s.record(now, s.want, asCause(cl))
}

// Clamped is the bound that the clamps in force make together, and the reason and the
// end of the tightest one; false if there is none.
func (s *Site) Clamped(now time.Time) (Clamp, bool) {
	if s.clamps == nil {
		return Clamp{}, false
	}
	return s.clamps.tightest(now)
}

// Slow puts a bound of half the present rate on the site.
func (s *Site) Slow(now, until time.Time, reason string) {
	s.Clamp(now, Clamp{Sessions: -1, Pace: max(s.pace.Rate(now)/2, paceFloor), Until: until, Reason: reason})
}

// Want is the slots wanted now.
func (s *Site) Want() int { return s.want }

// Next is when Open may say something else without new evidence; zero: never.
func (s *Site) Next() time.Time { return s.next }

// History returns the last changes, oldest first.
func (s *Site) History() []Change { return slices.Clone(s.history) }

// String tells the state in a line.
func (s *Site) String() string {
	return fmt.Sprintf("%v: %d wanted, %d up, %d opening (window %d), %d lagging, %d vacant; lag %.2gs (sure %t, floor %.2gs); credit %.2f, streak %d, trial %d, row %d, pace %.3g, kept %d",
		s.state, s.want, s.Live, s.Opening, s.window, s.Lagging, s.Vacant, s.late.lag.Seconds(), s.late.sure, s.late.floor.Seconds(), s.credit, s.probe.streak, s.probe.trial, s.refusals.row, s.pace.Value, s.host.kept)
}
