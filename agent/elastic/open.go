package elastic

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// mostAddresses is how many addresses a site remembers, more only while they hold slots.
const mostAddresses = 64

// Candidate is an address that a connect may go to. Those of a higher tier are for when
// all of the lower ones are down: worse MX preferences, and the later protocols of a host.
type Candidate struct {
	*slots.Address
	Tier int
}

// Open begins a connect on a slot if one is wanted now, and says to which address. When
// it is not, Next is when to ask again.
func (s *Site) Open(now time.Time, x *slots.Slot, list []Candidate) (*slots.Address, bool) {
	a, why := s.wanted(now, list)
	if a == nil {
		return nil, false
	}
	s.begin(now, x, a, why)
	return a, true
}

// Wants says whether Open would begin a connect now.
func (s *Site) Wants(now time.Time, list []Candidate) bool {
	a, _ := s.wanted(now, list)
	return a != nil
}

// wanted is to which address a connect is wanted now, and what for; nil if none is.
func (s *Site) wanted(now time.Time, list []Candidate) (*slots.Address, slots.Why) {
	s.run(now)
	s.awake(now)
	s.next = time.Time{}
	most := s.limits.MaxSessions
	if cl, ok := s.Clamped(now); ok && cl.Sessions >= 0 {
		most = min(most, cl.Sessions)
		s.sooner(now, cl.Until)
	}
	s.look(now)
	s.grow(now, list)
	if s.Held() >= most {
		return nil, 0
	}
	if now.Before(s.refusals.opens) {
		s.sooner(now, s.refusals.opens)
		return nil, 0
	}
	under := s.under()
	window := s.window
	if s.refusals.row > 0 {
		window = 1 // the next shows whether any is free
	}
	if under >= window {
		return nil, 0
	}
	kept := s.keep(now)
	if s.Held()-s.Hanging+s.Waiting < s.want-kept-max(0, s.probe.open-s.Hanging) {
		if a := s.choose(now, list); a != nil {
			switch {
			case s.state != growing || s.Vacant > 0 || a.Held() < a.Accepted:
				return a, slots.Replace
			case s.growth.open-s.Hanging < max(2, s.Live/8): // each may turn out to be one too many
				return a, slots.Grow
			}
		}
	}
	if s.probe.open <= s.want/16+kept {
		if a := s.more(now, list); a != nil { // first, or early replacements that tell nothing would keep it from being tried
			return a, slots.Probe
		}
	}
	return s.replaceEarly(now, list), slots.Early
}

// under is how many connects are under way that do not seem to hang: until a message was
// accepted, where sessions are let in and refused then.
func (s *Site) under() int {
	if s.refusals.atMail {
		return s.Opening - s.Hanging + s.Live - s.Proven
	}
	return s.Opening - s.Hanging
}

func (s *Site) begin(now time.Time, x *slots.Slot, a *slots.Address, why slots.Why) {
	over := s.Held()+s.hostSurely(now) >= s.want
	full := s.state == bounded && s.Waiting == 0 && s.Held()+s.Vacant+1 >= min(s.want, s.room(now))
	switch why {
	case slots.Grow:
		s.growth.open++
	case slots.Early:
		s.late.early = x
	case slots.Probe:
		s.probe.round--
		s.probe.open++
		a.Probed = now
	}
	if s.state == growing && a.Vacant == 0 && s.Vacant > 0 { // it is in the stead of one that ended elsewhere
		s.drop()
	}
	a.Begin(x, &s.Count, why, now)
	x.Over, x.Full = over, full
	s.at(a)
}

// called is an address where a site has, or lately had, slots.
type called struct {
	*slots.Address
	paced *slots.Bucket // by the site's pace; nil without one: others' messages there have a pace of theirs
	live  int32         // the site's sessions that are up
	whose whose

	slowed bool  // too fast was its last answer
	left   int64 // and no session is up there since, Unix time in nanoseconds; 0: one is

	connect float32 // seconds that the last connect took which came up, as long as nothing was taken there
}

// at is what a site knows of an address.
func (s *Site) at(a *slots.Address) *called {
	for i := range s.addresses {
		if s.addresses[i].Address == a {
			return &s.addresses[i]
		}
	}
	if len(s.addresses) >= mostAddresses { // those that DNS no longer names
		s.addresses = slices.DeleteFunc(s.addresses, func(a called) bool { return a.Held()+a.Vacant+a.Waiting == 0 })
	}
	s.addresses = append(s.addresses, called{Address: a})
	return &s.addresses[len(s.addresses)-1]
}

