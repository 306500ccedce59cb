package slots

import "time"

// LagMax is the longest that a receiver is taken to free a slot late: what is
// still refused then is refused for another reason.
const LagMax = 6 * time.Second

// Why says what a connect is for, by which a refusal of it is read.
type Why uint8

// The purposes of a connect.
const (
	Grow    Why = iota // one more, where no limit is known
	Replace            // the place of a connection that has ended, its lag over
	Early              // the same before its lag is over, to learn whether less would do
	Probe              // one more than was accepted before
)

func (w Why) String() string {
	return [...]string{"growth", "replacement", "early replacement", "probe"}[w]
}

// Slot is a place among the connections that an address takes from us: from the
// start of a connect until the receiver has surely noticed the end. It belongs to one
// connect, is never used again, and stays in its row's memory for LagMax at most after
// the end, or after the next try is due if its replacement was refused.
type Slot struct {
	Address *Address
	Why     Why
	Began   time.Time // of the connect
	After   time.Time // when the connection ended whose place it takes, or its own Began where there was none; zero: it takes no place
	Ended   time.Time
	Over    bool // it is one more than the site wants
	Full    bool // with it, and those vacant, the site has all that it wants; no place waits
	Tries   int  // refused replacements of the connection before it
	Given   bool // its place was another source's, and no transaction was answered there since

	of    *Count // of the site
	ahead [2]int // slots up and connects under way, at the address and of the site, when it began; and those turned away until then
	phase phase
	hangs bool
	free  time.Time // when the receiver has surely noticed the end
	next  *Slot     // that ended later
}

type phase uint8

const (
	unused  phase = iota
	opening       // the connect is under way
	up            // greeting and EHLO were answered
	proven        // and a transaction, too: some let a session in and refuse its first MAIL
	over
)

// Up says whether the connection is up.
func (s *Slot) Up() bool { return s.phase == up || s.phase == proven }

// Proven says whether a transaction was answered.
func (s *Slot) Proven() bool { return s.phase == proven }

// Waited is how long after the end of the connection before it a replacement began.
func (s *Slot) Waited() time.Duration { return s.Began.Sub(s.After) }

// Count is a number of slots by phase, of an address or of a site.
type Count struct {
	Opening int
	Hanging int // of these, for so long that they seem to hang
	Live    int // up, proven or not
	Proven  int // of these
	Lagging int // ended, but maybe not noticed
	Waiting int // ended, and refused to the replacement, which is to be tried again later
	Vacant  int // ended lately and not replaced
	turned  int // connects that came to nothing, ever
}

// Held is the number of slots that the receiver may count.
func (c *Count) Held() int { return c.Opening + c.Live + c.Lagging }

// ended are an address's slots that have ended and are not yet replaced, by when they are
// free: first the vacant, then those that lag or wait.
type ended struct {
	first, last *Slot
	late        *Slot // the first that lags or waits
}

// Look lets go of slots that have become free.
func (a *Address) Look(now time.Time) {
	for a.late != nil && !a.late.free.After(now) {
		a.unlag()
	}
	for a.first != a.late && now.Sub(a.first.vacantSince()) > LagMax {
		a.pop()
	}
}

func (a *Address) unlag() {
	a.late.notFree(-1)
	a.late.vacant(1)
	a.late = a.late.next
}

// vacantSince is when the connection ended, or when the place may be tried again.
func (s *Slot) vacantSince() time.Time {
	if s.Tries > 0 {
		return s.free
	}
	return s.Ended
}

// notFree counts a slot that is lagging, or waiting.
func (s *Slot) notFree(n int) {
	if s.Tries > 0 {
		s.Address.Waiting += n
		s.of.Waiting += n
	} else {
		s.Address.Lagging += n
		s.of.Lagging += n
	}
}

func (s *Slot) vacant(n int) {
	s.Address.Vacant += n
	s.of.Vacant += n
}

// Relag applies a lag, now that it is known, to slots of the site that have ended.
func (a *Address) Relag(of *Count, lag time.Duration, now time.Time) {
	s := a.first
	late := a.late
	a.ended = ended{}
	for vacant := true; s != nil; {
		next := s.next
		if vacant = vacant && s != late; vacant {
			s.vacant(-1)
		} else {
			s.notFree(-1)
		}
		if s.of == of {
			if free := s.Ended.Add(lag); s.Tries == 0 || free.After(s.free) {
				s.free = free
			}
		}
		a.add(s, now)
		s = next
	}
}

// add puts a slot that has ended among the others, by when they are free.
func (a *Address) add(s *Slot, now time.Time) {
	a.Look(now)
	p := &a.first
	if a.last != nil && !a.last.free.After(s.free) {
		p = &a.last.next
	}
	for *p != nil && !(*p).free.After(s.free) {
		p = &(*p).next
	}
	s.next = *p
	*p = s
	if s.next == nil {
		a.last = s
	}
	if !s.free.After(now) {
		s.vacant(1)
		return
	}
	if a.late == s.next {
		a.late = s
	}
	s.notFree(1)
}

// pop takes the slot that was free first, or will be.
func (a *Address) pop() *Slot {
	s := a.first
	if a.late == s {
		a.unlag()
	}
	s.vacant(-1)
	if a.first = s.next; a.first == nil {
		a.last = nil
	}
	s.next = nil
	return s
}

