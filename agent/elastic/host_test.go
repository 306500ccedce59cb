package elastic

import (
	"testing"
	"time"
)

func TestRoomIsLeftToTheHost(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		limit int
		every time.Duration
	}{{10, 300 * time.Millisecond}, {20, 200 * time.Millisecond}, {5, 2 * time.Second}, {20, 20 * time.Second}} {
		run := func(backlog, tell bool) *sim {
			s := newSim(receiver{rtt: testRTT, service: 4 * testRTT, noise: 0.5, limit: always(x.limit)}, Limits{MaxSessions: 100}, 5)
			s.hostEvery, s.tell = x.every, tell
			if !backlog {
				s.backlog = func(time.Duration) int { return 0 }
			}
			s.run(30 * time.Minute)
			return s
		}
		share := func(s *sim) float64 { return float64(len(s.hostRefused)) / float64(s.hostSent) }
		alone, beside, unheard := run(false, true), run(true, true), run(true, false)
		t.Logf("limit %d, a message every %v: refused alone %.2f%%, beside us %.2f%%, if we were not told %.1f%%; we send %.1f/s, else %.1f/s", x.limit, x.every,
			100*share(alone), 100*share(beside), 100*share(unheard), float64(len(beside.done))/1800, float64(len(unheard.done))/1800)
		if share(beside) > share(alone)+0.02 {
			t.Errorf("limit %d, every %v: %.2f%% of the host's connections refused, alone %.2f%%", x.limit, x.every, 100*share(beside), 100*share(alone))
		}
	}
}
