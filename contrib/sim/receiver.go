package sim

import (
	"math"
	"time"
)

// Receiver is what a site does to those who send to it. The zero value of a
// field means that it does no such thing.
type Receiver struct {
	RTT     time.Duration
	Service time.Duration // to accept a message
	Noise   float64       // share of Service that is exponentially distributed

	Limit   Course        // connections at a time, of each source address
	Shared  bool          // of all source addresses together
	LimitAt Stage         // where one too many is refused
	Lag     time.Duration // a slot counts so much longer than its connection

	Capacity int // messages worked on at once at full speed; more share it

	Rate        Course // messages a second
	RatePerHost bool   // on each host
	Quota       int    // messages in a Day, the rest of which all are refused
	Day         time.Duration

	Ban    time.Duration // the n-th refusal shuts the door for n times as long
	Shrink int           // each refusal takes so many off the limit, down to 1
	Forget time.Duration // without refusals, until all of that is forgiven

	Hosts    int           // 4 if not given
	Dead     int           // so many hosts refuse the port
	Hanging  int           // so many hosts do not answer at all
	Full     int           // so many hosts refuse every connection for being one too many
	Down     Course        // not 0: no host answers the port
	Busy     Course        // not 0: every host refuses every connection
	Calls    int           // connections in a minute of the clock, on each host; one more is refused
	Greylist time.Duration // a message that is tried for the first time is answered 4xx at RCPT

	PerConnection int  // messages, then 421 at the next MAIL
	Close         bool // or, without a word, a close after the last one

	Trips     int       // round trips that a message takes; 1 if not given
	HostLimit []int     // connections at a time on each host, of each source address; 0: no limit
	Slow      []float64 // factor on Service, by host; 0: 1
	LagNoise  float64   // the lag varies by so much of itself, either way
	Backends  int       // the one host is so many, each with HostLimit[0]; which one answers is chance
	Scale     Course    // factor on Limit and HostLimit
	Other     Course    // share of the limits that another sender uses
	Later     float64   // share of recipients answered 4xx at RCPT
	Drop      float64   // share of messages after whose dot the connection is lost
	Unspoken  bool      // a connection too many is reset without a word
	Closed    bool      // the port is closed while there are as many connections as are taken
	Silent    bool      // a connection too many is not answered
	Moody     float64   // share of messages answered as if they were too fast, whatever the rate
	MoodyLate bool      // that is told after the dot, not at MAIL
	RateEnds  bool      // a message too fast is answered 421, and the connection ended
}

// Stage is where in the dialogue a receiver refuses one connection too many.
type Stage uint8

// The stages.
const (
	AtBanner Stage = iota
	AtMail         // of the first message
	AtDot          // of any message while there are too many
)

// perConnection is max_messages_per_connection's default: what a sender does
// when the receiver does not mind.
const perConnection = 100

// Transaction is how long a message takes on an idle receiver.
func (r *Receiver) Transaction() time.Duration { return r.trips() + r.Service }

func (r *Receiver) trips() time.Duration { return time.Duration(max(1, r.Trips)) * r.RTT }

// limitOf scales a limit to what is left of it for us at a time.
func (r *Receiver) limitOf(n float64, at time.Duration) int {
	if x, ok := r.Scale.at(at); ok {
		n *= x
	}
	if x, ok := r.Other.at(at); ok {
		n -= math.Round(x * n)
	}
	return max(1, int(n))
}

// hostLimits is what the hosts, or the backends of one, take together.
func (r *Receiver) hostLimits() (all float64) {
	for h, n := range r.HostLimit {
		all += float64(n * max(1, r.Backends*(1-h)))
	}
	return all
}

// Possible is the goodput, in messages a second, that the receiver's limits
// allow a sender with one source address and so many sessions that knows them.
// A connection's slot is taken from the greeting on, for 2 round trips more than
// the messages need, and for the lag; one that is lost ends before its time.
func (r *Receiver) Possible(at time.Duration, sessions int) float64 {
	down, _ := r.Down.at(at)
	if busy, _ := r.Busy.at(at); down != 0 || busy != 0 {
		return 0
	}
	n := float64(sessions)
	if limit, ok := r.Limit.at(at); ok {
		n = min(n, limit)
	}
	if r.HostLimit != nil {
		n = min(n, r.hostLimits())
	}
	service := r.Transaction()
	if r.Greylist > 0 {
		service += r.RTT
	}
	messages := float64(perConnection)
	life := 2*r.RTT + r.Lag
	if r.PerConnection > 0 {
		messages = float64(r.PerConnection)
		if !r.Close {
			life += r.RTT // the refused MAIL
		}
	}
	if r.Drop > 0 {
		messages = (1 - math.Pow(1-r.Drop, messages)) / r.Drop
	}
	rate := n / (service.Seconds() + life.Seconds()/messages)
	if r.Capacity > 0 && r.Service > 0 {
		rate = min(rate, float64(r.Capacity)/r.Service.Seconds())
	}
	if limit, ok := r.Rate.at(at); ok {
		if r.RatePerHost {
			limit *= float64(r.hosts() - r.Dead - r.Hanging - r.Full)
		}
		rate = min(rate, limit)
	}
	if r.Calls > 0 {
		rate = min(rate, float64(r.Calls*r.hosts())*messages/60)
	}
	if r.Quota > 0 {
		until := time.Duration(float64(r.Quota) / rate * float64(time.Second))
		if at%r.Day >= until {
			return 0
		}
	}
	return rate
}

