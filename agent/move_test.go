package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet/peer"
	"github.com/millrace/millrace/agent/move"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// asMember has an agent of runApart be a member, which its value describes.
const asMember = "MILLRACE_AGENT_TEST_MEMBER"

// member is a node of a fleet of a test.
type member struct {
	Files  peer.Files
	Listen string
	Nodes  map[string]string // where each node listens
}

// members makes certificates and addresses for nodes.
func members(t *testing.T, names ...string) map[string]member {
	t.Helper()
	ca, err := selfsigned.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	dir, all, at := t.TempDir(), make(map[string]member), make(map[string]string)
	for _, name := range names {
		p, err := ca.Issue(selfsigned.Leaf{DNS: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		m := member{Files: peer.Files{Fleet: "production", Node: name}, Listen: freePort(t), Nodes: at}
		if m.Files.CA, m.Files.Cert, m.Files.Key, err = ca.Write(dir, name, p); err != nil {
			t.Fatal(err)
		}
		all[name], at[name] = m, m.Listen
	}
	return all
}

// join has an agent speak to the others until ctx ends; wait for done.
func (m member) join(ctx context.Context, a *Agent, log *slog.Logger) (done chan struct{}) {
	id := peer.NewIdentity(m.Files, log)
	is := func(node string) bool { return m.Nodes[node] != "" }
	s := peer.NewServer(peer.ServerOptions{Address: m.Listen, Identity: id, Member: is, Log: log})
	s.HandleSized("/v1/move/", move.MaxContent, a.mover.Handler(func(r *http.Request) string { return peer.NodeOf(r.Context()) }))
	c := peer.NewClient(peer.ClientOptions{Identity: id, Member: is, Address: func(node string) string { return m.Nodes[node] }})
	a.mover.Use(m.Files.Node, c)
	done = make(chan struct{})
	go func() {
		s.Run(ctx)
		c.Close()
		close(done)
	}()
	return done
}

// joinFleet is join for an agent in a process of its own.
func joinFleet(ctx context.Context, a *Agent, text string) {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		panic(err)
	}
	m.join(ctx, a, a.log)
}

// beside is another node before the same internet, whose receivers tell the first one.
func (s *stage) beside() *stage {
	s.t.Helper()
	dir := s.t.TempDir()
	c := *s.config
	c.Spool.Directory, c.Agent.StateDirectory, c.Agent.Control = filepath.Join(dir, "spool"), filepath.Join(dir, "state"), "unix:"+filepath.Join(dir, "c.sock")
	n := &stage{t: s.t, net: s.net, config: &c, log: &logbuf.Buffer{}}
	var err error
	if n.writer, err = spool.OpenWriter(c.Spool.Directory, spool.WriterOptions{Logger: n.log.Logger()}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { n.writer.Close() })
	return n
}

// fleetOfTwo is two nodes before one internet, in a fleet, with real mutual TLS.
func fleetOfTwo(t *testing.T, change func(*config.Config)) (a, b *stage) {
	a = newStage(t, change, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	b = a.beside()
	m := members(t, "a", "b")
	for name, s := range map[string]*stage{"a": a, "b": b} {
		ctx, cancel := context.WithCancel(context.Background())
		s.start()
		done := m[name].join(ctx, s.agent, s.log.Logger())
		t.Cleanup(func() {
			cancel()
			<-done
		})
		s.until("the spool is read", func() bool { return s.agent.store.Looked() })
	}
	return a, b
}

func TestMailMovesToAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := fleetOfTwo(t, func(c *config.Config) { c.Log.Format = config.LogPostfix })
	a.pause(control.Filter{All: true}, "to be moved")
	large := letter + strings.Repeat("a line of what is large\r\n", 1<<17)
	id := a.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "a@far.test", "b@far.test")
	a.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, large, "c@far.test")
	a.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, "d@far.test")
	a.until("it is queued", func() bool { return a.status().Queued() == 4 })
	move := func(to string, f control.Filter, dry bool) (control.Selected, error) {
		return a.admin().Act(t.Context(), control.Action{Verb: control.VerbMove, To: to, Filter: f, Dry: dry}, nil)
	}
	if _, err := move("c", control.Filter{All: true}, false); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("to a node that is none: %v", err)
	}
	if n, err := move("b", control.Filter{Stream: "news"}, true); err != nil || n.Recipients != 3 || n.Messages != 2 {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := move("b", control.Filter{Stream: "news"}, false); err != nil || n.Recipients != 3 || n.Messages != 2 || n.Active != 0 {
		t.Fatalf("%+v, %v\n%s\n%s", n, err, a.log, b.log)
	}
	a.until("all is delivered from there", func() bool { return len(a.at("far")) == 3 && b.empty() })
	for _, x := range a.at("far") {
		want := letter
		if x.recipient == "c@far.test" {
			want = large
		}
		if !strings.HasSuffix(x.content, want) || !strings.Contains(x.content, "Received:") {
			t.Errorf("%s got %d octets", x.recipient, len(x.content))
		}
	}
	if n := a.status().Queued(); n != 1 {
		t.Errorf("%d are queued at the origin", n)
	}
	if list, err := a.admin().Transfers(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	var as string
	a.until("it is told there", func() bool {
		_, as, _ = strings.Cut(a.log.String(), ": moved to node b as ")
		return as != ""
	})
	as, _, _ = strings.Cut(as, ")")
	for _, want := range []string{"status=sent (forwarded as " + as + ": moved to node b as " + as, "dsn=2.0.0", ": removed"} {
		if !strings.Contains(a.log.String(), want) {
			t.Errorf("the origin's log has no %q:\n%s", want, a.log)
		}
	}
	for _, want := range []string{": moved here from node a, where it was " + id.String(), "status=sent (250"} {
		if !strings.Contains(b.log.String(), want) {
			t.Errorf("the target's log has no %q:\n%s", want, b.log)
		}
	}
	if totals, err := a.admin().Totals(t.Context()); err != nil || totals.Queues[0].Moved != 3 && (len(totals.Queues) < 2 || totals.Queues[1].Moved != 3) {
		t.Errorf("%+v, %v", totals, err)
	}
	if states, err := a.agent.store.States(id); err == nil {
		t.Errorf("the origin's journal has %+v", states)
	}
	// What a milter would leave with its host is not taken from other nodes either.
	for key, limit := range map[string]func(*config.Spool){
		"min_free":       func(s *config.Spool) { s.MinFree = 1 << 60 },
		"max_recipients": func(s *config.Spool) { s.MinFree, s.MaxRecipients = 0, 1 },
	} {
		c := *b.agent.settings.Now().Config
		limit(&c.Spool)
		if err := b.agent.Reload(&c); err != nil {
			t.Fatal(err)
		}
		if key == "max_recipients" {
			b.pause(control.Filter{All: true}, "to be full")
			b.send(spool.Envelope{Sender: "n@news.test"}, letter, "e@far.test")
			b.until("it is full", func() bool { return b.status().Queued() == 1 })
		}
		if n, err := move("b", control.Filter{All: true}, false); err == nil || !strings.Contains(err.Error(), key) || n.Recipients != 0 {
			t.Errorf("%s of the target: %+v, %v", key, n, err)
		}
	}
}

// TestMailInATransactionIsNotMoved: it takes its course.
func TestMailInATransactionIsNotMoved(t *testing.T) {
	t.Parallel()
	a, b := fleetOfTwo(t, nil)
	a.thinks = make(chan struct{})
	a.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	a.until("its transaction is under way", func() bool { return len(a.at("far")) == 1 })
	time.AfterFunc(time.Second, func() { close(a.thinks) })
	n, err := a.admin().Act(t.Context(), control.Action{Verb: control.VerbMove, To: "b", Filter: control.Filter{All: true}}, nil)
	if err != nil || n.Recipients != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	a.until("it is delivered", a.empty)
	if got := a.at("far"); len(got) != 1 || !b.empty() {
		t.Errorf("%+v", got)
	}
}
