package agent

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/fleetca"
	"github.com/millrace/millrace/contrib/lab/redisd"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// nodesOf are agents of one fleet with a real store, each with a fake internet of its own.
type nodesOf struct {
	ca     *fleetca.CA
	server *redisd.Server
}

func (f *nodesOf) stage(t *testing.T, name string, change func(*config.Config), providers ...sink.Provider) *stage {
	t.Helper()
	s := newStage(t, change, providers...)
	f.join(s, name)
	return s
}

// join opens the orders of a node anew, as each start does.
func (f *nodesOf) join(s *stage, name string) {
	s.t.Helper()
	log, err := order.Open(order.Options{
		Fleet: "f", Node: name, Path: filepath.Join(s.config.Agent.StateDirectory, "orders"), Certificate: f.ca.Node(s.t, name), Roots: f.ca.Roots, Log: s.log.Logger(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	client := f.server.Client()
	s.t.Cleanup(func() { client.Close() })
	s.fleet = common{log: log}
	s.fleet.exchange.Client = client
}

func (s *stage) standing() control.StandingOrders {
	s.t.Helper()
	st, err := s.admin().Standing(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// TestFleetObeysWhatOneNodeOrders pauses a user on one node: the mail of another waits, over a
// restart, until a third place resumes it. What is said to be of one node stays there, as does what
// stood before the node joined.
func TestFleetObeysWhatOneNodeOrders(t *testing.T) {
	t.Parallel()
	f := &nodesOf{fleetca.New(t), redisd.Start(t)}
	a, b := f.stage(t, "a", nil, far(sink.Behaviour{})), f.stage(t, "b", nil, far(sink.Behaviour{}))
	joined := b.fleet
	b.fleet = common{}
	b.start()
	b.pause(control.Filter{Stream: "before"}, "of before")
	b.stop()
	b.fleet = joined
	a.start()
	b.start()
	hacked := spool.Envelope{Sender: "x@news.test", Stream: "s", AuthUser: "hacked"}
	b.pauseHere(control.Filter{Stream: "s"}, "until all is there")
	b.send(hacked, letter, "one@far.test")
	b.until("queued", func() bool { return b.status().Waiting == 1 })
	began := time.Now()
	a.pause(control.Filter{User: "hacked"}, "account abused")
	b.until("the mail of b is parked", func() bool { return b.status().Held == 1 })
	t.Logf("a pause on one node has parked mail on the other after %s", time.Since(began))
	who := control.Peer{UID: uint32(os.Getuid())}
	if l := b.log.Lines("msg=admin", "do=pause", `user\":\"hacked`, fmt.Sprintf("who=%q", who.String()), "node=a"); len(l) != 1 {
		t.Errorf("the log of the other node does not say who paused: %q", l)
	}
	a.until("both have confirmed", func() bool { // b does so after it has obeyed
		x, err := a.admin().Spread(t.Context())
		return err == nil && slices.Equal(x.Confirmed, []string{"a", "b"}) && len(x.Missing) == 0 && x.Fleet == "f"
	})
	if n := len(a.standing().Pauses); n != 1 {
		t.Errorf("%d pauses on a, want its own alone", n)
	}
	b.stop()
	f.join(b, "b")
	b.start()
	b.send(hacked, letter, "two@far.test")
	b.until("paused after a restart", func() bool { return b.status().Held == 2 })
	if err := b.resumeHere(control.Filter{User: "hacked"}); err == nil {
		t.Error("a pause of the fleet was resumed on one node")
	}
	b.resume(control.Filter{Stream: "s"})
	b.resume(control.Filter{User: "hacked"})
	b.until("resumed", func() bool { return b.arrivals("far") == "one two" })
	a.until("resumed on a", func() bool { return len(a.standing().Pauses) == 0 })
	if p := b.standing().Pauses; len(p) != 1 || p[0].Order != "" || p[0].Filter.Stream != "before" {
		t.Errorf("in force on b: %+v", p)
	}
	// Limits and shares.
	if err := a.admin().Limit(t.Context(), control.Limit{Name: "general", Sessions: 3, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := a.admin().Prioritize(t.Context(), control.Priority{Stream: "s", Priority: 4}); err != nil {
		t.Fatal(err)
	}
	b.until("limited", func() bool {
		st := b.standing()
		return len(st.Limits) == 1 && st.Limits[0].Sessions == 3 && st.Priorities["s"] == 4
	})
	if err := b.admin().Limit(t.Context(), control.Limit{Name: "general"}); err != nil {
		t.Fatal(err)
	}
	if err := b.admin().Prioritize(t.Context(), control.Priority{Stream: "s", Priority: 1}); err != nil {
		t.Fatal(err)
	}
	a.until("no longer limited", func() bool { st := a.standing(); return len(st.Limits)+len(st.Priorities) == 0 })
	// The breaker holds a stream on one node.
	if !a.agent.orders.Hold("bad", "general", "bounces") {
		t.Error("not held")
	}
	b.until("held on b", func() bool { return len(b.agent.orders.HeldByBreaker()) == 1 })
	b.resume(control.Filter{Queue: "general", Stream: "bad"})
	a.until("resumed, and left alone", func() bool {
		return len(a.agent.orders.HeldByBreaker()) == 0 && !a.agent.orders.Hold("bad", "general", "bounces")
	})
}

func (s *stage) pauseHere(f control.Filter, reason string) {
	s.t.Helper()
	c := s.admin()
	c.Here()
	if err := c.Pause(s.t.Context(), control.Pause{Filter: f, Reason: reason}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) resumeHere(f control.Filter) error {
	c := s.admin()
	c.Here()
	_, err := c.Resume(s.t.Context(), f)
	return err
}

// TestPauseOutlivesADamagedFileOfOrders damages the file of common orders of a node that is alone.
func TestPauseOutlivesADamagedFileOfOrders(t *testing.T) {
	t.Parallel()
	f := &nodesOf{fleetca.New(t), redisd.Start(t)}
	a := f.stage(t, "a", nil, far(sink.Behaviour{}))
	a.start()
	a.pause(control.Filter{Stream: "s"}, "wrong price")
	a.stop()
	f.server.Stop()
	path := filepath.Join(a.config.Agent.StateDirectory, "orders")
	if err := os.WriteFile(path, []byte("millrace orders 1\no {\"text\":\"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.join(a, "a")
	a.start()
	a.send(spool.Envelope{Sender: "x@news.test", Stream: "s"}, letter, "one@far.test")
	a.until("it waits", func() bool { return a.listed(control.Filter{State: "held"}) == "one" })
	if w := a.agent.watch.Warnings(); !slices.ContainsFunc(w, func(x string) bool { return x[:1] == "1" }) {
		t.Errorf("warnings: %q", w)
	}
	a.resume(control.Filter{Stream: "s"})
	a.until("it goes on", func() bool { return a.arrivals("far") == "one" })
}

// TestCancelReachesAllNodesAndNothingLater cancels on one node what waits on two; mail of the same
// stream that comes later goes on, on a node that is away meanwhile too.
func TestCancelReachesAllNodesAndNothingLater(t *testing.T) {
	t.Parallel()
	f := &nodesOf{fleetca.New(t), redisd.Start(t)}
	a, b := f.stage(t, "a", nil, far(sink.Behaviour{})), f.stage(t, "b", nil, far(sink.Behaviour{}))
	a.start()
	b.start()
	a.pause(control.Filter{Stream: "s"}, "until all is there")
	b.until("paused on b", func() bool { return len(b.standing().Pauses) == 1 })
	mail := spool.Envelope{Sender: "x@news.test", Stream: "s"}
	const each = 20
	for i := range each {
		a.send(mail, letter, fmt.Sprintf("a%d@far.test", i))
		b.send(mail, letter, fmt.Sprintf("b%d@far.test", i))
	}
	last := b.send(mail, letter, "b-last@far.test")
	a.until("a knows how far b is filled", func() bool {
		r := a.fleet.log.Reports()["b"]
		if r == nil {
			return false
		}
		p, err := spool.ParsePosition(r.Position)
		return err == nil && p.Has(last) && a.status().Waiting == each
	})
	b.stop()
	b.send(mail, letter, "later@far.test")
	if n := a.act(control.VerbCancel, control.Filter{Stream: "s"}); n != each {
		t.Errorf("%d cancelled on a", n)
	}
	a.send(mail, letter, "later@far.test")
	f.join(b, "b")
	b.start()
	b.until("cancelled on b", func() bool { return b.listed(control.Filter{All: true}) == "later" })
	b.until("noted", func() bool { return len(b.fleet.log.Pending(order.Cancel)) == 0 })
	a.until("later mail waits on a", func() bool { return a.listed(control.Filter{All: true}) == "later" })
	a.resume(control.Filter{Stream: "s"})
	b.until("later mail goes", func() bool { return b.arrivals("far") == "later" })
	a.until("later mail goes", func() bool { return a.arrivals("far") == "later" })
}

// TestFleetSharesItsSuppressionList adds and removes entries, and learns one.
func TestFleetSharesItsSuppressionList(t *testing.T) {
	t.Parallel()
	f := &nodesOf{fleetca.New(t), redisd.Start(t)}
	a, b := f.stage(t, "a", dropping(2), gone), f.stage(t, "b", dropping(2), gone)
	a.start()
	b.start()
	has := func(s *stage, address string) func() bool {
		return func() (is bool) {
			err := s.admin().Suppressions(t.Context(), func(x *control.Suppression) error {
				is = is || x.Address == address && x.Suppressed
				return nil
			})
			return is && err == nil
		}
	}
	add := func(s *stage, here bool, address string) {
		c := s.admin()
		if here {
			c.Here()
		}
		given := false
		_, err := c.Suppress(t.Context(), func(x *control.Suppression) error {
			if given {
				return io.EOF
			}
			given, x.Address = true, address
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(a, true, "here@far.test")
	add(a, false, "all@far.test")
	b.until("added on b", has(b, "all@far.test"))
	for range 2 {
		a.until("bounced", a.outcome(a.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test")))
	}
	b.until("learned on b", has(b, "x@gone.test"))
	if n, err := b.admin().Unsuppress(t.Context(), control.SuppressionRemoval{Addresses: []string{"ALL@far.test", "x@gone.test"}}); n != 2 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	a.until("removed on a", func() bool { return !has(a, "all@far.test")() && !has(a, "x@gone.test")() })
	if has(b, "here@far.test")() || !has(a, "here@far.test")() {
		t.Error("an entry of one node is not on that node alone")
	}
}

// TestWithoutAFleetFilesAreAsBefore compares what an agent without a fleet writes.
func TestWithoutAFleetFilesAreAsBefore(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, far(sink.Behaviour{}))
	s.start()
	s.pauseHere(control.Filter{Stream: "s"}, "wrong price") // a new command says so
	if x, err := s.admin().Spread(t.Context()); err != nil || x.Fleet != "" {
		t.Errorf("spread: %+v, %v", x, err)
	}
	if err := s.admin().Limit(t.Context(), control.Limit{Name: "general", Sessions: 3, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	b, err := os.ReadFile(filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile))
	if err != nil {
		t.Fatal(err)
	}
	p, l := s.agent.orders.Standing().Pauses[0], s.agent.orders.Standing().Limits[0]
	want := fmt.Sprintf("{\n\t\"brakes\": [\n\t\t{\n\t\t\t\"filter\": {\n\t\t\t\t\"stream\": \"s\"\n\t\t\t},\n\t\t\t\"reason\": \"wrong price\",\n\t\t\t\"since\": %q,\n\t\t\t\"who\": %q\n\t\t}\n\t],\n\t\"limits\": [\n\t\t{\n\t\t\t\"name\": \"general\",\n\t\t\t\"sessions\": 3,\n\t\t\t\"until\": %q,\n\t\t\t\"who\": %q\n\t\t}\n\t],\n\t\"site_naming\": 1\n}\n",
		p.Since.Format(time.RFC3339Nano), p.Who, l.Until.Format(time.RFC3339Nano), l.Who)
	if string(b) != want {
		t.Errorf("standing.json is\n%swant\n%s", b, want)
	}
	if list, err := filepath.Glob(filepath.Join(s.config.Agent.StateDirectory, "orders*")); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
