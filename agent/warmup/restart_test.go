package warmup

import (
	"testing"
	"time"
)

// An agent that is restarted every minute, sends the day's share, spread over the day,
// and no more than it. One that is killed every minute loses a hundredth with each block.
func TestRestartsEveryMinuteLeaveTheShare(t *testing.T) {
	for _, kill := range []bool{false, true} {
		f := func(t *testing.T, dir string) {
			const hours = 4
			sent, most := 0, 0
			for i := range hours * 60 {
				now := monday.Add(time.Duration(i) * time.Minute)
				b := open(t, dir, now)
				n := b.send(now, 1<<20)
				n += b.send(now.Add(30*time.Second), 1<<20)
				b.look(now)
				sent, most = sent+n, max(most, n)
				if !kill {
					b.Close(now)
				}
				b.crash()
			}
			if sent > 21+20*hours || most > 21 || sent < map[bool]int{false: 20 * hours, true: 30}[kill] {
				t.Errorf("%d were sent in %d hours, at most %d in a minute", sent, hours, most)
			}
		}
		each(t, f)
	}
}
