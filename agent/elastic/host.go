package elastic

import (
	"fmt"
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
	// hostGapMin and hostGapMax bound the time between probes while places are kept
	// free: a probe has to take them for a moment.
	hostGapMin = 2 * time.Minute
	hostGapMax = 8 * time.Minute
	// hostMoment is when what a connection of the host's prevented is tried again.
	hostMoment = time.Second
)

// hostRoom is what the host MTA itself needs of the receiver.
type hostRoom struct {
	messages float64   // the host's, each worth less the older it is
	at       time.Time // of the last change
	since    time.Time // the first of them
	last     time.Time // the last of them
	kept     int       // sessions left to it now
}

func (r *hostRoom) age(now time.Time) {
	if d := now.Sub(r.at); d > 0 {
		r.messages *= math.Exp(-float64(d) / float64(hostMemory))
		r.at = now
	}
}

// HostMail notes messages that the host MTA itself sends to this site. The
// connections they need are left to it, once the receiver's limit is known.
func (c *Control) HostMail(now time.Time, messages int) { c.host.note(now, messages) }

func (r *hostRoom) note(now time.Time, messages int) {
	r.age(now)
	if r.messages < hostLeast {
		r.since = now
	}
	r.messages += float64(messages)
	r.last = now
}

// still says whether the host is not likely to have a connection up just now: then
// what a probe finds is the receiver's limit, and not what is left of it.
func (c *Control) still(now time.Time) bool {
	return now.Sub(c.host.last).Seconds() >= c.latency+c.connect
}

// alone says whether a probe may begin as far as the host's mail goes: a host that is
// never still is not waited for for long.
func (c *Control) alone(now time.Time) bool {
	return c.still(now) || now.Sub(c.probeAt) >= hostGapMax
}

// rate is messages per second. What was seen for a short time only is not taken
// for a little over a long one.
func (r *hostRoom) rate(now time.Time) float64 {
	seen := max(now.Sub(r.since), hostShortest).Seconds() / hostMemory.Seconds()
	return r.messages / hostMemory.Seconds() / (1 - math.Exp(-seen))
}

// keep is how many sessions are left to the host now, of those that were accepted
// or that the configuration allows: so many that hardly a connection of its finds
// none free. Its connections come at random; each has a place for one message and,
// as the receiver sees it, about half of the time that a connect takes.
func (c *Control) keep(now time.Time) int {
	r := &c.host
	if r.messages == 0 {
		return 0 // the host has never sent there: most sites, at each transaction
	}
	r.age(now)
	was := r.kept
	r.kept = 0
	if r.messages >= hostLeast && (c.phase == hold || c.want >= c.limits.MaxSessions) {
		r.kept = min(places(r.rate(now)*(c.latency+c.connect/2)), c.want-1)
	}
	if r.kept > 0 && was == 0 {
		c.record(now, c.want, fmt.Sprintf("%d of %d left to the host, which sends %.2g messages/s of its own", r.kept, c.want, r.rate(now)))
	}
	return r.kept
}

// keep takes so many places as the host needs where a connection of its has one for so
// many seconds, at most as many as that.
func (r *hostRoom) keep(now time.Time, each float64, most int) {
	r.age(now)
	if r.messages >= hostLeast {
		r.kept = max(0, min(places(r.rate(now)*each), most))
	}
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
