package warmup

import (
	"time"

	"github.com/millrace/millrace/agent/quotas"
)

// Share is what an address may send to a provider today.
type Share struct {
	w     *Warmup
	c     *course
	asked bool      // for room: there is mail
	known time.Time // when a recipient who took mail before last wanted room
}

// unlimited is the room of an address that is warm.
const unlimited = 1 << 30

// now brings the course up to date and returns its count; nil if nothing bounds it.
func (s *Share) now(now time.Time) *quotas.Counter {
	w := s.w
	p, ok := w.plans[s.c.Address]
	if !ok {
		return nil
	}
	s.asked = true
	w.turn(s.c, p, now)
	if s.c.done() != "" {
		return nil
	}
	return s.c.counter
}

// Room is how many recipients may be tried for the first time now, and next when there will be
// more; that is the zero time if it is when the count has been written, of which Granted tells.
func (s *Share) Room(now time.Time) (n int, next time.Time) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	c := s.now(now)
	if c == nil {
		return unlimited, time.Time{}
	}
	n, next = c.Room(now)
	if n == 0 && !next.IsZero() && s.c.set > 0 && s.w.book.Failed() == nil {
		if d := s.c.today(); d != nil && !d.Limited {
			d.Limited = true
			s.w.dirty = true
		}
	}
	return n, next
}

// Spared says whether n recipients may have what room there is, or it is kept for those who
// took mail from this host before. It is half of an hour's part: where they take all that
// comes back, others get none of it, and where they take less, others get the rest, so nothing
// of a day is left but that half. For an hour after the last of those who took mail it is
// kept, else for nobody: where none is known, all are alike.
func (s *Share) Spared(now time.Time, n int, known bool) bool {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	c := s.now(now)
	switch {
	case c == nil:
		return true
	case known:
		s.known = now
		return true
	case now.Before(s.known) || now.Sub(s.known) > time.Hour:
		return true
	case c.Ahead(now)-n >= s.c.set/(2*24):
		return true
	}
	if d := s.c.today(); d != nil && s.c.set > 0 && !d.Limited {
		d.Limited = true
		w.dirty = true
	}
	return false
}

// Take counts up to n recipients that are about to be tried for the first time, and says how many
// those are.
func (s *Share) Take(now time.Time, n int) (int, quotas.Taken) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if c := s.now(now); c != nil {
		return c.Take(now, n)
	}
	return n, quotas.Taken{}
}

// Add counts n recipients for which there is no room.
func (s *Share) Add(now time.Time, n int) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if c := s.now(now); c != nil {
		c.Add(now, n)
	}
}

// Renew has n recipients that were taken together count on the day of now.
func (s *Share) Renew(now time.Time, from quotas.Taken, n int) quotas.Taken {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if c := s.now(now); c != nil && n > 0 && from != (quotas.Taken{}) {
		return c.Renew(now, from, n)
	}
	return from
}

// Return takes back n of the recipients that were taken together: those that were not tried.
func (s *Share) Return(from quotas.Taken, n int) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if c := s.c.counter; c != nil && from != (quotas.Taken{}) {
		c.Return(from, n)
	}
}
