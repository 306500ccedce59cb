package agent

import (
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/lease"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// redisServer starts a store on a port of loopback. The test ends it.
func redisServer(t *testing.T, port string) *exec.Cmd {
	t.Helper()
	c := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	if err := c.Start(); err != nil {
		t.Fatalf("%v: make deps installs redis-server", err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait() // that it was killed is known
	})
	return c
}

// Two agents share a receiver that takes ten connections: none is refused, with a store, while it is
// away from the start, when it is killed and when a node stops.
func TestAgentsShareAReceiver(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	far := sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{HostConnections: 10}}
	var a, b *stage
	node := func(name string) func(c *config.Config) {
		return func(c *config.Config) {
			c.Fleet = config.Fleet{Name: "mail", Node: name, Nodes: 2, Stores: []config.FleetStore{{Address: "127.0.0.1:" + port}}}
			c.General.MaxSessions, c.General.Shared = 10, true
			if a != nil { // it calls the receiver of the first
				c.Agent.Resolvers, c.Agent.Port = a.config.Agent.Resolvers, a.config.Agent.Port
			}
		}
	}
	a = newStage(t, node("mx1"), far)
	b = newStage(t, node("mx2"))
	sent := 0
	send := func(nodes ...*stage) {
		for _, s := range nodes {
			s.sendMany(200, "news")
			sent += 200
		}
	}
	arrived := func() bool { return len(a.at("far")) == sent }
	send(a, b)
	a.start()
	b.start()
	a.until("all mail, before there is a store", arrived)
	if w := strings.Join(a.agent.watch.Warnings(), "\n"); !strings.Contains(w, "the store of the fleet mail is away") || len(a.agent.watch.NotReady()) > 0 {
		t.Errorf("warnings %q, not ready %q", w, a.agent.watch.NotReady())
	}
	store := redisServer(t, port)
	a.until("the store", func() bool {
		f, err := a.admin().Fleet(t.Context())
		return err == nil && len(f.Members) == 2 && f.Divisor == 2 && f.Away == ""
	})
	send(a, b)
	a.until("all mail", arrived)
	store.Process.Kill()
	send(a, b)
	a.until("all mail, without the store", arrived)
	b.stop()
	send(a)
	a.until("all mail of one node", arrived)
	for _, h := range a.net.Stats().Hosts {
		// A slot counts until the receiver has seen the end of its session, which a busy machine delays.
		if h.Provider == "far" && (h.Peak > 10 || h.RefusedConnections() > int64(sent/100)) {
			t.Errorf("%d connections refused, %d at a time", h.RefusedConnections(), h.Peak)
		}
	}
	if err := a.admin().ForgetNode(t.Context(), "mx1"); err == nil || !strings.Contains(err.Error(), "millrace fleet leave") {
		t.Errorf("a node forgets itself: %v", err)
	}
}

// A host without [fleet] asks no store, whatever its queues say of sharing.
func TestHostOfNoFleetSharesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.General.Shared = true
		c.Fleet.Stores = []config.FleetStore{{Address: "127.0.0.1:1"}}
	}, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.sendMany(100, "news")
	s.until("all mail", func() bool { return len(s.at("far")) == 100 })
	f, err := s.admin().Fleet(t.Context())
	if err != nil || f.Fleet != "" || s.agent.fleet != nil || s.agent.watch.State().Fleet.On {
		t.Errorf("%+v, %v", f, err)
	}
	if err := s.admin().ForgetNode(t.Context(), "mx1"); err == nil || !strings.Contains(err.Error(), "of no fleet") {
		t.Errorf("%v", err)
	}
}

// A node whose configuration has [fleet] no more keeps to no shared limit, which others do not know:
// that is told until it has left.
func TestFleetTakenOutWithoutALeaveIsTold(t *testing.T) {
	t.Parallel()
	c := &config.Config{}
	c.Agent.StateDirectory = t.TempDir()
	told := func(want bool) {
		t.Helper()
		shared, err := openCommon(c, slog.New(slog.DiscardHandler))
		if err != nil || (len(shared.troubles()) > 0) != want {
			t.Errorf("%v, %q; told is to be %t", err, shared.troubles(), want)
		}
	}
	told(false)
	boot := func() time.Duration { return time.Minute }
	path := filepath.Join(c.Agent.StateDirectory, "fleet.json")
	m, err := lease.Open(path, lease.Options{Fleet: "f", Node: "a", Boot: boot})
	if err != nil {
		t.Fatal(err)
	}
	m.Want(nil)
	m.Found()
	var s lease.Store
	for range 20 {
		if c := m.Call(); c != nil {
			c.Since = 60_000 // each call a minute after the last
			m.Done(c, s.Do(c), nil)
		}
	}
	if !m.Status().Active {
		t.Fatal("it has no part")
	}
	told(true)
	if _, err := m.Leave(); err != nil {
		t.Fatal(err)
	}
	told(false)
}
