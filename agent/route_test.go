package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// One dead host of two costs a few connects at most, not every second one.
func TestDeadHostIsPassedBy(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.MaxMessagesPerConnection = 1 },
		sink.Provider{Name: "two", Domains: []string{"two.test"}, Host: []sink.Host{
			{Name: "dead.two.test", Preference: 5}, {Name: "live.two.test"},
		}})
	if err := s.net.Change("dead.two.test", func(b *sink.Behaviour) { b.Down = true }); err != nil {
		t.Fatal(err)
	}
	s.start()
	const n = 30
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("a%d@two.test", i))
		s.until("delivered", func() bool { return len(s.at("two")) == i+1 })
	}
	// Those in flight when the first failed may have gone there too.
	if dead := strings.Count(s.log.String(), "msg=connect relay=dead.two.test"); dead == 0 || dead > n/3 {
		t.Errorf("%d connects of %d to the dead host\n%s", dead, n, s.log)
	}
}

// A domain's mail leaves from one address of the pool, after a restart too:
// greylisting looks at it.
func TestRetryKeepsItsSource(t *testing.T) {
	t.Parallel()
	pool := []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	s := newStage(t, func(c *config.Config) { c.Agent.SourceAddresses = pool },
		sink.Provider{Name: "far", Domains: []string{"d*.test"}})
	first := make(map[string]netip.Addr)
	used := make(map[netip.Addr]int)
	for run := range 2 {
		set, err := settings.New(s.config, s.log.Logger(), nil)
		if err != nil {
			t.Fatal(err)
		}
		sites := make(map[string]netip.Addr)
		for i := range 30 {
			d := fmt.Sprintf("d%d.test", i)
			w, err := set.Route(t.Context(), d, true)
			if err != nil {
				t.Fatal(err)
			}
			if run == 0 {
				first[d] = w.Sources[0]
				used[w.Sources[0]]++
			} else if w.Sources[0] != first[d] {
				t.Errorf("%s: from %v, then from %v", d, first[d], w.Sources[0])
			}
			for _, key := range []string{w.Key, w.Site} {
				if other, ok := sites[key]; ok && other != w.Sources[0] {
					t.Errorf("%v and %v share %q", other, w.Sources[0], key)
				}
				sites[key] = w.Sources[0]
			}
		}
	}
	if len(used) != 2 {
		t.Errorf("sources %v", used)
	}
}

// Addresses that the admin did not allow are our limit, not the receiver's
// word: the mail goes back to the host.
func TestRefusedAddressesHandBack(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.AllowDestinations = []netip.Prefix{netip.MustParsePrefix("127.7.7.7/32")}
	},
		sink.Provider{Name: "inside", Domains: []string{"inside.test"}, Host: []sink.Host{{Name: "mx1.inside.test"}, {Name: "mx2.inside.test"}}},
		sink.Provider{Name: "both", Domains: []string{"both.test"}, Host: []sink.Host{
			{Name: "mx1.both.test", Preference: 5}, {Name: "mx2.both.test", Addr: netip.MustParseAddr("127.7.7.7")},
		}},
		sink.Provider{Name: "v6", Domains: []string{"v6.test"}, Behaviour: sink.Behaviour{DNS: sink.NoAddress}},
	)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@inside.test", "a@both.test", "a@v6.test", "a@[127.0.0.1]")
	s.until("all settled", func() bool { return len(s.at("host")) >= 3 && s.empty() })
	back := make(map[string]bool)
	for _, a := range s.at("host") {
		back[a.recipient] = a.sender == "n@news.test"
	}
	if len(back) != 3 || !back["a@inside.test"] || !back["a@v6.test"] || !back["a@[127.0.0.1]"] {
		t.Errorf("handed back: %v", back)
	}
	if n := len(s.at("both")); n != 1 || len(s.at("inside")) != 0 {
		t.Errorf("%d at the allowed host, %d at the others", n, len(s.at("inside")))
	}
	if strings.Contains(s.log.String(), "status=bounced") {
		t.Errorf("log:\n%s", s.log)
	}
}
