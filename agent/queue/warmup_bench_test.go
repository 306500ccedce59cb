package queue

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/warmup"
)

// BenchmarkWarmup drains a backlog from an address like others, from one that warms up and has
// room for all of it, and from one whose share is used up, so that all overflows to another. What
// it tells is what the gate costs a message. One operation is a backlog.
func BenchmarkWarmup(b *testing.B) {
	const cold = "192.0.2.2"
	for _, bench := range []struct {
		name  string
		share int // 0: the address has no plan
	}{{"none", 0}, {"room", 24 << 20}, {"overflow", 1}} {
		b.Run(bench.name, func(b *testing.B) {
			var all time.Duration
			const backlog, destinations = 100_000, 1000
			for range b.N {
				all += drainWarmup(b, bench.share, cold, backlog, destinations)
			}
			b.ReportMetric(float64(all.Nanoseconds())/float64(b.N)/backlog, "ns/message")
		})
	}
}

func drainWarmup(b *testing.B, share int, cold string, backlog, destinations int) time.Duration {
	policy := config.Queue{Name: "general", MaxSessions: 20, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
	var q *Queue
	var sessions, running sync.WaitGroup
	ctx, stop := context.WithCancel(b.Context())
	w := warmup.New(warmup.Options{Log: slog.New(slog.DiscardHandler), Granted: func() { q.QuotasGranted() }}, time.Now())
	w.Use(map[string]warmup.Plan{cold: {Name: "plan", Days: []int{max(1, share)}}})
	route := func(name string) {
		domain, from := SplitRouteName(name)
		rt := Route{Queue: &policy, Site: domain, Key: domain, From: "pool " + cold}
		if from != "" {
			rt.Site, rt.Key, rt.From = domain+" warm", domain+" warm", from
		} else if share > 0 {
			rt.Warmup = &Warmup{
				Key: cold, Addresses: []string{cold}, Budgets: []Budget{w.Share(cold, "general")},
				Elsewhere: func(string, spool.ID, uint32) string { return "pool 192.0.2.1" },
			}
		}
		q.Routed(name, rt)
	}
	ask := make(chan string, 2*destinations)
	q = New(Options{
		Resolve:     func(name string) { ask <- name },
		Launch:      func(s *Session) { sessions.Go(func() { sendAll(q, s) }) },
		Relay:       RelayDomain("127.0.0.1:10626"),
		MaxSessions: 2000,
		Idle:        100 * time.Millisecond,
	})
	running.Go(func() { q.Run(ctx) })
	running.Go(func() { w.Run(ctx) })
	e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
	for i := range backlog {
		q.Add(spool.ID(i+1), e, []string{fmt.Sprintf("d%d.example", i%destinations)}, nil, false)
	}
	for share > 1 { // what is measured is not how a block of the count is reserved
		if n, _ := w.Share(cold, "general").Room(time.Now()); n > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	running.Go(func() {
		for {
			select {
			case name := <-ask:
				route(name)
			case <-ctx.Done():
				return
			}
		}
	})
	for q.Queued() > 0 {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	if err := q.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	sessions.Wait()
	stop()
	running.Wait()
	return took
}
