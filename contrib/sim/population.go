package sim

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Population is a law by which receivers are drawn that nobody chose.
type Population uint8

// The populations.
const (
	// Ordinary receivers limit connections or not, each host or all together, end
	// connections, free slots late, limit the rate, defer and lose some, and may have
	// one host unlike the others.
	Ordinary Population = iota
	// Hard is Ordinary with punishments, chance, other senders and changes.
	Hard
	// Moody receivers refuse a share of the messages as too fast by chance, after the dot, with
	// and without a rate, at one host or several, and tell a limit of connections in two ways.
	Moody
	// Busy receivers are ordinary ones that refuse every connection for a time, at first or later, or
	// allow each host so many connections in a minute.
	Busy
	// Throttling receivers are ordinary ones that limit the rate, end the connection of a message too
	// fast, and free slots late.
	Throttling
)

// drawn is how long a receiver of a population is met, and from when on goodput counts.
const (
	drawnLength   = 300 * time.Second
	drawnLearning = 25 * time.Second
	drawnSessions = 200
)

// Draw is the receiver of a seed.
func (p Population) Draw(seed uint64) Kind {
	rng := rand.New(rand.NewPCG(seed, 2))
	chance := func(share float64) bool { return rng.Float64() < share }
	among := func(low, high float64) float64 { return low + (high-low)*rng.Float64() }
	logAmong := func(low, high float64) float64 { return math.Exp(among(math.Log(low), math.Log(high))) }
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

	k := Kind{Sessions: drawnSessions, Length: drawnLength, Learning: drawnLearning}
	r := &k.Receiver
	if p == Moody {
		r.Hosts, r.Trips = 1+rng.IntN(5), 2
		n := 1 + rng.IntN(12)
		for range r.Hosts {
			r.HostLimit = append(r.HostLimit, n)
		}
		r.PerConnection = []int{1, 5, 20, 0}[rng.IntN(4)]
		r.Close, r.Closed, r.RateEnds = chance(0.5), chance(0.5), chance(0.5)
		r.RTT, r.Service, r.Noise = seconds(logAmong(0.005, 0.2)), seconds(logAmong(0.010, 1)), rng.Float64()
		r.Moody, r.MoodyLate = logAmong(0.005, 0.1), true
		r.RatePerHost = chance(0.5)
		if part := among(0.3, 1); chance(0.4) {
			rate := part * float64(n) / r.Transaction().Seconds()
			if !r.RatePerHost {
				rate *= float64(r.Hosts)
			}
			r.Rate = Always(rate)
		}
		return k
	}
	r.Hosts = 1 + rng.IntN(10)
	r.Trips = 2
	perHost := func(n int) {
		for range r.Hosts {
			r.HostLimit = append(r.HostLimit, n)
		}
	}
	switch x := rng.Float64(); {
	case x < 0.10:
	case x < 0.55:
		perHost(1 + rng.IntN(20))
	default:
		r.Limit = Always(float64(2 + rng.IntN(99)))
	}
	r.PerConnection = []int{5, 10, 20, 50, 100, 0}[rng.IntN(6)]
	r.Close = chance(0.5)
	r.RTT = seconds(logAmong(0.005, 0.2))
	r.Service = seconds(logAmong(0.010, 1))
	r.Noise = rng.Float64()
	late, rated, ends := 0.3, 0.2, 0.5
	if p == Throttling {
		late, rated, ends = 1, 1, 1
	}
	if lag := seconds(among(0.2, 5)); chance(late) {
		r.Lag = lag
	}
	if rate := logAmong(1, 200); chance(rated) {
		r.Rate, r.RatePerHost, r.RateEnds = Always(rate), chance(0.5), chance(ends)
	}
	r.Later, r.Drop = among(0, 0.05), among(0, 0.02)
	if chance(0.2) && r.Hosts > 1 {
		if r.HostLimit != nil && chance(0.5) {
			r.HostLimit[0] = max(1, r.HostLimit[0]/2)
		} else {
			r.Slow = make([]float64, r.Hosts)
			r.Slow[0] = 4
		}
	}
	switch p {
	case Ordinary, Throttling:
		return k
	case Busy:
		if chance(0.3) {
			r.Calls = int(logAmong(5, 120))
			return k
		}
		at := 0.0
		if chance(0.5) {
			at = among(20, 150)
		}
		for again := true; again && at < drawnLength.Seconds(); again = chance(0.5) {
			end := at + logAmong(1, 60)
			r.Busy = r.Busy.Then(seconds(at), 1).Then(seconds(end), 0)
			at = end + among(20, 100)
		}
		return k
	}

	if chance(0.15) {
		r.Hosts, r.Slow, r.Limit, r.HostLimit = 1, nil, nil, nil
		perHost(1 + rng.IntN(20))
		r.Backends = 2 + rng.IntN(7)
	}
	if chance(0.10) {
		r.Forget = 5 * time.Minute
		if chance(0.5) {
			r.Ban = seconds(logAmong(1, 30))
		} else {
			r.Shrink = 1 + rng.IntN(3)
		}
	}
	limit := 0.0
	if r.Limit != nil {
		limit = r.Limit[0].Value
	}
	limit += r.hostLimits()
	if chance(0.20) && limit > 0 {
		host := chance(0.5)
		if host {
			k.HostEvery = time.Duration(float64(hostLife(r)+r.Lag) / (limit * among(0.05, 0.3)))
		}
		for at := 0.0; at < drawnLength.Seconds(); at += 5 + 20*rng.ExpFloat64() {
			if host {
				k.HostPace = k.HostPace.Then(seconds(at), among(0.2, 1.8))
			} else {
				r.Other = r.Other.Then(seconds(at), among(0, 0.5))
			}
		}
	}
	if at, up, less, more := seconds(among(60, 240)), chance(0.5), among(0.25, 0.6), among(1.5, 3); chance(0.10) {
		r.Scale = Always(1)
		if up {
			r.Scale = r.Scale.Then(at, more)
		} else {
			r.Scale = r.Scale.Then(at, less)
		}
	}
	if chance(0.5) {
		r.LagNoise = 0.5
	}
	switch x := rng.Float64(); {
	case x < 0.70:
	case x < 0.85:
		r.Unspoken = true
	default:
		r.LimitAt = AtMail
	}
	return k
}