func (r *Receiver) hosts() int {
	if r.Hosts > 0 {
		return r.Hosts
	}
	return 4
}

// receiver is a Receiver at work.
type receiver struct {
	Receiver
	clock    *clock
	slots    []int   // by source address
	byHost   [][]int // the same on each host, or backend
	working  int
	buckets  []bucket // by host
	shut     time.Duration
	offences int
	offended time.Duration
	today    int
	day      time.Duration
	calls    []int // in this minute, by host
	minute   time.Duration
}

// place is where a connection has its slot.
type place struct{ source, host, backend int }

func newReceiver(r Receiver, c *clock, sources int) *receiver {
	x := &receiver{Receiver: r, clock: c, slots: make([]int, sources), buckets: make([]bucket, r.hosts()), calls: make([]int, r.hosts())}
	for range sources {
		x.byHost = append(x.byHost, make([]int, max(r.hosts(), r.Backends)))
	}
	for i := range x.buckets {
		x.buckets[i].tokens = 1
	}
	return x
}

// place is what a new connection will occupy.
func (r *receiver) place(source, host int) place {
	if r.Backends > 0 {
		return place{source, host, r.clock.rng.IntN(r.Backends)}
	}
	return place{source, host, host}
}

// answer is what a host does when it is called.
type answer uint8

const (
	yes answer = iota
	refusal
	noPort
	silence
	reset
)

// called says what a host answers to a connect.
func (r *receiver) called(p place) answer {
	host := p.host
	busy, _ := r.Busy.at(r.clock.now)
	switch down, _ := r.Down.at(r.clock.now); {
	case down != 0 || host < r.Dead:
		return noPort
	case host < r.Dead+r.Hanging:
		return silence
	case host >= r.hosts()-r.Full, busy != 0, r.overCalls(host):
		return refusal
	case r.LimitAt == AtBanner && r.refuses(p, 1):
		switch {
		case r.Closed:
			return noPort
		case r.Silent:
			return silence
		case r.Unspoken:
			return reset
		}
		return refusal
	}
	return yes
}

// overCalls counts a connect to a host, and says whether it is one too many in this minute.
func (r *receiver) overCalls(host int) bool {
	if minute := r.clock.now / time.Minute; minute != r.minute {
		r.minute = minute
		clear(r.calls)
	}
	r.calls[host]++
	return r.Calls > 0 && r.calls[host] > r.Calls
}

// refuses says whether there would be too many with so many more, and punishes that.
func (r *receiver) refuses(p place, more int) bool {
	now := r.clock.now
	limit, ok := r.Limit.at(now)
	if !ok && r.HostLimit == nil {
		return false
	}
	if r.offences > 0 && now > r.shut && now-r.offended > r.Forget {
		r.offences = 0
	}
	taken := r.slots[p.source]
	if r.Shared {
		taken = 0
		for _, n := range r.slots {
			taken += n
		}
	}
	full := ok && taken+more > max(1, r.limitOf(limit, now)-r.offences*r.Shrink)
	if n := r.hostLimit(p); n > 0 {
		full = full || r.byHost[p.source][p.backend]+more > max(1, r.limitOf(float64(n), now)-r.offences*r.Shrink)
	}
	if now >= r.shut && !full {
		return false
	}
	r.offences++
	r.offended = now
	r.shut = now + time.Duration(r.offences)*r.Ban
	return true
}

// hostLimit is the limit of the host, or backend, that a place is on; 0: none.
func (r *Receiver) hostLimit(p place) int {
	switch {
	case r.HostLimit == nil:
		return 0
	case r.Backends > 0:
		return r.HostLimit[0]
	}
	return r.HostLimit[p.host]
}

