package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/fleet/lease"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// The calls to the store are as many whatever is sent, where floors are enough; above them a site
// that wants more has one made earlier, at most five a second.
func TestCallsDoNotGrowWithMessages(t *testing.T) {
	t.Parallel()
	const wide, narrow = 1000, 9 // of ten nodes: floors of 100 and of 0
	idle := callsIn10s(t, wide, 0)
	if n := callsIn10s(t, wide, 2000); n != idle || idle < 1 || idle > 3 {
		t.Errorf("%d calls in 10 s with 2,000 messages a second, %d with none", n, idle)
	}
	if n := callsIn10s(t, narrow, 200); n < 10 || n > 50 {
		t.Errorf("%d calls in 10 s where more than the floors is wanted", n)
	}
}

// callsIn10s is how many calls a node makes that sends so many messages a second to a
// hundred sites of such a limit.
func callsIn10s(t *testing.T, limit, messages int) (n int64) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, sites = 10, 100
		store, boot := newTwin()
		f, err := Open(Options{
			Config: config.Fleet{Name: "mail", Node: "a", Nodes: nodes}, Directory: t.TempDir(), Store: store, Boot: boot, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		policy := &config.Queue{Name: "general", MaxSessions: limit, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
		var q *queue.Queue
		var group sync.WaitGroup
		q = queue.New(queue.Options{
			Resolve:     func(name string) { go q.Routed(name, queue.Route{Queue: policy, Site: name, Key: name}) },
			Launch:      func(s *queue.Session) { group.Go(func() { send(q, s) }) },
			Relay:       queue.RelayDomain("127.0.0.1:10626"),
			MaxSessions: 1 << 20,
			Lender:      f,
			Shared:      func(r *queue.Route) string { return "queue/general/" + r.Site },
		})
		ctx, stop := context.WithCancel(t.Context())
		group.Go(func() { q.Run(ctx) })
		group.Go(func() { f.Run(ctx, workOf(q)) })
		// The fleet begins when all nodes have called.
		for i := range nodes - 1 {
			m, err := lease.Open(filepath.Join(t.TempDir(), "state"), lease.Options{Fleet: "mail", Node: fmt.Sprint("other", i), Nodes: nodes, Boot: boot})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				m.Want(nil)
				c := m.Call()
				r, err := store.Do(ctx, c)
				m.Done(c, r, err)
			}
		}
		time.Sleep(time.Minute)

		const every = 10 * time.Millisecond
		before := f.Status().Calls
		e := &spool.Envelope{Stream: "news", Size: 8000, Recipients: make([]spool.Recipient, 1)}
		for i := range messages * 10 {
			if i%(messages/100) == 0 {
				time.Sleep(every)
			}
			e.Arrived = time.Now()
			q.Add(spool.ID(i+1), e, []string{fmt.Sprintf("receiver%d.example", i*7919%sites)}, nil, false)
		}
		if messages == 0 {
			time.Sleep(10 * time.Second)
		}
		n = f.Status().Calls - before
		time.Sleep(time.Minute)
		if left := q.Queued(); left > 0 {
			t.Errorf("%d messages are left", left)
		}
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
		stop()
		group.Wait()
	})
	return n
}

// send is a session that delivers all it is given.
func send(q *queue.Queue, s *queue.Session) {
	began := time.Now()
	time.Sleep(50 * time.Millisecond)
	q.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: began}})
	var done []queue.Settled
	var sig []elastic.Signal
	for {
		job, err := q.Step(context.Background(), s, done, sig)
		if err != nil {
			q.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			return
		}
		began := time.Now()
		time.Sleep(100 * time.Millisecond)
		done = done[:0]
		for _, x := range job.Items {
			done = append(done, queue.Settled{Handle: x.Handle, State: spool.State{Status: spool.Delivered}})
		}
		sig = append(sig[:0], elastic.Signal{Kind: elastic.Accepted, Began: began})
	}
}

// workOf is what limits are for in a queue without quotas.
func workOf(q *queue.Queue) Work {
	return Work{Wanted: q.Wanted, Lent: q.Lent, Counted: func(time.Time, func(Count)) {}, Granted: func() {}}
}
