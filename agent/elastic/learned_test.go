package elastic

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// The history does not say that there was no mail where none could be sent.
func TestHistoryTellsAShutDoorFromATimeWithoutMail(t *testing.T) {
	t.Parallel()
	for what, shut := range map[string]time.Duration{"without mail": 0, "with no connect allowed": 2 * time.Minute} {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		list, x := sharedAddress(t, now, 1)
		s := list[0]
		s.Ended(x[0], now)
		now = now.Add(slots.LagMax)
		s.refusals.opens = now.Add(shut)
		s.asked = now
		now = now.Add(2 * time.Minute)
		s.Open(now, &slots.Slot{}, []Candidate{{Address: x[0].Address}})
		if all := s.History(); !strings.Contains(all[len(all)-1].Cause, "2m0s "+what) {
			t.Errorf("%s: %v", what, all[len(all)-1])
		}
	}
}

// What is back after a restart does not say that there was no mail meanwhile.
func TestHistoryTellsARestartFromATimeWithoutMail(t *testing.T) {
	t.Parallel()
	s := Restore(at(22*time.Second), Limits{MaxSessions: 20}, Learned{At: epoch, Want: 15})
	if all := s.History(); all[len(all)-1].Cause != "22s after that was noted" {
		t.Errorf("%+v", all)
	}
}
