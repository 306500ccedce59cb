package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/sim"
)

// target is a receiver that is met.
type target struct {
	name     string // of its provider; its domain is <name>.example
	what     string // in words
	queue    string // that has it alone; "" is the general one
	receiver sim.Receiver
	offered  float64 // messages a second that come for it; 0: all wait at the start
	waiting  int     // messages that wait at the start
	possible float64 // messages in the time that is measured
	rate     float64 // the same a second
}

// newTarget asks what is possible at a receiver, by a sender that knows it, with chance from
// the seed. Where that is more than most a second, no more is offered.
func (b *bench) newTarget(k sim.Kind, name string, seed uint64, most float64) *target {
	k.Length, k.Learning = b.learn+b.measured, b.learn
	k.HostEvery = 0 // there is no host MTA beside
	t := &target{name: name, what: k.Name, receiver: k.Receiver}
	all := 0
	for i, s := range sim.RunOracle(k, seed).Samples {
		all += s.Done
		if i >= int(b.learn.Seconds()) {
			t.possible += float64(s.Done)
		}
	}
	t.rate = t.possible / b.measured.Seconds()
	if t.rate > most {
		t.offered, t.rate, t.possible = most, most, most*b.measured.Seconds()
		return t
	}
	t.waiting = all*5/4 + 50
	return t
}

// generator makes the target's messages.
func (t *target) generator(seed uint64) *inject.Generator {
	return &inject.Generator{Seed: seed, Domains: []string{t.name + ".example"}, MinSize: 2 << 10}
}

// met is how a sender fared at a receiver, in the time that is measured.
type met struct {
	share   float64 // messages accepted, of the possible
	refused float64 // connections, for each message accepted
	tooFast float64 // messages, likewise
}

func (m met) shared() float64           { return m.share }
func (m met) refusedOnly() float64      { return m.refused }
func (m met) tooFastOnly() float64      { return m.tooFast }
func (m met) refusals() float64         { return m.refused + m.tooFast }
func (b *bench) watched() time.Duration { return b.learn + b.measured }

// metText is a line for the progress.
func metText(found []met) string {
	var b strings.Builder
	for _, m := range found {
		fmt.Fprintf(&b, "%.2f (%s, %s) ", m.share, percent(m.refused), percent(m.tooFast))
	}
	return b.String()
}

// meetAll has each sender meet all targets once a round, and says in words how fast each drains.
func (b *bench) meetAll(ctx context.Context, title string, senders []string, list []*target) (found [][][]met, rates string, err error) {
	slowest := math.Inf(1)
	for _, name := range senders {
		rate, err := b.drainRate(ctx, name)
		if err != nil {
			return nil, "", fmt.Errorf("drain rate of %s: %w", name, err)
		}
		fmt.Fprintf(b.progress, "%s: %s drains %.0f messages/s\n", title, name, rate)
		rates += fmt.Sprintf(", %s %.0f messages/s", name, rate)
		slowest = min(slowest, rate)
	}
	groups := grouped(list, slowest/2)
	var variants []variant[[]met]
	for _, name := range senders {
		variants = append(variants, variant[[]met]{name, func(ctx context.Context) ([]met, error) {
			of := map[*target]met{}
			for _, g := range groups {
				m, err := b.meet(ctx, name, g)
				if err != nil {
					return nil, err
				}
				for i, t := range g {
					of[t] = m[i]
				}
			}
			all := make([]met, len(list))
			for i, t := range list {
				all[i] = of[t]
			}
			return all, nil
		}})
	}
	found, err = alternate(ctx, b, title, variants, metText)
	return found, strings.TrimPrefix(rates, ", "), err
}

// grouped puts targets together whose sum stays under a rate; one that is above it alone
// is by itself.
func grouped(list []*target, most float64) (groups [][]*target) {
	var sums []float64
	sorted := slices.SortedStableFunc(slices.Values(list), func(a, b *target) int { return cmp.Compare(b.rate, a.rate) })
next:
	for _, t := range sorted {
		for i := range groups {
			if sums[i]+t.rate <= most {
				groups[i], sums[i] = append(groups[i], t), sums[i]+t.rate
				continue next
			}
		}
		groups, sums = append(groups, []*target{t}), append(sums, t.rate)
	}
	return groups
}

// racer is a sender with mail in its queue that does not send yet.
type racer struct {
	*host
	name  string
	spool *spool.Writer // Millrace's
}

