package elastic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/slots"
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

// A host that has let us in and takes its time for a greeting is not told to be down, with
// sessions up or without; it is when a connect has failed. One that never answered is at once.
func TestSlowGreetingIsNotToldToBeDown(t *testing.T) {
	t.Parallel()
	told := func(s *Site, down, uncalled int, now time.Time) {
		t.Helper()
		b := s.Brief(now)
		if a := s.Snapshot(now).PerAddress; b.Down != down || b.Uncalled != uncalled || a[0].Down != (down > 0) {
			t.Errorf("%d down, %d not called, want %d, %d; %+v", b.Down, b.Uncalled, down, uncalled, a)
		}
	}
	sites, _ := sharedAddress(t, epoch, 1)
	s, x := sites[0], &slots.Slot{}
	a := s.addresses[0].Address
	if _, ok := s.Open(at(time.Second), x, []Candidate{{Address: a}}); !ok {
		t.Fatal("no connect")
	}
	told(s, 0, 0, at(6*time.Second)) // 5 s, beside one that is up
	s.Failed(x, at(31*time.Second), false)
	told(s, 1, 0, at(32*time.Second))
	told(s, 0, 1, at(32*time.Second+slots.OffFor(1)))

	fresh := slots.NewTable(1).Row(slots.Key{Host: netip.MustParseAddrPort("192.0.2.2:25")}, epoch)
	s = NewSite(epoch, Limits{MaxSessions: 20})
	if _, ok := s.Open(epoch, &slots.Slot{}, []Candidate{{Address: fresh}}); !ok {
		t.Fatal("no connect")
	}
	told(s, 1, 0, at(5*time.Second))
}
