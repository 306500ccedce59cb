package elastic

import (
	"fmt"
	"time"
)

// How long a site stays on a plateau: twice as long each time, as long as none pays.
const (
	flatMin = 20 * time.Second
	flatMax = 10 * time.Minute
)

// growth is the doubling while it pays, until the first refusal.
type growth struct {
	open    int       // connects under way that are for it
	proofs  int       // sessions proven since the slots wanted last changed
	ref     level     // what was measured with fewer sessions
	flatAt  time.Time // when more sessions were seen to bring nothing
	flatFor time.Duration
	less    int // with so many goodput was about the same, when it was seen
}

// grow doubles the slots wanted while that pays.
func (s *Site) grow(now time.Time, list []Candidate) {
	// Sessions that end with their first message are proven no longer when others come up.
	up := s.Held()-s.Hanging >= s.want-s.want/8 && max(s.Proven, s.growth.proofs) >= (s.Live+1)/2
	if s.now.last.IsZero() && up {
		s.now.last = now
	}
	switch s.state {
	case growing:
		if !up || !s.now.enough() || s.want >= s.limits.MaxSessions || s.enough(len(list)) {
			return
		}
		v := pays
		if s.pace.Value == 0 { // else sessions wait, and their time tells nothing
			v = compare(&s.growth.ref, &s.now)
		}
		if v != pays && !s.now.settled {
			s.now = level{n: s.now.n, last: s.now.last, settled: true}
			v = unsure
		}
		switch v {
		case unsure:
		case pays:
			s.growth.ref = s.now
			s.set(now, 2*s.want, fmt.Sprintf("%d sessions: %.3g s of session time a transaction, idle time included; doubling", s.growth.ref.n, s.growth.ref.mean()))
		default:
			s.state, s.growth.flatAt = plateau, now
			s.growth.flatFor = min(max(2*s.growth.flatFor, flatMin), flatMax)
			s.growth.less = s.growth.ref.n
			to := s.want
			if v == useless {
				to = s.growth.less
			}
			s.set(now, to, fmt.Sprintf("%d sessions bring little more than %d: a transaction takes %.3g ms, was %.3g ms", s.want, s.growth.ref.n, 1000*s.now.mean(), 1000*s.growth.ref.mean()))
			s.growth.ref = level{}
		}
	case plateau:
		if end := s.growth.flatAt.Add(s.growth.flatFor); now.Before(end) {
			s.sooner(now, end)
		} else {
			s.state = growing
			s.set(now, s.want, "trying again whether more sessions help")
		}
	}
}
