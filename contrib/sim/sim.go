// Package sim simulates, in virtual time, the agent's controller (packages
// agent/elastic and agent/slots) against receivers that keep their limits to themselves.
//
// A [Kind] is a receiver, the sender's settings and the figures that must be
// reached; [Kinds] is the catalogue of the receivers known from practice. [Run]
// lets a sender drain an endless backlog to a kind for a while and returns a
// [Result]: how much of the possible was sent, how often the receiver had to
// refuse, how soon full speed was reached and how soon it was found again after
// a change. [Kind.Misses] names the figures that are not good enough.
//
//	for _, k := range sim.Kinds() {
//		r := sim.Run(k, seed)
//		misses := k.Misses(&r.Figures)
//	}
//
// A [Population] is a law by which receivers are drawn from a seed that nobody chose;
// [Population.Meet] sends to one, and compares that to what an oracle sends that knows the
// receiver and meets the same chance. [Table] is the ten receivers that were met over sockets.
// [Receiver.Provider] is a receiver over sockets, by package sink; tests hold it to the same
// answers as the simulated one.
//
// The sender runs elastic.Site and package slots as they are, with the agent's rules for
// destinations that do not answer. The simulation is a
// sequence of events drawn from a seeded generator: the same kind and seed give the
// same result on any machine, and an hour passes in some tenths of a second.
//
// Command millrace-sim prints the figures and draws the runs. The tests hold
// these figures to those of each Kind, and to testdata/golden.txt.
package sim