// Met is what became of one receiver of a population.
type Met struct {
	Seed     uint64
	Kind     Kind
	Result   *Result
	Share    float64 // of the possible, as an oracle with the same seed reached it
	Refused  float64 // connections, for each message accepted, after the learning
	TooFast  float64 // messages, likewise
	Early    int     // refusals while learning
	Allowed  int     // of these
	Messages int     // accepted after the learning
}

// Meet sends to the receiver of a seed.
func (p Population) Meet(seed uint64) *Met {
	return MeetKind(p.Draw(seed), seed)
}

// MeetKind sends to a receiver and compares that to what an oracle sends.
func MeetKind(k Kind, seed uint64) *Met {
	all := newWorld(&k, seed, newOracle)
	all.run()
	possible := between(all.done, k.Learning, k.Length)

	w := newWorld(&k, seed, newSender)
	w.run()
	m := &Met{Seed: seed, Kind: k, Result: &Result{Samples: w.samples, Broken: w.bad, Changes: w.senders[0].history()}}
	m.Messages = between(w.done, k.Learning, k.Length)
	m.Share = ratio(m.Messages, possible)
	fast := between(w.tooFast, k.Learning, k.Length)
	m.TooFast = ratio(fast, m.Messages)
	m.Refused = ratio(between(w.refused, k.Learning, k.Length)-fast, m.Messages)
	m.Early = between(w.refused, 0, k.Learning)
	m.Allowed = max(20, between(w.done, 0, k.Learning)/20)
	return m
}

// String says what the receiver is like and what became of it.
func (m *Met) String() string {
	var b strings.Builder
	r := &m.Kind.Receiver
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	say("%4d %.2f refused %.2f%% fast %.2f%% early %d/%d |", m.Seed, m.Share, 100*m.Refused, 100*m.TooFast, m.Early, m.Allowed)
	say(" %d hosts", r.Hosts)
	if r.Backends > 0 {
		say(" of %d backends", r.Backends)
	}
	switch {
	case r.Limit != nil:
		say(", common %.0f", r.Limit[0].Value)
	case r.HostLimit != nil:
		say(", each %v", r.HostLimit)
	}
	end := "421"
	if r.Close {
		end = "close"
	}
	say(", %s after %d, rtt %.0f ms, service %.0f ms noise %.1f", end, r.PerConnection, 1000*r.RTT.Seconds(), 1000*r.Service.Seconds(), r.Noise)
	if r.Lag > 0 {
		say(", lag %.2f s", r.Lag.Seconds())
		if r.LagNoise > 0 {
			say(" +-half")
		}
	}
	if r.Rate != nil {
		say(", rate %.1f/s per host %t ends %t", r.Rate[0].Value, r.RatePerHost, r.RateEnds)
	}
	if r.Moody > 0 {
		say(", chance %.1f%% ends %t", 100*r.Moody, r.RateEnds)
	}
	if r.Closed {
		say(", by a closed port")
	}
	say(", 4xx %.1f%% drop %.1f%%", 100*r.Later, 100*r.Drop)
	if r.Slow != nil {
		say(", one slow")
	}
	if r.Ban > 0 || r.Shrink > 0 {
		say(", bans %.0f s, takes %d", r.Ban.Seconds(), r.Shrink)
	}
	if r.Other != nil {
		say(", another sender")
	}
	if m.Kind.HostEvery > 0 {
		say(", the host every %.2g s", m.Kind.HostEvery.Seconds())
	}
	if r.Scale != nil {
		say(", x%.2f at %.0f s", r.Scale[1].Value, r.Scale[1].At.Seconds())
	}
	for _, b := range r.Busy {
		say(", busy %.0f from %.0f s", b.Value, b.At.Seconds())
	}
	if r.Calls > 0 {
		say(", %d calls a minute", r.Calls)
	}
	if r.Unspoken {
		say(", by reset")
	}
	if r.LimitAt == AtMail {
		say(", at MAIL")
	}
	return b.String()
}

