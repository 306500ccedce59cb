package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// proofsLeast is how many replacements show that slots won by probes are not others'
// places: one in five or so would be refused.
const proofsLeast = 8

// probing is the search for more slots than were accepted before, in rounds.
type probing struct {
	open    int // probes under way
	round   int // that may yet be begun
	began   time.Time
	refused bool // one of the round was
	sound   bool // no session has ended whose place one of them may have got
	trial   int  // slots won, as long as neither that nor replacements show that they are ours
	proofs  int  // replacements accepted since
	streak  int  // rounds that came up, one after the other
	at      time.Time
	gap     time.Duration
}

// more finds where one more than was accepted is tried: where none was refused yet, and
// else where that is longest ago.
func (s *Site) more(now time.Time, list []Candidate) (best *slots.Address) {
	if s.state != bounded || s.Held()-s.Hanging < min(s.want-s.host.kept, s.room(now)) || s.Held() >= s.limits.MaxSessions {
		return nil
	}
	if s.suffices(now) {
		return nil
	}
	if s.probe.round > 0 && s.probe.open == 0 && now.Sub(s.probe.began) > testLong {
		s.probe.round = 0
	}
	if s.probe.round == 0 {
		if s.probe.open > 0 || s.probe.trial > 0 || s.late.early != nil || s.credit < 1 && !s.wary(now) {
			return nil
		}
		at := s.probe.at
		if s.host.kept > 0 && s.probe.streak == 0 && at.Before(s.probe.began.Add(hostGap)) {
			at = s.probe.began.Add(hostGap) // a probe takes the host's places for a moment
		}
		if at.Before(s.refusals.last.Add(gapMax)) && s.refusals.doubt {
			at = s.refusals.last.Add(gapMax) // nothing shows yet that the last one had no consequences
		}
		if now.Before(at) {
			s.sooner(now, at)
			return nil
		}
		s.probe.round, s.probe.began, s.probe.sound, s.probe.refused = s.host.kept+min(1<<min(s.probe.streak, 16), 1+s.want/4), now, true, false
	}
	t := tier(now, list)
	for _, c := range list {
		if c.Tier > t || !s.usable(now, c.Address) {
			continue
		}
		if best == nil || worse(best, c.Address) {
			best = c.Address
		}
	}
	return best
}

// suffices says whether what is held is enough for the rate that a limit or a clamp allows: one
// more would only wait.
func (s *Site) suffices(now time.Time) bool {
	rate := s.rate(now)
	return rate > 0 && float64(s.Held()) >= 1+1.5*rate*(s.latency+s.connect/10)
}

// room is how many slots could be held at the addresses that answer, beside those of other
// sites, as far as is known.
func (s *Site) room(now time.Time) (n int) {
	n = -s.others()
	for _, a := range s.addresses {
		if a.Strikes > 0 || a.Down(now) {
			n += a.Held()
		} else {
			n += a.Room()
		}
	}
	return n
}

// worse says whether b is a better place for a probe: first where none was refused yet, of those
// where fewer slots are held than were accepted; then where a probe is longest ago. Where one was
// refused nothing follows from what is held: slots that lagged may be counted as accepted there that
// the limit never had.
func worse(a, b *slots.Address) bool {
	rank := func(a *slots.Address) int {
		switch {
		case a.Limited:
			return 2
		case a.Held() < a.Accepted && a.Strikes == 0:
			return 0
		}
		return 1
	}
	x, y := rank(a), rank(b)
	switch {
	case x != y:
		return y < x
	case x < 2:
		return b.Held() < a.Held()
	}
	return b.Probed.Before(a.Probed)
}

// confirm ends a round of probes that brought more slots.
func (s *Site) confirm(now time.Time) {
	s.probe.trial, s.refusals.regained = 0, false
	s.probe.streak++
	s.credit = max(s.credit, 1)
	if s.probe.gap, s.probe.at = gapMin, now; s.wary(now) {
		s.probe.gap, s.probe.at = waryMin, now.Add(waryMin)
	}
	s.record(now, s.want, fmt.Sprintf("%d were accepted", s.want))
}

// endedWhile says whether a session ended while the connect was on its way to the receiver:
// then it may have got that one's place.
func (s *Site) endedWhile(x *slots.Slot, now time.Time) bool {
	there := x.Began.Add(now.Sub(x.Began) / 2).UnixNano()
	n := min(int(s.nends), len(s.ends))
	for _, at := range s.ends[:n] {
		if at >= x.Began.UnixNano() && at <= there {
			return true
		}
	}
	return n == len(s.ends) && s.ends[int(s.nends)%n] > there
}
