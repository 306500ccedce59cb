package elastic

import (
	"fmt"
	"testing"
	"time"
)

func dump(x *sim) {
	for _, c := range x.c.History() {
		fmt.Println(c.At.Sub(epoch), c.From, c.To, c.Pace, c.Cause)
	}
	fmt.Println(x.refused, "wary", x.c.door.wary(x.clock()), "phase", x.c.phase, "credit", x.c.credit)
}
func TestDbg(t *testing.T) {
	for _, seed := range []uint64{11, 13} {
		limit := 4
		r := receiver{rtt: testRTT, service: 4 * testRTT, noise: 0.5, limit: func(at time.Duration) int {
			if at >= 5*time.Minute && at < 10*time.Minute {
				return limit / 4
			}
			return limit
		}}
		s := newSim(r, Limits{MaxSessions: 200}, seed)
		s.run(15 * time.Minute)
		dump(s)
	}
	r := receiver{rtt: testRTT, service: 4 * testRTT, noise: 0.5, capacity: 10}
	s := newSim(r, Limits{MaxSessions: 200}, 14)
	s.run(30 * time.Minute)
	dump(s)
	r = receiver{rtt: testRTT, service: 4 * testRTT, noise: 1, lag: time.Second, limit: always(100)}
	for i := range uint64(20) {
		s = newSim(r, Limits{MaxSessions: 200}, i)
		s.run(2 * time.Minute)
		if s.c.want < 80 {
			fmt.Println("seed", i)
			dump(s)
		}
	}
}
