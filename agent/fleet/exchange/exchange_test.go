package exchange

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/contrib/lab/fleetca"
	"github.com/millrace/millrace/contrib/lab/redisd"
)

// peer is a node with a running Exchange.
type peer struct {
	log  *order.Log
	x    *Exchange
	stop func()
}

func newPeer(t *testing.T, ca *fleetca.CA, name string, change func(*Options)) *peer {
	t.Helper()
	log := must(order.Open(order.Options{
		Fleet: fleetName, Node: name, Path: filepath.Join(t.TempDir(), "orders"), Certificate: ca.Node(t, name), Roots: ca.Roots, Log: slog.New(slog.DiscardHandler),
	}))
	o := Options{Log: log, Fleet: fleetName, Logger: slog.New(slog.DiscardHandler), Position: func() string { return "at " + name }}
	change(&o)
	p := &peer{log: log, x: New(o)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.x.Run(ctx) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if o.Client != nil {
			o.Client.Close()
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *peer) pauses() (list []string) {
	for _, o := range p.log.Live(order.Pause) {
		list = append(list, string(o.Body))
	}
	slices.Sort(list)
	return list
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (p *peer) pause(t *testing.T, what string) order.ID {
	t.Helper()
	id, err := p.log.Issue("", order.Pause, what, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestStoreBringsOrdersToAllNodes has three nodes with a real store, which ends and comes back empty
// with a node that has nothing.
func TestStoreBringsOrdersToAllNodes(t *testing.T) {
	t.Parallel()
	ca, server := fleetca.New(t), redisd.Start(t)
	by := func(o *Options) { o.Client = server.Client() }
	a, b, c := newPeer(t, ca, "a", by), newPeer(t, ca, "b", by), newPeer(t, ca, "c", by)
	eventually(t, "all have reported", func() bool { return len(a.log.Reports()) == 2 && len(c.log.Reports()) == 2 })
	first := a.pause(t, "one")
	for _, p := range []*peer{b, c} {
		eventually(t, "the pause is everywhere", func() bool { return len(p.pauses()) == 1 })
	}
	if s := a.x.Spread(t.Context()); len(s.Confirmed) != 3 || len(s.Missing) != 0 {
		t.Errorf("confirmed by %v, not by %v", s.Confirmed, s.Missing)
	}
	if r := c.log.Reports()["a"]; r == nil || r.Position != "at a" {
		t.Errorf("the report of a at c: %+v", r)
	}
	c.pause(t, "of c")
	eventually(t, "the pause of c is everywhere", func() bool { return len(a.pauses()) == 2 && len(b.pauses()) == 2 })
	c.stop()
	server.Stop()
	if _, err := b.log.Issue("", order.Lift, nil, time.Time{}, first); err != nil {
		t.Fatal(err)
	}
	a.pause(t, "two")
	ctx, done := context.WithCancel(t.Context())
	done()
	if s := a.x.Spread(ctx); !slices.Equal(s.Missing, []string{"b", "c"}) {
		t.Errorf("without a store confirmed by %v", s.Confirmed)
	}
	server.Again()
	d := newPeer(t, ca, "d", by)
	want := []string{`"of c"`, `"two"`}
	for name, p := range map[string]*peer{"a": a, "b": b, "d": d} {
		eventually(t, name+" has what stands", func() bool { return slices.Equal(p.pauses(), want) })
	}
	if !d.log.IsLifted(first) {
		t.Error("the new node does not know what was resumed")
	}
}

// TestWhatAStoreMakesUpChangesNothing writes to the store by hand.
func TestWhatAStoreMakesUpChangesNothing(t *testing.T) {
	t.Parallel()
	ca, other, server := fleetca.New(t), fleetca.New(t), redisd.Start(t)
	by := func(o *Options) { o.Client = server.Client() }
	a, b := newPeer(t, ca, "a", by), newPeer(t, ca, "b", by)
	id := a.pause(t, "one")
	eventually(t, "b has it", func() bool { return len(b.pauses()) == 1 })
	stranger := must(order.Open(order.Options{Fleet: fleetName, Node: "a", Certificate: other.Node(t, "a"), Roots: other.Roots, Log: slog.New(slog.DiscardHandler)}))
	must(stranger.Issue("", order.Lift, nil, time.Time{}, id))
	must(stranger.Issue("", order.Cancel, "all", time.Time{}))
	c := server.Client()
	defer c.Close()
	orders, reports := "millrace:{f}:orders", "millrace:{f}:reports"
	add := func(values ...any) {
		if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: orders, Values: values}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	add("x", "y")
	add("o", strings.Repeat("x", order.MaxSize+1))
	for _, line := range stranger.Lacking(&order.Report{}, true, 10) {
		add("o", line)
	}
	if err := c.HSet(t.Context(), reports, "c", must(stranger.Report("far", "")), "d", "junk").Err(); err != nil {
		t.Fatal(err)
	}
	a.pause(t, "two") // behind all that in the stream
	eventually(t, "b has what came behind", func() bool { return len(b.pauses()) == 2 })
	eventually(t, "the reports are looked at", func() bool { return b.log.Refused()["format"] >= 3 && b.log.Refused()["unknown"] >= 2 })
	if n := len(b.log.Pending(order.Cancel)); n != 0 || b.log.IsLifted(id) || len(b.log.Reports()) != 1 {
		t.Errorf("a stranger was believed: %d cancels, reports of %d", n, len(b.log.Reports()))
	}
}

// TestNodesCallEachOtherWithoutAStore brings orders directly; one node cannot be called at first.
func TestNodesCallEachOtherWithoutAStore(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	var mu sync.Mutex
	peers := map[string]*peer{}
	down := map[string]bool{"c": true}
	direct := func(o *Options) {
		o.Members = func() []string { return []string{"a", "b", "c"} }
		o.Send = func(_ context.Context, node string, body []byte) ([]byte, error) {
			mu.Lock()
			p, away := peers[node], down[node]
			mu.Unlock()
			if p == nil || away {
				return nil, errors.New("away")
			}
			return p.x.Take(body)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		p := newPeer(t, ca, name, direct)
		mu.Lock()
		peers[name] = p
		mu.Unlock()
	}
	a := peers["a"]
	a.pause(t, "one")
	eventually(t, "b has it", func() bool { return len(peers["b"].pauses()) == 1 })
	eventually(t, "b has confirmed", func() bool {
		ctx, done := context.WithCancel(t.Context())
		done()
		s := a.x.Spread(ctx)
		return slices.Equal(s.Confirmed, []string{"a", "b"}) && slices.Equal(s.Missing, []string{"c"})
	})
	mu.Lock()
	down = nil
	mu.Unlock()
	eventually(t, "c has it", func() bool { return len(peers["c"].pauses()) == 1 })
	if _, err := a.x.Take([]byte("{")); err == nil {
		t.Error("half a message was taken")
	}
}

// TestStreamThatBeganAnewIsReadFromItsStart has a store whose clock was far ahead end: the ids of the
// next one's entries are less than what was read.
func TestStreamThatBeganAnewIsReadFromItsStart(t *testing.T) {
	t.Parallel()
	ca, server := fleetca.New(t), redisd.Start(t)
	by := func(o *Options) { o.Client = server.Client() }
	a, b := newPeer(t, ca, "a", by), newPeer(t, ca, "b", by)
	c := server.Client()
	defer c.Close()
	if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: "millrace:{f}:orders", ID: "99999999999999-1", Values: []any{"o", "junk"}}).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have read it", func() bool { return a.log.Refused()["format"] > 0 && b.log.Refused()["format"] > 0 })
	server.Stop()
	server.Again()
	a.pause(t, "one")
	eventually(t, "b has it", func() bool { return len(b.pauses()) == 1 })
}
