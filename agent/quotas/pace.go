package quotas

import (
	"math"
	"time"
)

// pace is what may be taken at once of a quota that is spread over the day.
type pace struct {
	N  float64   `json:"n"`  // recipients
	At time.Time `json:"at"` // when N was found; zero: never yet
}

// hours is how many parts a spread day has. Twilio SendGrid's warm-up, too, goes by the hour
// (package warmup has the source).
const hours = 24

// fill brings the pace up to date. It is full at its first use on a day of which nothing was
// used, and empty else. The file has it: a restart is no reason for another burst, and many of
// them are none to send less.
func (p *pace) fill(now time.Time, limit int, fresh bool) {
	burst := float64(limit)/hours + 1 // a fraction that is left over is not lost
	switch {
	case !p.At.IsZero():
		p.N += max(0, now.Sub(p.At).Seconds()) * p.rate(limit)
	case fresh:
		p.N = burst
	}
	p.N, p.At = min(p.N, burst), now
}

// rate is in recipients per second.
func (*pace) rate(limit int) float64 { return float64(limit) / (hours * 3600) }

// next is when there is one more recipient.
func (p *pace) next(now time.Time, limit int) time.Time {
	return now.Add(time.Millisecond + time.Duration((math.Floor(p.N)+1-p.N)/p.rate(limit)*float64(time.Second)))
}