// Census is what became of many.
type Census []*Met

// Quantile of a figure.
func (c Census) Quantile(q float64, of func(*Met) float64) float64 {
	var x []float64
	for _, m := range c {
		x = append(x, of(m))
	}
	slices.Sort(x)
	return x[min(len(x)-1, int(q*float64(len(x))))]
}

// Write tells the figures, and of the n worst.
func (c Census) Write(w io.Writer, n int) error {
	share := func(m *Met) float64 { return m.Share }
	refused := func(m *Met) float64 { return 100 * m.Refused }
	fast := func(m *Met) float64 { return 100 * m.TooFast }
	early := 0
	for _, m := range c {
		if m.Early > m.Allowed {
			early++
		}
	}
	fmt.Fprintf(w, "%d receivers: goodput of the possible: median %.3f, worst twentieth %.3f, worst %.3f\n",
		len(c), c.Quantile(0.5, share), c.Quantile(0.05, share), c.Quantile(0, share))
	fmt.Fprintf(w, "connections refused: median %.2f%%, worst twentieth %.2f%%; messages too fast: %.2f%%, %.2f%%; too many at first: %d\n",
		c.Quantile(0.5, refused), c.Quantile(0.95, refused), c.Quantile(0.5, fast), c.Quantile(0.95, fast), early)
	list := func(title string, worse func(a, b *Met) int) {
		fmt.Fprintln(w, title)
		x := slices.Clone(c)
		slices.SortStableFunc(x, worse)
		for _, m := range x[:min(n, len(x))] {
			fmt.Fprintln(w, m)
		}
	}
	if n > 0 {
		list("least goodput:", func(a, b *Met) int { return cmp.Compare(a.Share, b.Share) })
		list("most refused:", func(a, b *Met) int { return cmp.Compare(b.Refused+b.TooFast, a.Refused+a.TooFast) })
		list("most at first:", func(a, b *Met) int {
			return cmp.Compare(float64(b.Early)/float64(b.Allowed), float64(a.Early)/float64(a.Allowed))
		})
	}
	return nil
}

// Table is the receivers that were met over sockets, and how the first controller failed.
func Table() []Kind {
	of := func(name string, change func(*Receiver)) Kind {
		r := Receiver{Trips: 2, Noise: 0.5, Hosts: 1}
		change(&r)
		return Kind{Name: name, Sessions: drawnSessions, Length: drawnLength, Learning: drawnLearning, Receiver: r}
	}
	const ms = time.Millisecond
	each := func(r *Receiver, hosts, limit, messages int, rtt, service time.Duration) {
		r.Hosts, r.PerConnection, r.RTT, r.Service = hosts, messages, rtt, service
		for range hosts {
			if limit > 0 {
				r.HostLimit = append(r.HostLimit, limit)
			}
		}
	}
	return []Kind{
		of("3 x 10, 20 messages", func(r *Receiver) { each(r, 3, 10, 20, 80*ms, 400*ms) }),
		of("1 x 5, 10 messages", func(r *Receiver) { each(r, 1, 5, 10, 50*ms, 100*ms) }),
		of("2 x 15, 2% 451", func(r *Receiver) { each(r, 2, 15, 0, 80*ms, 300*ms); r.Later = 0.02 }),
		of("5 x 6, 50 messages", func(r *Receiver) { each(r, 5, 6, 50, 30*ms, 300*ms) }),
		of("4 x 3, 5 messages", func(r *Receiver) { each(r, 4, 3, 5, 60*ms, 120*ms) }),
		of("10 x 1, 20 messages", func(r *Receiver) { each(r, 10, 1, 20, 60*ms, 200*ms) }),
		of("1 x 2, 100 messages", func(r *Receiver) { each(r, 1, 2, 100, 40*ms, 60*ms) }),
		of("2 x 10, 2% dropped", func(r *Receiver) { each(r, 2, 10, 0, 50*ms, 150*ms); r.Drop = 0.02 }),
		of("5 hosts, 8/s each", func(r *Receiver) {
			each(r, 5, 0, 0, 50*ms, 100*ms)
			r.Rate, r.RatePerHost = Always(8), true
		}),
		of("2 hosts, no limit", func(r *Receiver) { each(r, 2, 0, 0, 100*ms, 100*ms) }),
	}
}

// WriteCourse runs a kind and tells it second by second, and what the controller did and why.
func WriteCourse(w io.Writer, k Kind, seed uint64) (err error) {
	x := newWorld(&k, seed, newSender)
	x.explain = true
	x.run()
	changes := x.senders[0].history()
	say := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	for i, x := range x.samples {
		for len(changes) > 0 && changes[0].At.Sub(epoch) <= time.Duration(i+1)*time.Second {
			say("  %8.3f %d -> %d %s\n", changes[0].At.Sub(epoch).Seconds(), changes[0].From, changes[0].To, changes[0].Cause)
			changes = changes[1:]
		}
		if i < 30 || i%10 == 0 {
			say("%4d s: %d up, %d wanted, %d sent, %d refused; %s\n", i, x.Live, x.Wanted, x.Done, x.Refused, x.State)
		}
	}
	return err
}