// newRacer starts a sender; options are Millrace's.
func (b *bench) newRacer(ctx context.Context, name string, providers []sink.Provider, o lab.MillraceOptions) (*racer, error) {
	w := world{providers: providers, asleep: true}
	// No mail goes out before release says so.
	waits := map[string]string{"defer_transports": "smtp", "maximal_queue_lifetime": "1d"}
	switch name {
	case ourselves:
		set := map[string]string{"handback.relay": `"127.0.0.1:10626"`, "general.max_sessions": "200"} // nobody listens, and nobody needs it
		for k, v := range o.Set {
			set[k] = v
		}
		o.Set = set
		w.millrace = &o
	case asShipped:
		w.postfix = &lab.PostfixOptions{Extra: waits}
	case asTuned:
		w.postfix = tuned(waits)
	}
	h, err := start(ctx, w)
	if err != nil {
		return nil, err
	}
	r := &racer{host: h, name: name}
	if name == ourselves {
		if r.spool, err = spool.OpenWriter(h.Millrace.Spool(), spool.WriterOptions{}); err != nil {
			return nil, errors.Join(err, h.close())
		}
		h.Defer(r.spool.Close)
	}
	return r, nil
}

// take puts n messages into the queue, at a rate if there is one.
func (r *racer) take(ctx context.Context, n int, rate float64, message func(i int) *inject.Message) error {
	if r.spool == nil {
		in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 20, Rate: rate, Retry: time.Second}
		run, err := in.Run(ctx, n, message)
		if err == nil && run.Messages != n {
			err = fmt.Errorf("inject: Postfix took %d of %d messages: %w", run.Messages, n, run.Err)
		}
		return err
	}
	var sent ledger.Ledger
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(spoolWriters)
	began := time.Now()
	for i := range n {
		if rate > 0 && !waitUntil(ctx, began.Add(time.Duration(float64(i)/rate*float64(time.Second)))) {
			break
		}
		workers.Go(func() error { return appendTo(ctx, r.spool, i, message(i), &sent) })
	}
	return workers.Wait()
}

// release lets the sender send, and gives the time.
func (r *racer) release(ctx context.Context, n int) (time.Time, error) {
	if r.spool != nil {
		began := time.Now()
		return began, r.Millrace.Agent.Start(ctx)
	}
	if err := lab.Until(ctx, r.queueEmpty); err != nil {
		return time.Time{}, fmt.Errorf("not all is deferred: %w", err)
	}
	err := errors.Join(r.Postfix.Set(ctx, "defer_transports", ""), r.Postfix.Reload(ctx))
	began := time.Now()
	return began, errors.Join(err, r.Postfix.Flush(ctx))
}

