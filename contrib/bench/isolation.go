package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutIsolation = `The agent starts on %d messages for each destination. *Alone* there are the %d healthy
ones, each with a limit of %d connections at %v; *beside sick ones* there are %d more that never say a word,
%d that are down and %d that throttle, with as many messages each. The rate is that of the healthy ones, from
their first message to their last.`

const (
	healthyDestinations = 35
	sickDestinations    = 5 // of each kind
	healthyConnections  = 10
	healthyRTT          = 100 * time.Millisecond
)

// healthy and sick are the internet of the scenario.
func healthy() []sink.Provider {
	return destinations("healthy", healthyDestinations, sink.Behaviour{RTT: healthyRTT, HostConnections: healthyConnections})
}

func sick() []sink.Provider {
	all := destinations("hanging", sickDestinations, sink.Behaviour{HangConnect: 1})
	all = append(all, destinations("dead", sickDestinations, sink.Behaviour{Down: true})...)
	return append(all, destinations("throttling", sickDestinations, sink.Behaviour{RTT: healthyRTT, HostConnections: 2, Rate: 2, Burst: 2})...)
}

func destinations(kind string, n int, b sink.Behaviour) []sink.Provider {
	all := make([]sink.Provider, n)
	for i := range all {
		name := fmt.Sprintf("%s%d", kind, i)
		all[i] = sink.Provider{Name: name, Domains: []string{name + ".test"}, Behaviour: b}
	}
	return all
}

func isolation(ctx context.Context, b *bench) ([]section, error) {
	perSecond := func(v float64) string { return fmt.Sprintf("%.0f messages/s", v) }
	found, err := alternate(ctx, b, "Isolation", []variant[float64]{
		{"alone", func(ctx context.Context) (float64, error) { return healthyRate(ctx, b, nil) }},
		{"beside sick ones", func(ctx context.Context) (float64, error) { return healthyRate(ctx, b, sick()) }},
	}, perSecond)
	if err != nil {
		return nil, err
	}
	alone, beside := series(found[0]), series(found[1])
	return []section{{
		title: "Isolation",
		about: fmt.Sprintf(aboutIsolation, b.perDestination(), healthyDestinations, healthyConnections, healthyRTT,
			sickDestinations, sickDestinations, sickDestinations),
		tables: []table{{title: "Rate of the healthy destinations", columns: []string{"", "messages/s"}, rows: [][]string{
			{"alone", alone.cell(count)}, {"beside sick ones", beside.cell(count)},
		}}},
		claims: []claim{{what: "rate of the healthy destinations: beside sick ones / alone", reach: "at least 0.95",
			got: beside.to(alone), met: atLeast(0.95)}},
	}}, nil
}

// perDestination is how many messages each destination gets.
func (b *bench) perDestination() int { return max(b.backlog/20, 1) }

// healthyRate drains to the healthy destinations, beside others if there are any.
func healthyRate(ctx context.Context, b *bench, others []sink.Provider) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	var w watch
	h, err := start(ctx, world{
		providers: append(healthy(), others...), accepted: w.note, asleep: true,
		millrace: &lab.MillraceOptions{Set: map[string]string{"handback.relay": `"127.0.0.1:10626"`}},
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = joinClose(err, h) }()
	w.want = b.perDestination() * healthyDestinations
	w.all = make(chan struct{})
	if err := fill(ctx, h.Millrace.Spool(), &inject.Generator{Seed: 1, Domains: domainsOf(healthy()), MinSize: 8 << 10}, w.want, &h.sent); err != nil {
		return 0, err
	}
	if len(others) > 0 {
		g := &inject.Generator{Seed: 2, Domains: domainsOf(others), MinSize: 8 << 10}
		if err := fill(ctx, h.Millrace.Spool(), g, b.perDestination()*len(others), &h.sent); err != nil {
			return 0, err
		}
	}
	if err := h.Millrace.Agent.Start(ctx); err != nil {
		return 0, err
	}
	select {
	case <-w.all:
	case <-ctx.Done():
		return 0, errors.New("the healthy destinations did not get all their mail in time")
	}
	return float64(w.want-1) / w.last.Sub(w.first).Seconds(), nil
}

func domainsOf(providers []sink.Provider) (list []string) {
	for _, p := range providers {
		list = append(list, p.Domains...)
	}
	return list
}

// watch waits for the mail of the healthy destinations.
type watch struct {
	want int
	all  chan struct{}

	mu          sync.Mutex
	n           int
	first, last time.Time
}

func (w *watch) note(m *sink.Message) {
	if !strings.HasPrefix(m.Provider, "healthy") {
		return
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n == 0 {
		w.first = now
	}
	w.last = now
	if w.n++; w.n == w.want {
		close(w.all)
	}
}
