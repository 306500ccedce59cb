package queue

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// world drives a queue: it answers Resolve with the way of the domain's name
// and runs each session as a small model of a server.
type world struct {
	*Queue
	t      *testing.T
	policy config.Queue

	mu       sync.Mutex
	asked    []string
	way      func(domain string) (Route, bool)
	server   func(w *world, s *Session) // the life of a session
	service  time.Duration              // of a transaction
	quit     time.Duration              // to take leave
	refuse   bool                       // connects fail
	sent     []spool.ID
	jobs     []Job
	launched int
	now, top int // sessions at once
}

func newWorld(t *testing.T, change func(*world)) *world {
	w := &world{t: t, service: 100 * time.Millisecond, policy: config.Queue{
		Name: "general", MaxSessions: 20, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50,
		Retry: []time.Duration{5 * time.Minute}, Expire: 120 * time.Hour, Route: config.Route{Kind: config.RouteMX},
	}}
	w.way = func(domain string) (Route, bool) { return w.to(domain), true }
	w.server = (*world).serveSession
	o := Options{Relay: RelayDomain("127.0.0.1:10626"), MaxSessions: 100}
	o.Resolve = func(domain string) {
		w.mu.Lock()
		w.asked = append(w.asked, domain)
		w.mu.Unlock()
		go func() {
			if way, ok := w.way(domain); ok {
				w.Routed(domain, way)
			}
		}()
	}
	o.Launch = func(s *Session) {
		go func() {
			w.mu.Lock()
			server := w.server
			w.mu.Unlock()
			server(w, s)
		}()
	}
	w.Queue = New(o)
	if change != nil {
		change(w)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	t.Cleanup(func() {
		if err := w.Close(context.Background()); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
	})
	return w
}

// to is the route to a destination of its own for the name.
func (w *world) to(name string) Route {
	return Route{Queue: &w.policy, Site: name, Key: name, Plan: &route.Plan{
		Domain: name, Hosts: []route.Host{{Name: "mx." + name, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
	}}
}

func (w *world) serveSession(s *Session) {
	w.mu.Lock()
	w.launched++
	refuse := w.refuse
	w.now++
	w.top = max(w.top, w.now)
	w.mu.Unlock()
	// As in the agent, the connection is closed before the queue hears of it.
	leave := func(sig elastic.Signal, why string) {
		time.Sleep(w.quit)
		w.set(func() { w.now-- })
		w.Leave(s, nil, []elastic.Signal{sig}, why)
	}
	began := time.Now()
	time.Sleep(w.service)
	if refuse {
		leave(elastic.Signal{Kind: elastic.Failed, Began: began}, "connection refused")
		return
	}
	w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: began}})
	var done []Settled
	var sig []elastic.Signal
	for {
		job, err := w.Step(context.Background(), s, done, sig)
		if err != nil {
			leave(elastic.Signal{Kind: elastic.Closed}, "")
			return
		}
		began = time.Now()
		time.Sleep(w.service)
		done = done[:0]
		for _, item := range job.Items {
			done = append(done, Settled{Handle: item.Handle, State: spool.State{Status: spool.Delivered}})
		}
		w.mu.Lock()
		w.sent = append(w.sent, job.ID)
		job.Items = slices.Clone(job.Items)
		w.jobs = append(w.jobs, job)
		w.mu.Unlock()
		sig = append(sig[:0], elastic.Signal{Kind: elastic.Accepted, Began: began})
	}
}

func (w *world) add(id spool.ID, stream string, domains ...string) {
	w.bring(id, stream, false, domains...)
}

// addPaused adds a message that is paused when it comes.
func (w *world) addPaused(id spool.ID, stream string, domains ...string) {
	w.bring(id, stream, true, domains...)
}

func (w *world) bring(id spool.ID, stream string, paused bool, domains ...string) {
	e := &spool.Envelope{Stream: stream, Size: 8000, Arrived: time.Now()}
	for i := range domains {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: fmt.Sprintf("u%d@%s", i, domains[i])})
	}
	w.Add(id, e, domains, nil, paused)
}

func (w *world) delivered() []spool.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent)
}

// most is the highest number of sessions at once.
func (w *world) most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.top
}

// connects is how many sessions were launched.
func (w *world) connects() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.launched
}

// transactions are the jobs done.
func (w *world) transactions() []Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.jobs)
}

// questions is how often Resolve was called.
func (w *world) questions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// changes are what Explain tells of the past of a site.
func (w *world) changes(name string) []elastic.Change {
	a, _ := w.Explain(name)
	return a.Changes
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// pass lets time pass until everything that happens in it has happened.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
