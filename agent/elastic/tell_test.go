package elastic

import (
	"testing"
	"time"
)

// A slot is told to be held for its lag after the end of its session, and no longer, though
// nobody asks for a connect any more.
func TestSlotsThatHaveBecomeFreeAreToldSo(t *testing.T) {
	t.Parallel()
	sites, sessions := sharedAddress(t, epoch, 1)
	s := sites[0]
	s.late.lag = 20 * time.Millisecond
	s.Ended(sessions[0], epoch)
	if b := s.Brief(at(19 * time.Millisecond)); b.Held != 1 || b.Lagging != 1 {
		t.Errorf("%d held, %d lagging before the lag is over", b.Held, b.Lagging)
	}
	if b := s.Brief(at(21 * time.Millisecond)); b.Held != 0 || b.Lagging != 0 {
		t.Errorf("%d held, %d lagging after it", b.Held, b.Lagging)
	}
	if a := s.Snapshot(at(time.Second)).PerAddress; len(a) != 1 || a[0].Held != 0 {
		t.Errorf("%+v", a)
	}
}