// remove takes out a slot that has ended, wherever it is.
func (a *Address) remove(s *Slot) {
	var before *Slot
	free := true
	for x := a.first; x != nil; before, x = x, x.next {
		if free = free && x != a.late; x != s {
			continue
		}
		if free {
			s.vacant(-1)
		} else {
			s.notFree(-1)
		}
		if a.late == s {
			a.late = s.next
		}
		if a.last == s {
			a.last = before
		}
		if before == nil {
			a.first = s.next
		} else {
			before.next = s.next
		}
		s.next = nil
		return
	}
}

// Pass gives the place of a connection that has ended, and was not replaced, to a site at another
// source's address of the same host, where it is free when it would have been here.
func (s *Slot) Pass(to *Address, of *Count, now time.Time) {
	a := s.Address
	if a.remove(s); a.Limited && a.Accepted > 1 {
		a.Accepted--
	}
	to.Accepted = max(to.Accepted, to.Held()+to.Waiting+to.Vacant+1)
	to.add(&Slot{Address: to, Why: s.Why, Ended: s.Ended, Given: true, of: of, phase: over, free: s.free}, now)
}

// Drop lets go of the slot that has been vacant longest: somebody else has it.
func (a *Address) Drop() { a.pop() }

// Since is when the slot ended that has been vacant longest.
func (a *Address) Since() time.Time { return a.first.Ended }

// Tries is how many replacements were refused of the place that is vacant longest; 0 if none is.
func (a *Address) Tries() int {
	if a.Vacant == 0 {
		return 0
	}
	return a.first.Tries
}

// Oldest is when the slot ended that is the next to be free of those lagging, and when it is;
// zero if there is none, or if its replacement was refused before.
func (a *Address) Oldest(now time.Time) (ended, free time.Time) {
	a.Look(now)
	switch {
	case a.late == nil:
		return ended, free
	case a.late.Tries > 0:
		return ended, a.late.free
	}
	return a.late.Ended, a.late.free
}

// Begin notes the start of a connect for a site.
func (a *Address) Begin(s *Slot, of *Count, why Why, now time.Time) {
	*s = Slot{Address: a, Why: why, Began: now, of: of, phase: opening}
	for i, c := range [...]*Count{&a.Count, of} {
		s.ahead[i] = c.Live + c.Opening + c.turned
	}
	if a.Look(now); a.Vacant > 0 && why != Probe || a.late != nil && why == Early {
		was := a.pop()
		s.After, s.Tries, s.Given = was.Ended, was.Tries, was.Given
	} else if why == Replace { // after an idle time, say: refused, it waits as one that has just ended
		s.After = now
	}
	a.Opening++
	of.Opening++
	if a.Opening == 1 {
		a.news = now
	}
	a.trying = a.failing != nil
}

// Met is how many slots, at the address and of the site, were up when the connect began or
// have come up since of those that were under way then.
func (s *Slot) Met() (atAddress, atSite int) {
	return s.ahead[0] - s.Address.turned, s.ahead[1] - s.of.turned
}

// Beside is how many other slots, at the address and of the site, are up or under way.
func (s *Slot) Beside() (atAddress, atSite int) {
	return s.Address.Live + s.Address.Opening - 1, s.of.Live + s.of.Opening - 1
}

// Hangs notes that the connect has been under way for long.
func (s *Slot) Hangs() {
	if s.phase == opening && !s.hangs {
		s.hangs = true
		s.Address.Hanging++
		s.of.Hanging++
	}
}

// CameUp notes that greeting and EHLO were answered.
func (s *Slot) CameUp(now time.Time) {
	s.opened(now)
	s.phase = up
	s.Address.Pace.Run(now, min(s.Address.Live, 1))
	s.Address.Live++
	s.of.Live++
	s.Address.Answered()
}

func (s *Slot) opened(now time.Time) {
	a := s.Address
	a.Opening--
	s.of.Opening--
	a.news, a.trying = now, false
	if s.hangs {
		s.hangs = false
		a.Hanging--
		s.of.Hanging--
	}
}

// Prove notes that a transaction was answered, and that so many slots are accepted.
func (s *Slot) Prove() {
	s.phase, s.Given = proven, false
	s.Address.Proven++
	s.of.Proven++
}

// leave takes a slot out of the phase it is in.
func (s *Slot) leave(now time.Time) {
	switch s.phase {
	case opening:
		s.opened(now)
	case proven:
		s.Address.Proven--
		s.of.Proven--
		fallthrough
	case up:
		s.Address.Pace.Run(now, 1)
		s.Address.Live--
		s.of.Live--
	}
	s.phase = over
}

// End notes the end of a connection that was up; its slot is free after lag.
func (s *Slot) End(now time.Time, lag time.Duration) {
	s.leave(now)
	s.Ended, s.free, s.Tries = now, now.Add(lag), 0
	s.Address.add(s, now)
}

// Void notes the end of a connect that was refused or got no answer: it had no slot. The
// place it was to take is vacant again, or lags or waits until free.
func (s *Slot) Void(now, free time.Time) {
	s.leave(now)
	a := s.Address
	a.turned++
	s.of.turned++
	if s.After.IsZero() || now.Sub(s.After) > LagMax {
		return
	}
	s.Ended, s.free = s.After, free
	if !free.After(now) { // as it was, before those that ended later
		s.free = s.After
	}
	a.add(s, now)
}
