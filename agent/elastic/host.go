package elastic

import (
	"math"
	"time"
)

const (
	// hostMemory is the time over which the host's own mail is averaged. Mail of
	// one message in some minutes still keeps a place free for the next one.
	hostMemory = 5 * time.Minute
	// hostLeast is the average, in messages, below which nothing is kept free.
	hostLeast = 0.2
	// hostLoss is the share of the host's connections that may find no place.
	hostLoss = 0.01
	// hostShortest is the time over which a first message is spread.
	hostShortest = 10 * time.Second
	// hostGap is the least time between rounds of probes while places are kept free: a
	// probe has to take them for a moment.
	hostGap = 2 * time.Minute
)

// hostRoom is what the host MTA itself needs of the receiver.
type hostRoom struct {
	messages float64   // the host's, each worth less the older it is
	at       time.Time // of the last change
	since    time.Time // the first of them
	last     time.Time // the last of them
	kept     int       // places left to it now
}

// HostMail notes messages that the host MTA itself sends to this site. The places that they
// need are left to it, once the receiver's limit is known. On a plateau it is not, but what is up
// may be all that the receiver allows: we would never be refused, and the host always. There
// what brought no more goodput is left to it.
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
	switch {
	case !s.host.sends(now):
	case s.state == plateau:
		s.host.kept = max(0, s.want-s.growth.less)
	case s.state == bounded, s.want >= s.limits.MaxSessions:
		s.host.kept = max(0, min(places(s.host.rate(now)*(s.latency+s.connect/2)), s.want-1))
	}
	return s.host.kept
}

// sends says whether the host has mail of its own.
func (r *hostRoom) sends(now time.Time) bool {
	if r.messages == 0 {
		return false
	}
	r.age(now)
	return r.messages >= hostLeast
}

func (r *hostRoom) age(now time.Time) {
	if d := now.Sub(r.at); d > 0 {
		r.messages *= math.Exp(-float64(d) / float64(hostMemory))
		r.at = now
	}
}

func (r *hostRoom) note(now time.Time, messages int) {
	r.age(now)
	if r.messages < hostLeast {
		r.since = now
	}
	r.messages += float64(messages)
	r.last = now
}

// rate is messages per second. What was seen for a short time only is not taken
// for a little over a long one.
func (r *hostRoom) rate(now time.Time) float64 {
	seen := max(now.Sub(r.since), hostShortest).Seconds() / hostMemory.Seconds()
	return r.messages / hostMemory.Seconds() / (1 - math.Exp(-seen))
}

// places is the least number of places at which, with so many busy on average, at
// most hostLoss of the arrivals find none free: Erlang's loss formula, place by place.
func places(busy float64) int {
	n := 0
	for lost := 1.0; lost > hostLoss; n++ {
		lost = busy * lost / (float64(n+1) + busy*lost)
	}
	return n
}
