package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// An order that names a receiver holds for its sites of all source addresses, also for those that
// get their first mail later, over a restart too; one that names a source's site for that alone.
func TestOrderForAReceiverHoldsForSourcesToCome(t *testing.T) {
	t.Parallel()
	for _, provider := range []bool{false, true} {
		for _, text := range []string{"d0.test", "mx1.far.test", "address", "name"} {
			t.Run(fmt.Sprintf("provider %t, by %s", provider, text), func(t *testing.T) {
				t.Parallel()
				s := newStage(t, func(c *config.Config) {
					c.Agent.SourceAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4")}
					if provider {
						q := c.General
						q.Name, q.MX = "big", []string{"*.far.test"}
						c.Queues = append(c.Queues, q)
					}
				}, sink.Provider{Name: "far", Domains: []string{"d*.test"}})
				switch hosts := s.net.Stats().Hosts; {
				case text == "address":
					text = hosts[slices.IndexFunc(hosts, func(h sink.HostStats) bool { return h.Host == "mx1.far.test" })].Addr
				case text == "name" && provider:
					text = "big"
				case text == "name":
					text = "far.test"
				}
				s.start()
				s.pause(control.Filter{Stream: "news"}, "until the first is known")
				s.send(spool.Envelope{Stream: "news"}, letter, "a@d0.test")
				s.until("one has its site", func() bool { return len(s.siteNames()) == 1 })
				first := s.siteNames()[0]
				s.pause(control.Filter{Site: text}, "wrong price")
				if !provider || text != "big" { // that is a limit of the queue
					if err := s.admin().Limit(t.Context(), control.Limit{Name: text, Sessions: 1, Until: time.Now().Add(time.Hour)}); err != nil {
						t.Fatal(err)
					}
				}
				s.resume(control.Filter{Stream: "news"})
				s.stop()
				s.start()
				for i := 1; i < 20; i++ {
					s.send(spool.Envelope{Stream: "news"}, letter, fmt.Sprintf("a@d%d.test", i))
				}
				s.until("all have their sites", func() bool { return len(s.siteNames()) == 3 })
				s.until("all wait", func() bool { return len(strings.Fields(s.listed(control.Filter{State: "held"}))) == 20 })
				st, err := s.admin().Standing(t.Context())
				if err != nil || len(st.Pauses) != 3 || text != "big" && len(st.Limits) != 3 || len(s.at("far")) != 0 {
					t.Fatalf("%+v, %v; sent: %v", st, err, s.at("far"))
				}
				if got := st.Pauses[0].InWords(); !strings.Contains(got, "site "+first+", and for all source addresses: wrong price") {
					t.Error(got)
				}
				for _, name := range s.siteNames() {
					a, err := s.admin().Why(t.Context(), name)
					if err != nil || a[len(a)-1].Now.Paused == 0 || text != "big" && a[len(a)-1].Now.MaxSessions != 1 {
						t.Errorf("%s: %+v, %v", name, a, err)
					}
				}
				// One that is resumed by its own name goes, and does not follow the others again.
				s.resume(control.Filter{Site: first})
				s.until("one goes", func() bool { return len(s.at("far")) > 0 && s.listed(control.Filter{Site: first}) == "" })
				sent := len(s.at("far"))
				s.send(spool.Envelope{Stream: "news"}, letter, "a@d0.test")
				s.until("one goes on", func() bool { return len(s.at("far")) == sent+1 })
				s.pause(control.Filter{Site: text}, "again")
				s.resume(control.Filter{Site: text})
				if err := s.admin().Limit(t.Context(), control.Limit{Name: text}); err != nil && text != "big" {
					t.Error(err)
				}
				s.until("all go", func() bool { return len(s.at("far")) == 21 })
				if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses)+len(st.Limits) != 0 {
					t.Errorf("%+v, %v", st, err)
				}
			})
		}
	}
}
