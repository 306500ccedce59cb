package elastic

import "time"

// Brief is what a listing of all sites tells of each: a Snapshot without its addresses. To
// make one costs no allocation.
type Brief struct {
	State    string // as Snapshot has it
	Limits   Limits
	Want     int // slots
	Held     int
	Hanging  int // of these, connects that have had no answer for slots.HangAfter
	Lagging  int // of these, ended and maybe not noticed
	Host     int // places left to the host MTA
	Called   int // addresses where it has, or lately had, slots
	Down     int // of these, without an answer
	Refusing int // of these, where no replacement was let in last
	Reply    string
	TooFast  string    // the last reply that said so
	Opens    time.Time // no connect before, anywhere
	Next     time.Time // one more than was accepted is not tried before; zero: no limit was found
}

// Brief returns the site as it is now, in brief.
func (s *Site) Brief(now time.Time) Brief {
	b := Brief{
		State: s.state.String(), Limits: s.limits, Want: s.want, Held: s.Held(), Hanging: s.Hanging, Lagging: s.Lagging,
		Host: s.host.kept, Called: len(s.addresses), Reply: s.reply, Opens: s.refusals.opens,
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
	if s.fast != nil {
		b.TooFast = s.fast.Reply
	}
	var first time.Time // of the refusing addresses that may be called again
	for _, a := range s.addresses {
		switch {
		case a.Strikes > 0:
			if b.Refusing++; first.IsZero() || a.Opens.Before(first) {
				first = a.Opens
			}
		case a.Down(now):
			b.Down++
		}
	}
	if b.Refusing == b.Called && b.Opens.Before(first) {
		b.Opens = first
	}
	return b
}

// Bounded says whether one more than is wanted was refused.
func (b *Brief) Bounded() bool { return !b.Next.IsZero() }
