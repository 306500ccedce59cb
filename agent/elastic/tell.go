package elastic

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// Brief is what a listing of all sites tells of each. To make one costs no allocation.
type Brief struct {
	State    string // growing, bounded, plateau; punished, shut
	Limits   Limits
	Want     int // slots
	Held     int
	Hanging  int       // of these, connects that have had no answer for slots.HangAfter
	Lagging  int       // of these, ended and maybe not noticed
	Host     int       // places left to the host MTA
	Called   int       // addresses where it has, or lately had, slots
	Down     int       // of these, passed by while there are others: the last connect failed, or one hangs where none was let in before
	Back     time.Time // until when the first of those is passed by; zero: that is not known
	Failed   string    // how the last connect to one of them failed
	Uncalled int       // of the called, those that are passed by no more, but were not called since they were
	Refusing int       // of the called, where none is up and one was refused
	Reply    string    // the last refusal
	TooFast  string    // the last reply that said so
	Opens    time.Time // no connect before, anywhere
	Next     time.Time // one more than was accepted is not tried before; zero: no limit was found
}

// Brief returns the site as it is now, in brief.
func (s *Site) Brief(now time.Time) Brief {
	for _, a := range s.addresses { // no connect may have been asked for since its slots became free
		a.Look(now)
	}
	b := Brief{
		State: s.state.String(), Limits: Limits{s.limits.MaxSessions, s.maxRate(), s.limits.Why}, Want: s.want, Held: s.Held(), Hanging: s.Hanging, Lagging: s.Lagging,
		Host: s.host.kept, Called: len(s.addresses), Reply: s.reply, TooFast: s.tooFast, Opens: s.refusals.opens,
	}
	switch {
	case now.Before(s.refusals.opens) && s.refusals.shut > 0:
		b.State = "shut"
	case s.wary(now):
		b.State = "punished"
	}
	if s.state == bounded {
		b.Next = s.probe.at
	}
	var first time.Time // of the refusing addresses that may be called again
	for _, a := range s.addresses {
		switch {
		case a.Strikes > 0:
			if b.Refusing++; first.IsZero() || a.Opens.Before(first) {
				first = a.Opens
			}
		case a.Failing().Times > 0 && !a.Down(now):
			b.Uncalled++
		case down(a.Address, now):
			b.Down++
			if f := a.Failing(); f.Times > 0 && (b.Back.IsZero() || f.Until.Before(b.Back)) {
				b.Back, b.Failed = f.Until, f.Why
			}
		}
	}
	if b.Refusing == b.Called && b.Opens.Before(first) {
		b.Opens = first
	}
	return b
}

// down says whether an address is told to be down. One that let us in is not while a connect there
// hangs, as a greeting may take its time, but once it has failed.
func down(a *slots.Address, now time.Time) bool {
	return a.Down(now) && (a.Accepted == 0 || a.Failing().Times > 0)
}

// Bounded says whether one more than is wanted was refused.
func (b *Brief) Bounded() bool { return !b.Next.IsZero() }

// Snapshot is a site for a listing of its own: what is held at each address, and whose limit
// that is. Opens is that of the site as a whole, the addresses have theirs.
type Snapshot struct {
	Brief
	Up         int
	Opening    int
	Lag        float64 // seconds after its end that a slot is free
	Pace       float64 // messages per second at each address; 0: no limit is known
	Whose      string  // whose limit holds: "", "the site", "each address"
	Cause      string  // of the last change
	Punished   time.Time
	PerAddress []AddressSnapshot // those with sessions first, those that are down last
}

// AddressSnapshot is one address of a site.
type AddressSnapshot struct {
	Address  netip.AddrPort
	Up       int // sessions of the site
	Held     int
	Accepted int
	Limited  bool // one more was refused
	Pace     float64
	Opens    time.Time // no connect before
	Down     bool      // it is passed by now while there are others: its last connect failed, or one hangs where none was let in before
	Failing  slots.Failing
	Reply    string
}

func (a *AddressSnapshot) rank() int {
	switch {
	case a.Up > 0:
		return 0
	case a.Down:
		return 2
	}
	return 1
}

// LookAt returns an address as it is now.
func LookAt(a *slots.Address, now time.Time) AddressSnapshot {
	a.Look(now)
	failing := a.Failing()
	if failing.Times > 0 {
		failing.How = cmp.Or(failing.How, "no answer")
	}
	return AddressSnapshot{
		Address: a.Key.Host, Held: a.Held(), Accepted: a.Accepted, Limited: a.Limited,
		Pace: a.Pace.Value, Opens: a.Opens, Down: down(a, now), Failing: failing, Reply: a.Reply,
	}
}

// Snapshot returns the site as it is now.
func (s *Site) Snapshot(now time.Time) Snapshot {
	x := Snapshot{
		Brief: s.Brief(now), Up: s.Live, Opening: s.Opening, Lag: s.late.lag.Seconds(), Pace: s.pace.Value,
		Cause: s.history[len(s.history)-1].Cause, Punished: s.refusals.punish,
	}
	x.Opens = s.refusals.opens
	accepted := 0
	for _, a := range s.addresses {
		accepted += a.Room()
		here := LookAt(a.Address, now)
		here.Up = int(a.live)
		x.PerAddress = append(x.PerAddress, here)
	}
	slices.SortStableFunc(x.PerAddress, func(a, b AddressSnapshot) int { return cmp.Compare(a.rank(), b.rank()) })
	if s.state == bounded {
		if x.Whose = "the site"; accepted <= s.want {
			x.Whose = "each address"
		}
	}
	return x
}

// Target is what a Site wants now, as listings tell it.
type Target struct {
	Sessions int     // connections to have, established or being opened
	Pace     float64 // messages per second; 0: unlimited
	Slowed   bool    // the receiver asked for a pace, or a clamp sets it
	Cause    string  // one short line: the measurement or reply behind the last change
}

// Target is what the site wants, for listings.
func (s *Site) Target(now time.Time) Target {
	t := Target{Sessions: max(1, min(s.want, s.limits.MaxSessions)-s.host.kept), Cause: s.history[len(s.history)-1].Cause}
	each, all := s.pace.Value, 0.0
	for _, a := range s.addresses {
		if a.live == 0 || a.whose == others {
			continue
		}
		p := tighter(each, a.Pace.Value)
		if p == 0 {
			all = 0
			break
		}
		all += p
	}
	t.Slowed = all > 0
	t.Pace = tighter(all, s.maxRate())
	if cl, ok := s.Clamped(now); ok {
		if cl.Sessions >= 0 {
			t.Sessions = min(t.Sessions, cl.Sessions)
		}
		t.Pace, t.Cause = tighter(t.Pace, cl.Pace), cl.Reason
		t.Slowed = t.Slowed || cl.Pace > 0 && cl.Pace == t.Pace
	}
	return t
}