func (r *receiver) enter(p place) { r.count(p, 1) }

func (r *receiver) count(p place, n int) {
	r.slots[p.source] += n
	r.byHost[p.source][p.backend] += n
}

// leave frees the slot of a connection that has just ended, and says how late.
func (r *receiver) leave(p place) (lag time.Duration) {
	if r.Lag == 0 {
		r.count(p, -1)
		return 0
	}
	lag = r.Lag
	if r.LagNoise > 0 {
		lag = time.Duration(float64(lag) * (1 + r.LagNoise*(2*r.clock.rng.Float64()-1)))
	}
	r.clock.after(lag, func() { r.count(p, -1) })
	return lag
}

// reply is how a transaction ends.
type reply uint8

const (
	taken       reply = iota
	later             // 4xx for this recipient, which comes again
	refusedRcpt       // 4xx for this recipient, of whom there are others enough
	tooFast           // 4xx for the rate or the quota
	tooMany           // 421 for the connections, and a close
	enough            // 421: no more messages on this connection
	takenEnd          // taken, and a close
	lost              // the connection is gone after the dot
	tooFastEnd        // 421 for the rate, and a close
)

// offered begins a transaction, the n-th of its connection, and says how it will
// end and how long it takes, latency included. done is to be called then.
func (r *receiver) offered(p place, n int, again bool) (reply, time.Duration) {
	switch {
	case r.PerConnection > 0 && n > r.PerConnection:
		return enough, r.RTT
	case r.LimitAt == AtMail && n == 1 && r.refuses(p, 0):
		return tooMany, r.RTT
	case r.LimitAt == AtDot && r.refuses(p, 0):
		return tooMany, r.RTT
	case r.Greylist > 0 && !again:
		return later, r.RTT
	case !r.MoodyLate && r.moody() || !r.inTime(p.host):
		return r.fast(), r.RTT
	case r.Later > 0 && r.clock.rng.Float64() < r.Later:
		return refusedRcpt, r.RTT
	}
	r.working++
	d := float64(r.Service)
	if r.Slow != nil && r.Slow[p.host] > 0 {
		d *= r.Slow[p.host]
	}
	d *= 1 - r.Noise + r.Noise*r.clock.rng.ExpFloat64()
	if r.Capacity > 0 && r.working > r.Capacity {
		d *= float64(r.working) / float64(r.Capacity)
	}
	switch {
	case r.MoodyLate && r.moody():
		took := r.trips() + time.Duration(d)
		r.clock.after(took, r.done)
		return r.fast(), took
	case r.Drop > 0 && r.clock.rng.Float64() < r.Drop:
		return lost, r.trips() + time.Duration(d)
	case r.Close && n == r.PerConnection:
		return takenEnd, r.trips() + time.Duration(d)
	}
	return taken, r.trips() + time.Duration(d)
}

func (r *receiver) done() { r.working-- }

// moody draws whether a message is answered as if it were too fast.
func (r *receiver) moody() bool { return r.Moody > 0 && r.clock.rng.Float64() < r.Moody }

// fast is how a message is refused for the rate.
func (r *receiver) fast() reply {
	if r.RateEnds {
		return tooFastEnd
	}
	return tooFast
}

// inTime counts a message against rate and quota, and says whether both allow it.
func (r *receiver) inTime(host int) bool {
	now := r.clock.now
	if r.Quota > 0 {
		if day := now / r.Day; day != r.day {
			r.day, r.today = day, 0
		}
		if r.today >= r.Quota {
			return false
		}
	}
	if rate, ok := r.Rate.at(now); ok {
		if !r.RatePerHost {
			host = 0
		}
		if r.buckets[host].take(now, rate, max(1, rate)) > 0 { // a second's messages
			return false
		}
	}
	r.today++
	return true
}

// rateWait is how long it is until a message is in time on a host.
func (r *receiver) rateWait(host int) time.Duration {
	rate, ok := r.Rate.at(r.clock.now)
	if !ok {
		return 0
	}
	if !r.RatePerHost {
		host = 0
	}
	b := r.buckets[host]
	wait := b.take(r.clock.now, rate, max(1, rate))
	return wait
}

// bucket is a token bucket.
type bucket struct {
	tokens float64
	at     time.Duration
}

// take takes a token, or says how long to wait for one; full is what it holds.
func (b *bucket) take(now time.Duration, rate, full float64) (wait time.Duration) {
	b.tokens = min(full, b.tokens+rate*(now-b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return 1 + time.Duration((1-b.tokens)/rate*float64(time.Second))
	}
	b.tokens--
	return 0
}