import (
	"math"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// Result is one run.
type Result struct {
	Figures
	Samples []Sample         // one a second
	Changes []elastic.Change // the last of the (first source's) controller
	Broken  string           // a promise of package elastic that was not kept; "" if all were
}

// Sample is what went on in one second.
type Sample struct {
	Live     int     // connections up at its end, all sources
	Wanted   int     // what the controllers want then
	Done     int     // messages accepted in it
	Refused  int     // connections and messages refused in it
	State    string  // of the first controller, in words
	Possible float64 // messages a second that the receiver's limits allow
}

// world is one simulation.
type world struct {
	clock     *clock
	kind      *Kind
	receiver  *receiver
	senders   []agent
	backlog   int
	connects  int
	quiet     int // connects begun during the suspension
	done      []time.Duration
	refused   []time.Duration // connections and messages
	tooFast   []time.Duration // of these, messages
	perSource []int
	host      host
	samples   []Sample
	lowered   bool
	explain   bool // samples tell the controller's state
	bad       string
}

// connection is one that is up, or on its way.
type connection struct {
	at   place
	host int
	n    int // messages
}

// agent is who sends from one source address: a sender with its controller, or an oracle.
type agent interface {
	act()
	up() int
	wanted() int
	hostMail()
	clamp(elastic.Clamp)
	state() string
	history() []elastic.Change
}

// newWorld makes the world of a seed, where newSender or newOracle makes who sends.
func newWorld(k *Kind, seed uint64, by func(w *world, source int) agent) *world {
	w := &world{clock: newClock(seed), kind: k, backlog: 1 << 20, perSource: make([]int, k.sources())}
	w.receiver = newReceiver(k.Receiver, w.clock, k.sources())
	for i := range k.sources() {
		w.senders = append(w.senders, by(w, i))
	}
	return w
}

// Run simulates a kind from a start with a backlog to its end.
func Run(k Kind, seed uint64) *Result { return runBy(k, seed, newSender) }

// RunOracle is the same with a sender that knows all limits: what is possible.
func RunOracle(k Kind, seed uint64) *Result { return runBy(k, seed, newOracle) }

func runBy(k Kind, seed uint64, by func(w *world, source int) agent) *Result {
	w := newWorld(&k, seed, by)
	w.run()
	r := &Result{Samples: w.samples, Broken: w.bad}
	r.Changes = w.senders[0].history()
	r.Figures = w.figures()
	if k.HostEvery > 0 {
		alone := newWorld(&k, seed, by)
		alone.backlog = 0
		alone.run()
		r.HostAlone = alone.host.share(k.Learning)
	}
	return r
}

func (w *world) run() {
	if w.kind.HostEvery > 0 {
		w.hostSends()
	}
	if s := w.kind.Suspended; s != (Span{}) {
		w.clock.after(s.From, func() { w.suspend(s) })
	}
	w.sample()
	for _, s := range w.senders {
		s.act()
	}
	w.clock.run(w.kind.Length)
	if w.kind.Lowered > 0 && !w.lowered {
		w.bad = "the limit was not lowered, since no probe was refused"
	}
}

// suspend puts the clamp on that a provider rule would.
func (w *world) suspend(s Span) {
	for _, x := range w.senders {
		x.clamp(elastic.Clamp{Sessions: 0, Until: epoch.Add(s.To), Reason: "421 4.7.0 blocked"})
		x.act()
	}
}

// sample notes each second.
func (w *world) sample() {
	w.clock.after(time.Second, func() {
		x := Sample{Possible: w.kind.Possible(w.clock.now - time.Second)}
		for _, s := range w.senders {
			x.Live += s.up()
			x.Wanted += s.wanted()
		}
		if w.explain {
			x.State = w.senders[0].state()
		}
		x.Done = since(w.done, w.clock.now-time.Second)
		x.Refused = since(w.refused, w.clock.now-time.Second)
		w.samples = append(w.samples, x)
		w.sample()
	})
}

// since counts the last of ascending times.
func since(at []time.Duration, from time.Duration) int {
	n := 0
	for i := len(at) - 1; i >= 0 && at[i] > from; i-- {
		n++
	}
	return n
}

func (w *world) delivered() { w.done = append(w.done, w.clock.now) }

func (w *world) refusedNow(rate bool) {
	w.refused = append(w.refused, w.clock.now)
	if rate {
		w.tooFast = append(w.tooFast, w.clock.now)
	}
	if k := w.kind; k.Lowered > 0 && !w.lowered && w.clock.now >= loweredFrom {
		w.lowered = true
		before := k.Receiver.Limit[0].Value
		k.Receiver.Limit = Always(before).Then(w.clock.now, k.Lowered).Then(k.Lifted, before)
		w.receiver.Limit = k.Receiver.Limit
	}
}

// Figures are what a run comes to.
type Figures struct {
	Goodput   float64 // messages accepted from Learning to the end, over the possible
	Refusals  float64 // for each message accepted, over the first 10 minutes
	Late      float64 // the same from Learning on
	Start     float64 // to 90% of the possible, in transaction times
	Recovery  float64 // seconds from Lifted until 85% of the possible is reached and kept for 30 s
	Allowed   float64 // seconds that this may take: a minute or 200 messages
	Fairness  float64 // Jain's index of the source addresses' goodput, 1 is equal
	Host      float64 // share of the host's own connections refused, from Learning on
	HostAlone float64 // the same with nothing of ours
	Quiet     int     // connects during a suspension
}

// refusalsOver is the time over which refusals are counted.
const refusalsOver = 10 * time.Minute

func (w *world) figures() Figures {
	k := w.kind
	f := Figures{Quiet: w.quiet, Start: math.Inf(1), Fairness: jain(w.perSource)}
	f.Goodput = float64(between(w.done, k.Learning, k.Length)) / w.possible(k.Learning, k.Length)
	f.Refusals = ratio(between(w.refused, 0, refusalsOver), between(w.done, 0, refusalsOver))
	f.Late = ratio(between(w.refused, k.Learning, k.Length), between(w.done, k.Learning, k.Length))
	f.Host = w.host.share(k.Learning)
	if at, ok := w.reached(0.9 * k.Possible(0)); ok {
		f.Start = at.Seconds() / k.Receiver.Transaction().Seconds()
	}
	if k.Lifted > 0 {
		f.Allowed = 60
		if before := k.Possible(k.Lifted - 1); before > 0 {
			f.Allowed = max(60, 200/before)
		}
		f.Recovery = w.recovered(k.Lifted)
	}
	return f
}

// possible is how many messages the receiver's limits allow between two times.
func (w *world) possible(from, to time.Duration) (n float64) {
	for t := from; t < to; t += time.Second {
		n += w.kind.Possible(t)
	}
	return n
}

// reached is when the goodput first was the given rate over some transactions.
func (w *world) reached(rate float64) (time.Duration, bool) {
	n := int(max(10, rate*w.kind.Receiver.Transaction().Seconds()))
	for i := 0; i+n < len(w.done); i++ {
		if float64(n)/(w.done[i+n]-w.done[i]).Seconds() >= rate {
			return w.done[i], true
		}
	}
	return 0, false
}

// recovered is how many seconds after a time goodput was good for 30 seconds.
func (w *world) recovered(from time.Duration) float64 {
	const kept = 30 * time.Second
	for t := from; t+kept <= w.kind.Length; t += time.Second {
		if float64(between(w.done, t, t+kept)) >= goodputMark*w.possible(t, t+kept) {
			return (t - from).Seconds()
		}
	}
	return math.Inf(1)
}

// between counts of ascending times those from one to before another.
func between(at []time.Duration, from, to time.Duration) int {
	i, _ := slices.BinarySearch(at, from)
	j, _ := slices.BinarySearch(at, to)
	return j - i
}

func ratio(n, of int) float64 { return float64(n) / float64(max(1, of)) }

// jain is Jain's index of fairness.
func jain(x []int) float64 {
	var sum, squares float64
	for _, n := range x {
		sum += float64(n)
		squares += float64(n) * float64(n)
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(x)) * squares)
}
