package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Mail to hosts that a queue rejects goes back to its sender with the reply of the
// configuration, whether the domain is listed or joins by its mail hosts.
func TestRejectingRouteReturnsMail(t *testing.T) {
	t.Parallel()
	events := filepath.Join(t.TempDir(), "events.jsonl")
	s := newStage(t, func(c *config.Config) {
		q := c.General
		q.Name, q.MX, q.Route = "never", []string{"*.never.test"}, config.Route{Kind: config.RouteReject, Reject: "550 5.7.9 we send no mail there"}
		c.Queues = append(c.Queues, q)
		c.Events.File = events
	}, sink.Provider{Name: "never", Domains: []string{"a.test"}}, sink.Provider{Name: "fine", Domains: []string{"b.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "x@a.test", "y@b.test")
	s.until("the good half arrives", func() bool { return len(s.at("fine")) == 1 })
	s.until("the report arrives", func() bool { return len(s.at("host")) == 1 && s.empty() })
	if r := s.at("host")[0]; r.recipient != "n@news.test" || !strings.Contains(r.content, "Status: 5.7.9") || !strings.Contains(r.content, "we send no mail there") {
		t.Errorf("%+v", r)
	}
	if n := len(s.at("never")); n != 0 {
		t.Errorf("%d arrived", n)
	}
	s.until("the event tells the queue", func() bool {
		told, _ := os.ReadFile(events)
		return strings.Contains(string(told), `"queue":"never"`)
	})
}

// Until it is tried, mail leaves from where the configuration in force says: a reload changes that
// for what is queued already.
func TestUntriedMailFollowsAReload(t *testing.T) {
	t.Parallel()
	const n = 20
	s := newStage(t, func(c *config.Config) {
		c.Pools = []config.Pool{{Name: "old", Addresses: addresses("127.0.6.1")}, {Name: "new", Addresses: addresses("127.0.6.2")}}
		c.Streams = []config.Stream{{Name: "news", Streams: []string{"news"}, Pool: "old"}}
		c.Events.File = filepath.Join(t.TempDir(), "events.jsonl")
	}, sink.Provider{Name: "far", Domains: []string{"d*.test"}})
	s.start()
	if err := s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{All: true}}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, fmt.Sprintf("a@d%d.test", i), fmt.Sprintf("b@d%d.test", i))
	}
	s.until("all is queued", func() bool { w, _, _, _ := s.agent.queue.Counts(); return w == 2*n })
	next := *s.config
	next.Streams = []config.Stream{{Name: "news", Streams: []string{"news"}, Pool: "new"}}
	if err := s.agent.Reload(&next); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin().Resume(t.Context(), control.Filter{All: true}); err != nil {
		t.Fatal(err)
	}
	s.until("all arrive", func() bool { return len(s.at("far")) == 2*n && s.empty() })
	for _, a := range s.at("far") {
		if a.client.String() != "127.0.6.2" {
			t.Errorf("%s arrived from %v", a.recipient, a.client)
		}
	}
	s.until("the events tell", func() bool {
		b, err := os.ReadFile(s.config.Events.File)
		return err == nil && strings.Count(string(b), `"source":"127.0.6.2","pool":"new"`) == 2*n
	})
}

// Seen from the receivers: each recipient is always called from one address, over retries, a
// restart and a change of the weights; mail of a pool leaves from its addresses alone; and one
// that cannot be bound stops nothing.
func TestRecipientKeepsItsAddressOverRestarts(t *testing.T) {
	t.Parallel()
	const n = 60
	s := newStage(t, func(c *config.Config) {
		c.Pools = []config.Pool{
			{Name: "news", Addresses: addresses("127.0.3.1", "127.0.3.2", "192.0.2.77"), Weights: []int{1, 3, 4}},
			{Name: "orders", Addresses: addresses("127.0.4.1", "127.0.4.2")},
		}
		c.General.Pool = "orders"
		c.General.Retry = []time.Duration{time.Hour} // after the restart they are flushed
		c.Streams = []config.Stream{{Name: "news", Streams: []string{"news-*"}, Pool: "news"}}
	}, sink.Provider{Name: "far", Domains: []string{"d*.test"}, Behaviour: sink.Behaviour{Greylist: time.Millisecond}})
	s.start()
	ids := make(map[string]spool.ID)
	for i := range n {
		for user, stream := range map[string]string{"a": "news-1", "b": "other"} {
			to := fmt.Sprintf("%s@d%d.test", user, i)
			ids[to] = s.send(spool.Envelope{Sender: "n@news.test", Stream: stream}, letter, to)
		}
	}
	s.until("all were tried", func() bool { return s.status().Deferred == 2*n })
	s.stop()
	first := make(map[string]string)
	for to, id := range ids {
		st := s.states(id)[0]
		if st.From == "" || st.Tries == 0 {
			t.Fatalf("%s: %+v", to, st)
		}
		first[to] = st.From
	}
	s.config.Pools[0].Weights = []int{4, 1, 3}
	s.config.Pools[1].Weights = []int{1, 100}
	s.start()
	s.until("all is read", func() bool { return s.status().Deferred == 2*n })
	s.act(control.VerbFlush, control.Filter{All: true})
	s.until("all delivered", func() bool { return len(s.at("far")) == 2*n })
	used := make(map[string]int)
	for _, a := range s.at("far") {
		pool := "orders"
		if a.recipient[0] == 'a' {
			pool = "news"
		}
		if want := pool + " " + a.client.String(); first[a.recipient] != want {
			t.Errorf("%s arrived from %v, after it was tried from %s", a.recipient, a.client, first[a.recipient])
		}
		used[a.client.String()]++
	}
	for _, addr := range []string{"127.0.3.1", "127.0.3.2", "127.0.4.1", "127.0.4.2"} {
		if used[addr] == 0 {
			t.Errorf("nothing from %s: %v", addr, used)
		}
	}
}
