package elastic

import (
	"math"
	"time"
)

// HostMail notes messages that the host MTA itself sends to this site. The places that they
// need are left to it, once the receiver's limit is known.
func (s *Site) HostMail(now time.Time, messages int) { s.host.note(now, messages) }

// hostHolds is how many connections the host has up on average: what a refusal found is
// so much less than the limit.
func (s *Site) hostHolds(now time.Time) int {
	if s.host.messages < hostLeast {
		return 0
	}
	return int(math.Round(s.host.rate(now) * (s.latency + s.connect/2)))
}

// hostBusy says whether the host likely has a connection up just now.
func (s *Site) hostBusy(now time.Time) bool {
	return now.Sub(s.host.last).Seconds() < s.latency+s.connect
}

// keep is how many places are left to the host now.
func (s *Site) keep(now time.Time) int {
	s.host.kept = 0
	if s.host.messages > 0 && (s.state == bounded || s.want >= s.limits.MaxSessions) {
		s.host.keep(now, s.latency+s.connect/2, s.want-1)
	}
	return s.host.kept
}
