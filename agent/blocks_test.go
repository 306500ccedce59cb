package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// An address that a provider says is blocked is suspended at that provider alone. Its share waits;
// where the pool says so, others take it, but nothing of the stream that earned the block.
func TestBlockedAddressWaitsOrOthersTakeItsMail(t *testing.T) {
	t.Parallel()
	const n = 40
	for _, on := range []config.OnBlock{config.BlockWait, config.BlockOthers} {
		t.Run(string(on), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, func(c *config.Config) {
				c.Pools = []config.Pool{{Name: "all", Addresses: addresses("127.0.5.1", "127.0.5.2"), OnBlock: on}}
				c.General.Pool = "all"
				c.General.Retry = []time.Duration{time.Hour}
				q := c.General
				q.Name, q.MX = "big", []string{"*.big.test"}
				c.Queues = append(c.Queues, q)
				c.Replies = []config.Reply{{
					Name: "distrusted", Text: "on our block list", Class: outcome.ClassReputation.String(), Action: config.ReplySuspend,
					For: time.Hour, After: 1, Within: time.Hour, MX: []string{"*.big.test"},
				}}
			},
				sink.Provider{Name: "big", Domains: []string{"d*.test"}, Behaviour: sink.Behaviour{
					Trouble: sink.TroubleRcpt, Senders: "bad@", Say: map[sink.Cause]string{sink.CauseTrouble: "451 4.7.1 your address is on our block list"}}},
				sink.Provider{Name: "small", Domains: []string{"e*.test"}})
			s.start()
			bad := s.send(spool.Envelope{Sender: "bad@news.test", Stream: "bad"}, letter, "x@d0.test")
			effects := func() []control.Effect { return s.agent.orders.Standing().Effects }
			s.until("the address is suspended", func() bool { return len(effects()) == 1 })
			var from pools.From
			s.until("the outcome is in the journal", func() bool {
				from, _ = pools.Parse(s.states(bad)[0].From)
				return from.Choice[0].IsValid()
			})
			blocked := from.Choice[0]
			if e := effects()[0]; e.Site != "big:"+blocked.String() || (e.Queue != "") != (on == config.BlockOthers) {
				t.Errorf("%+v", e)
			}
			for i := range n {
				s.send(spool.Envelope{Sender: "good@news.test", Stream: "good"}, letter, fmt.Sprintf("y@d%d.test", i))
				s.send(spool.Envelope{Sender: "good@news.test", Stream: "good"}, letter, fmt.Sprintf("y@e%d.test", i))
				if on == config.BlockOthers { // else it would earn the other one its block
					s.send(spool.Envelope{Sender: "bad@news.test", Stream: "bad"}, letter, fmt.Sprintf("z@d%d.test", i))
				}
			}
			share := 0 // of the other address
			p := pools.Pool{Name: "all"}
			for _, a := range s.config.Pools[0].Addresses {
				p.Addresses = append(p.Addresses, pools.Address{Addr: a, Weight: 1})
			}
			for i := range n {
				if p.Choose(fmt.Sprintf("d%d.test", i), nil)[0] != blocked {
					share++
				}
			}
			want := share
			if on == config.BlockOthers {
				want = n
			}
			s.until("all that may arrive has", func() bool { return len(s.at("big")) >= want && len(s.at("small")) == n })
			for _, a := range s.at("big") {
				if a.client == blocked || a.sender != "good@news.test" {
					t.Errorf("%+v", a)
				}
			}
			if got := len(s.at("big")); got != want {
				t.Errorf("%d arrived, want %d", got, want)
			}
			used := 0
			for _, a := range s.at("small") {
				if a.client == blocked {
					used++
				}
			}
			if used == 0 {
				t.Error("nothing from the address to others than the provider")
			}
			pauses := s.agent.orders.Standing().Pauses
			if on == config.BlockOthers && (len(pauses) != 1 || pauses[0].Filter != (control.Filter{Queue: "big", Stream: "bad"})) {
				t.Errorf("pauses %+v", pauses)
			}
			if on == config.BlockOthers { // what the pool says holds, from a reload on
				c := *s.config
				c.Pools = slices.Clone(c.Pools)
				c.Pools[0].OnBlock = config.BlockWait
				if err := s.agent.Reload(&c); err != nil {
					t.Fatal(err)
				}
				before, mine := len(s.at("big")), ""
				for i := 0; mine == ""; i++ { // a domain whose own address is the blocked one
					if d := fmt.Sprintf("d%d.test", i); p.Choose(d, nil)[0] == blocked {
						mine = d
					}
				}
				s.until("its route is asked for again", func() bool { // until then the old one stays in use
					return !slices.ContainsFunc(s.agent.queue.SitesOf(mine), func(site string) bool { return site != "big:"+blocked.String() })
				})
				s.send(spool.Envelope{Sender: "good@news.test", Stream: "good"}, letter, "r@"+mine)
				s.until("it waits for its own address", func() bool {
					return slices.ContainsFunc(s.agent.watch.Warnings(), func(w string) bool { return strings.Contains(w, "its mail there waits") }) &&
						slices.ContainsFunc(s.agent.queue.SitesOf(mine), func(site string) bool { return site == "big:"+blocked.String() })
				})
				if n := len(s.at("big")) - before; n != 0 {
					t.Errorf("%d moved", n)
				}
			}
			if _, err := s.admin().Resume(t.Context(), control.Filter{Site: "big:" + blocked.String()}); err != nil {
				t.Fatal(err)
			}
			before, i := len(s.at("big")), 0
			s.until("mail leaves from it again, once an admin has resumed it", func() bool {
				s.send(spool.Envelope{Sender: "good@news.test", Stream: "good"}, letter, fmt.Sprintf("w%d@d%d.test", i, i%n))
				i++
				return slices.ContainsFunc(s.at("big")[before:], func(a accepted) bool { return a.client == blocked })
			})
		})
	}
}

// A block that is said at the banner was earned by nobody knows whom: nothing moves, whatever the
// pool says, and the admin is told.
func TestBlockAtTheBannerMovesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Pools = []config.Pool{{Name: "all", Addresses: addresses("127.0.7.1", "127.0.7.2"), OnBlock: config.BlockOthers}}
		c.General.Pool = "all"
		q := c.General
		q.Name, q.MX = "big", []string{"*.big.test"}
		c.Queues = append(c.Queues, q)
		c.Replies = []config.Reply{{
			Name: "distrusted", Text: "on our block list", Class: outcome.ClassReputation.String(), Action: config.ReplySuspend,
			For: time.Hour, After: 1, Within: time.Hour, MX: []string{"*.big.test"},
		}}
	}, sink.Provider{Name: "big", Domains: []string{"d*.test"}, Behaviour: sink.Behaviour{
		Trouble: sink.TroubleBanner, Say: map[sink.Cause]string{sink.CauseTrouble: "421 4.7.1 your address is on our block list"}}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "x@d0.test")
	effects := func() []control.Effect { return s.agent.orders.Standing().Effects }
	s.until("the address is suspended", func() bool { return len(effects()) == 1 })
	e := effects()[0]
	if e.Address == "" || e.Site != "big:"+e.Address || e.Queue+e.Stream != "" {
		t.Errorf("%+v", e)
	}
	if n := len(s.agent.orders.Standing().Pauses); n != 0 {
		t.Errorf("%d pauses", n)
	}
	if list := s.agent.watch.Warnings(); !slices.ContainsFunc(list, func(w string) bool {
		return strings.Contains(w, e.Address+" is blocked at big:") && strings.Contains(w, "its mail there waits")
	}) {
		t.Errorf("/readyz: %q", list)
	}
}
