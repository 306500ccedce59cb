package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// BenchmarkScheduling drains a backlog over 10,000 destinations with sessions
// that send in no time, so that what is measured is the queue: it must not cost
// more a message with a longer backlog. One operation is one message.
func BenchmarkScheduling(b *testing.B) {
	for _, backlog := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(backlog), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				drain(b, backlog, 10_000)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(backlog), "ns/message")
		})
	}
}

func drain(b *testing.B, backlog, destinations int) {
	policy := config.Queue{Name: "general", MaxSessions: 20, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
	var q *Queue
	var sessions sync.WaitGroup
	q = New(Options{
		Resolve:     func(string) {},
		Launch:      func(s *Session) { sessions.Go(func() { sendAll(q, s) }) },
		Relay:       RelayDomain("127.0.0.1:10626"),
		MaxSessions: 2000,
		Idle:        100 * time.Millisecond,
	})
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { q.Run(ctx) })
	e := &spool.Envelope{Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
	for i := range backlog {
		e.Stream = fmt.Sprint("stream", i%7)
		q.Add(spool.ID(i+1), e, []string{fmt.Sprintf("d%d.example", i%destinations)}, nil, false)
	}
	b.StartTimer()
	for i := range destinations {
		name := fmt.Sprintf("d%d.example", i)
		q.Routed(name, Route{Queue: &policy, Site: name, Key: name})
	}
	for q.Queued() > 0 {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	if err := q.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	sessions.Wait()
	stop()
	running.Wait()
}

// sendAll is a session that delivers everything at once.
func sendAll(q *Queue, s *Session) {
	q.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: time.Now()}})
	var done []Settled
	sig := make([]elastic.Signal, 0, 1)
	for {
		job, err := q.Step(context.Background(), s, done, sig)
		if err != nil {
			q.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			return
		}
		done = done[:0]
		for _, it := range job.Items {
			done = append(done, Settled{Handle: it.Handle, State: spool.State{Status: spool.Delivered}})
		}
		sig = append(sig[:0], elastic.Signal{Kind: elastic.Accepted, Began: time.Now()})
	}
}