func (s *Site) sooner(now, t time.Time) {
	if t.After(now) && (s.next.IsZero() || t.Before(s.next)) {
		s.next = t
	}
}

// look lets go of slots that have become free.
func (s *Site) look(now time.Time) {
	for _, a := range s.addresses {
		a.Look(now)
		if _, free := a.Oldest(now); !free.IsZero() {
			s.sooner(now, free)
		}
		if a.Room() > a.Held() {
			s.sooner(now, a.Opens)
		}
	}
	if s.state == bounded {
		for s.Vacant > 0 && s.Held()-s.probe.open+s.Vacant > s.want {
			s.drop()
		}
	}
}

// drop lets go of the place that has been vacant longest: a probe has got it, or it was
// given up.
func (s *Site) drop() {
	var oldest *slots.Address
	for _, a := range s.addresses {
		if a.Vacant > 0 && (oldest == nil || a.Since().Before(oldest.Since())) {
			oldest = a.Address
		}
	}
	if oldest == nil { // those of another site are among them
		s.Vacant = 0
		return
	}
	oldest.Drop()
}

// noTier is the tier where no address answers.
const noTier = 1 << 30

// tier is the best of which an address answers.
func tier(now time.Time, list []Candidate) int {
	best := noTier
	for _, c := range list {
		if !c.Down(now) {
			best = min(best, c.Tier)
		}
	}
	return best
}

// usable says whether a connect may go to an address now.
func (s *Site) usable(now time.Time, a *slots.Address) bool {
	if a.Down(now) || now.Before(a.Opens) || a.Strikes > 0 && a.Opening > 0 {
		return false
	}
	// Sessions above one and a half times what its pace needs would only wait.
	need, paced := s.needs(a)
	return !paced || float64(a.Opening+a.Live) < 1+1.5*need
}

// needs is how many sessions the pace of an address keeps busy, if it has one.
func (s *Site) needs(a *slots.Address) (n float64, paced bool) {
	p := a.Pace.Value
	if s.pace.Value > 0 && s.at(a).whose != others {
		p = tighter(p, s.pace.Value)
	}
	return p * (s.latency + s.connect/10), p > 0
}

// sated says whether an address has the sessions that its pace needs, or soon has: one more where a
// slot still lags may be one too many.
func (s *Site) sated(a *slots.Address) bool {
	need, paced := s.needs(a)
	return paced && float64(a.Held()) >= need
}

// enough says whether the sessions suffice for the pace.
func (s *Site) enough(n int) bool {
	p := s.pace.Value * float64(max(1, s.active()))
	return p > 0 && s.want >= n && float64(s.want) >= 1+1.5*p*(s.latency+s.connect/10)
}

// choose finds the address of the best tier that has most room: of those with a place,
// the one where fewest slots are held.
func (s *Site) choose(now time.Time, list []Candidate) (best *slots.Address) {
	t := tier(now, list)
	s.turn++
	for i := range list {
		c := list[(i+int(s.turn))%len(list)]
		if c.Tier > t || !s.usable(now, c.Address) || c.Held()+c.Waiting >= c.Room() {
			continue
		}
		if best == nil || s.before(c.Address, best) {
			best = c.Address
		}
	}
	if best != nil || t < noTier || s.Opening > s.Hanging || s.Live > 0 {
		return best
	}
	for _, c := range list { // nothing answers: one that is off is tried before its time
		if !c.Busy() && !now.Before(c.Opens) && c.Held()-c.Hanging < c.Room() {
			return c.Address
		}
	}
	return nil
}

// before says whether a connect goes to a rather than to b: to where the pace wants more sessions,
// unless one that lets none in wants them; at a limit to where a place has become vacant, last to one that
// was refused in each try that is for a slot freed late, as the address may take none any more, which must
// keep no other from being tried; after a refusal to the place that has waited longest; else to where fewer
// slots are held.
func (s *Site) before(a, b *slots.Address) bool {
	switch x, y := s.sated(a), s.sated(b); {
	case x && !y && b.Strikes < 2:
		return false
	case y && !x && a.Strikes < 2:
		return true
	}
	if s.state == bounded {
		if x, y := a.Vacant > 0, b.Vacant > 0; x != y {
			return x
		}
		if x, y := a.Tries() >= lagTries, b.Tries() >= lagTries; x != y {
			return y
		}
		if s.refusals.row > 0 && a.Vacant > 0 { // as b's is
			return a.Since().Before(b.Since())
		}
	}
	return a.Held() < b.Held()
}

// Full says whether all the slots are held that the site wants: another connect would
// have to be in the stead of a session that is up.
func (s *Site) Full() bool { return s.Held()-s.Hanging >= s.want-s.host.kept }
