package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const (
	transactionalRate = 20 // messages a second
	// More than it needs: one that waits must not hold up the rest. With the
	// bulk's, fewer than the 100 smtpd(8) that Postfix runs by default.
	transactionalConnections = 40

	hangingDomains = 20
	bulkSender     = "bounce@news.sender.test"
)

// blastProviders is an internet of big receivers with limits, and of small ones
// that hang, each with a host of its own as those have.
func blastProviders() []sink.Provider {
	all := []sink.Provider{
		{Name: "google", Domains: []string{"gmail.test"}, Hosts: 5,
			Behaviour: sink.Behaviour{RTT: 30 * time.Millisecond, HostConnections: 20}},
		{Name: "outlook", Domains: []string{"outlook.test"}, Hosts: 2,
			Behaviour: sink.Behaviour{RTT: 80 * time.Millisecond, HostConnections: 15}},
		{Name: "yahoo", Domains: []string{"yahoo.test"}, Hosts: 3,
			Behaviour: sink.Behaviour{RTT: 30 * time.Millisecond, HostConnections: 10, MaxMessages: 20}},
	}
	for i := range hangingDomains {
		all = append(all, sink.Provider{Name: fmt.Sprintf("hanging%d", i), Domains: []string{hangingDomain(i)},
			Behaviour: sink.Behaviour{HangConnect: 1}})
	}
	return all
}

func hangingDomain(i int) string { return fmt.Sprintf("h%d.hangs.test", i) }

func hangs(recipient string) bool { return strings.HasSuffix(recipient, ".hangs.test") }

// blastMix is the recipients' domains, each as often as it is to be hit, and
// those of them that hosts answer for.
func blastMix() (bulk, answering []string) {
	answering = slices.Concat(slices.Repeat([]string{"gmail.test"}, 600),
		slices.Repeat([]string{"outlook.test"}, 200), slices.Repeat([]string{"yahoo.test"}, 180))
	bulk = slices.Clone(answering)
	for i := range 20 {
		bulk = append(bulk, hangingDomain(i%hangingDomains))
	}
	return bulk, answering
}

// firstBeside is the number of the first transactional message beside the
// blast; idle ones have lower numbers.
const firstBeside = 1_000_000

// blastOnce is a round of one variant.
func blastOnce(ctx context.Context, b *bench, w world) (r blastRound, err error) {
	came := &arrivals{first: make(map[string]time.Time)}
	w.accepted = came.note
	h, err := start(ctx, w)
	if err != nil {
		return r, err
	}
	defer func() { err = joinClose(err, h) }()
	bulkMix, answering := blastMix()
	few := &inject.Generator{Seed: 3, Domains: answering, MinSize: 4 << 10, Transactional: 1}
	many := &inject.Generator{Seed: 4, Domains: bulkMix, MinSize: common, Sender: bulkSender}

	idle := flight{few, 0, b.idle, time.Now().Add(b.idle + b.tail)}
	if r.idle, err = idle.fly(ctx, h, came); err != nil {
		return r, err
	}

	began := time.Now()
	end := began.Add(b.window)
	window, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	var beside sync.WaitGroup
	beside.Go(func() { r.most = watchLoad(window) })
	beside.Go(func() {
		// What Postfix has not taken by the end has not arrived either.
		in := &inject.Injector{Addr: h.Postfix.SMTPAddr(), Connections: 20, Timeout: b.window}
		_, _ = in.Run(window, b.bulk, many.Message)
	})
	r.beside, err = flight{few, firstBeside, b.window - b.tail, end}.fly(ctx, h, came)
	var deliverable []string
	for i := range b.bulk {
		if !hangs(many.Message(i).Recipients[0]) {
			deliverable = append(deliverable, messageID(many, inject.BulkPrefix, i))
		}
	}
	if err == nil {
		err = came.await(ctx, end, deliverable)
	}
	cancel()
	beside.Wait()
	if err != nil {
		return r, err
	}
	r.bulk = came.since(began, deliverable)
	for _, s := range h.Internet.Stats().Hosts {
		r.refused += s.RefusedConnections()
		r.connections += s.Peak
	}
	return r, nil
}

func messageID(g *inject.Generator, prefix string, i int) string {
	return fmt.Sprintf("%s%d-%d", prefix, g.Seed, i)
}

// flight is transactional mail sent at its rate for some time.
type flight struct {
	generator *inject.Generator
	first     int // number of its first message
	during    time.Duration
	end       time.Time // what has not arrived by then never does
}

// fly gives the latency of every message, sorted, each from when it was due: an
// injector that is held up must not make the mail look fast. It returns when
// all have arrived, or at the end.
func (f flight) fly(ctx context.Context, h *host, came *arrivals) ([]time.Duration, error) {
	n := max(int(f.during.Seconds()*transactionalRate), 1)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = messageID(f.generator, inject.TransactionalPrefix, f.first+i)
	}
	untilEnd, cancel := context.WithDeadline(ctx, f.end)
	defer cancel()
	in := &inject.Injector{Addr: h.Postfix.SMTPAddr(), Connections: transactionalConnections, Rate: transactionalRate, Timeout: time.Until(f.end)}
	began := time.Now()
	_, _ = in.Run(untilEnd, n, func(i int) *inject.Message { return f.generator.Message(f.first + i) })
	if err := came.await(ctx, f.end, ids); err != nil {
		return nil, err
	}
	took := make([]time.Duration, n)
	for i, id := range ids {
		took[i] = never
		if at, ok := came.at(id); ok {
			took[i] = at.Sub(began.Add(time.Duration(i) * time.Second / transactionalRate))
		}
	}
	slices.Sort(took)
	return took, nil
}

// arrivals is when each message was first accepted by a receiver.
type arrivals struct {
	mu    sync.Mutex
	first map[string]time.Time // by id
}

// note is called by the receivers.
func (a *arrivals) note(m *sink.Message) {
	now := time.Now()
	id := labID(m.Content)
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, again := a.first[id]; !again {
		a.first[id] = now
	}
}

func (a *arrivals) at(id string) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.first[id]
	return t, ok
}

// await waits until all have arrived or the end has come; the error is that of
// ctx.
func (a *arrivals) await(ctx context.Context, end time.Time, ids []string) error {
	untilEnd, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	have := 0
	err := lab.Until(untilEnd, func() (bool, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for have < len(ids) && !a.first[ids[have]].IsZero() {
			have++
		}
		return have == len(ids), nil
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// since gives the time from began until each of the messages arrived, sorted.
func (a *arrivals) since(began time.Time, ids []string) []time.Duration {
	took := make([]time.Duration, len(ids))
	for i, id := range ids {
		took[i] = never
		if at, ok := a.at(id); ok {
			took[i] = at.Sub(began)
		}
	}
	slices.Sort(took)
	return took
}
