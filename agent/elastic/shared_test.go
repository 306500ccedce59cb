package elastic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// sharedAddress is an address with a session each of so many sites.
func sharedAddress(t *testing.T, now time.Time, n int) (list []*Site, sessions []*slots.Slot) {
	t.Helper()
	a := slots.NewTable(10).Row(slots.Key{Host: netip.MustParseAddrPort("192.0.2.1:25")}, now)
	for range n {
		s, x := NewSite(now, Limits{MaxSessions: 20}), &slots.Slot{}
		if _, ok := s.Open(now, x, []Candidate{{Address: a}}); !ok {
			t.Fatal("a site has no connect")
		}
		s.CameUp(x, now)
		s.Accepted(x, now, now)
		list, sessions = append(list, s), append(sessions, x)
	}
	return list, sessions
}

// A site with a pace gets it, however much others send to the same address.
func TestPaceOfASiteIsItsOwnAtASharedAddress(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, x := sharedAddress(t, now, 3)
	s[0].pace.Value, s[1].pace.Value = 5, 1
	var sent [3]int
	for range 100 * 20 { // twenty seconds
		for i := range s {
			if s[i].MayBegin(x[i], now) == 0 {
				sent[i]++
			}
		}
		now = now.Add(10 * time.Millisecond)
	}
	if sent[0] < 95 || sent[1] < 19 || sent[2] != 2000 {
		t.Errorf("%d, %d and %d messages in 20 s, want 100, 20 and 2000", sent[0], sent[1], sent[2])
	}
}

// What others hold of an address's limit may be had once they have gone: it is not taken for
// a lower limit of the site.
func TestLimitIsReadWithWhatOthersHoldThere(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, x := sharedAddress(t, now, 2)
	s[0].want, s[0].window = 10, 10
	list := []Candidate{{Address: x[0].Address}}
	for range 3 {
		y := &slots.Slot{}
		if _, ok := s[0].Open(now, y, list); !ok {
			t.Fatal("no connect while it grows")
		}
		if now = now.Add(time.Second); x[0].Address.Live == 4 {
			s[0].Refused(y, now, "421 too many")
			break
		}
		s[0].CameUp(y, now)
		s[0].Accepted(y, now, now)
	}
	if s[0].Want() != 4 || s[0].Full() {
		t.Errorf("of 4 slots that there are with another's, %d are wanted: %v", s[0].Want(), s[0])
	}
	y := &slots.Slot{}
	if _, ok := s[0].Open(now, y, list); ok {
		t.Error("a connect though all slots are held")
	}
	s[1].Ended(x[1], now)
	if _, ok := s[0].Open(now.Add(time.Second), y, list); !ok {
		t.Errorf("no connect when another's slot is free: %v", s[0])
	}
}