// waitUntil waits until a time; false: ctx ended before.
func waitUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// shuffled mixes the messages of all targets that wait at the start.
func shuffled(list []*target) (n int, message func(i int) *inject.Message) {
	type number struct{ target, message int }
	var order []number
	var generators []*inject.Generator
	for i, t := range list {
		generators = append(generators, t.generator(uint64(2*i+1)))
		for j := range t.waiting {
			order = append(order, number{i, j})
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return len(order), func(i int) *inject.Message { return generators[order[i].target].Message(order[i].message) }
}

// drainRate is how fast a sender empties a queue into receivers that take everything at once.
func (b *bench) drainRate(ctx context.Context, name string) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	r, err := b.newRacer(ctx, name, ideal(), lab.MillraceOptions{Set: map[string]string{"general.max_sessions": "20"}})
	if err != nil {
		return 0, err
	}
	defer func() { err = joinClose(err, r.host) }()
	g := &inject.Generator{Seed: 1, Domains: domains(bulkDomains), MinSize: 2 << 10}
	if err := r.take(ctx, b.messages, 0, g.Message); err != nil {
		return 0, err
	}
	if _, err := r.release(ctx, b.messages); err != nil {
		return 0, err
	}
	if err := r.arrived(ctx, b.messages); err != nil {
		return 0, err
	}
	return rateOf(r.Internet.Ledger()), nil
}

// providersOf are the targets over sockets.
func providersOf(list []*target) (all []sink.Provider, err error) {
	for _, t := range list {
		p, err := t.receiver.Provider(t.name, t.name+".example")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.what, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// meet has a sender meet targets, all at once.
func (b *bench) meet(ctx context.Context, name string, list []*target) (found []met, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall+b.watched())
	defer cancel()
	providers, err := providersOf(list)
	if err != nil {
		return nil, err
	}
	r, err := b.newRacer(ctx, name, providers, lab.MillraceOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = joinClose(err, r.host) }()
	return r.watch(ctx, b, list)
}

// watch lets the sender send what it has, and the targets' mail, and gives how it fared.
func (r *racer) watch(ctx context.Context, b *bench, list []*target) (found []met, err error) {
	began, stop, err := r.begin(ctx, b, list)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	late := newLateTimers()
	defer late.stop()
	window := [2]sink.Stats{}
	for i, after := range []time.Duration{b.learn, b.watched()} {
		if !waitUntil(ctx, began.Add(after)) {
			return nil, ctx.Err()
		}
		window[i] = r.Internet.Stats()
	}
	fmt.Fprintf(b.progress, "%s, %d at once, %.0f messages/s possible; timers of this program were late by %v at most, %v in the mean\n",
		r.name, len(list), sumOf(list), late.most().Round(time.Millisecond), late.mean().Round(10*time.Microsecond))
	for _, t := range list {
		found = append(found, t.met(window[0].Provider(t.name), window[1].Provider(t.name)))
	}
	if r.name == ourselves {
		r.why(ctx, b.progress, list, found)
	}
	return found, nil
}

// begin puts the targets' mail into the queue, lets the sender send, and lets the rest
// of the mail and the receivers' changes come at their times, until stop.
func (r *racer) begin(ctx context.Context, b *bench, list []*target) (began time.Time, stop func() error, err error) {
	n, message := shuffled(list)
	if err := r.take(ctx, n, 0, message); err != nil {
		return began, nil, err
	}
	if began, err = r.release(ctx, n); err != nil {
		return began, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	work, ctx := errgroup.WithContext(ctx)
	for i, t := range list {
		if t.offered > 0 {
			work.Go(func() error {
				g := t.generator(uint64(2*i + 2))
				err := r.take(ctx, int(t.offered*b.watched().Seconds()*2), t.offered, g.Message)
				if ctx.Err() != nil {
					return nil
				}
				return err
			})
		}
		for _, at := range t.receiver.Changes() {
			work.Go(func() error {
				if !waitUntil(ctx, began.Add(at)) {
					return nil
				}
				for h := range r.hostsOf(t.name) {
					err := r.Internet.Change(t.receiver.HostName(t.name, h), func(b *sink.Behaviour) { *b = t.receiver.Host(h, at) })
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	return began, func() error { cancel(); return work.Wait() }, nil
}

// hostsOf is how many hosts a provider has.
func (r *racer) hostsOf(provider string) (n int) {
	for _, h := range r.Internet.Stats().Hosts {
		if h.Provider == provider {
			n++
		}
	}
	return n
}

// met is how a target was met between two counts.
func (t *target) met(from, to sink.HostStats) met {
	n := float64(to.Messages - from.Messages)
	each := func(k int64) float64 { return float64(k) / max(n, 1) }
	return met{
		share:   n / t.possible,
		refused: each(to.RefusedConnections() - from.RefusedConnections()),
		tooFast: each(to.Refused[sink.CauseRate] - from.Refused[sink.CauseRate]),
	}
}

// why writes what the agent says of targets that got less than they could.
func (r *racer) why(ctx context.Context, w io.Writer, list []*target, found []met) {
	r.tell(ctx, w, func(s *control.Site) string {
		for i, t := range list {
			if found[i].share < 0.95 && (strings.Contains(s.Name, t.name+".test") || s.Queue == t.queue) {
				return fmt.Sprintf("%.2f at %s", found[i].share, t.what)
			}
		}
		return ""
	})
}

// tell writes what the agent says of sites that are given a heading.
func (r *racer) tell(ctx context.Context, w io.Writer, heading func(*control.Site) string) {
	c := control.NewClient(r.Millrace.Control())
	defer c.Close()
	status, err := c.Status(ctx)
	if err != nil {
		fmt.Fprintln(w, "why:", err)
		return
	}
	for _, s := range status.Sites {
		title := heading(&s)
		if title == "" {
			continue
		}
		fmt.Fprintf(w, "%s: %+v\n", title, s)
		changes, err := c.Why(ctx, s.Name)
		if err != nil {
			fmt.Fprintln(w, "why:", err)
		}
		for _, x := range changes[max(0, len(changes)-10):] {
			fmt.Fprintf(w, "    %+v\n", x)
		}
	}
}

// sumOf is what is possible at all targets together, messages a second.
func sumOf(list []*target) (sum float64) {
	for _, t := range list {
		sum += t.rate
	}
	return sum
}

// lateTimers tells whether the machine had time for what is measured: a figure is of the
// machine, not of a sender, where timers come late by a good part of a round trip.
type lateTimers struct {
	n, sum, max atomic.Int64
	stop        func()
}

// newLateTimers watches until stop.
func newLateTimers() *lateTimers {
	const every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	l := &lateTimers{}
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			due := time.Now().Add(every)
			if !waitUntil(ctx, due) {
				return
			}
			late := int64(time.Since(due))
			l.n.Add(1)
			l.sum.Add(late)
			l.max.Store(max(l.max.Load(), late))
		}
	})
	l.stop = func() { cancel(); watch.Wait() }
	return l
}

func (l *lateTimers) most() time.Duration { return time.Duration(l.max.Load()) }

func (l *lateTimers) mean() time.Duration { return time.Duration(l.sum.Load() / max(l.n.Load(), 1)) }
