package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Many sites that take a connection and say nothing, or do not answer the SYN, keep
// no new site from its mail; nor one that greets only after some seconds, though
// its first connect may be abandoned for others.
func TestSitesThatHangDoNotKeepNewOnesWaiting(t *testing.T) {
	t.Parallel()
	site := func(name string, b sink.Behaviour) sink.Provider {
		return sink.Provider{Name: name, Domains: []string{name + ".test"}, Behaviour: b}
	}
	var sites []sink.Provider
	for i := range 20 {
		sites = append(sites,
			site(fmt.Sprint("silent", i), sink.Behaviour{HangConnect: 1}),
			site(fmt.Sprint("lost", i), sink.Behaviour{Unreachable: true}))
	}
	s := newStage(t, func(c *config.Config) { c.Agent.MaxSessions = 20 }, append(sites,
		site("slow", sink.Behaviour{GreetingDelay: 4 * time.Second}),
		site("new", sink.Behaviour{}))...)
	s.start()
	for _, x := range sites {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@"+x.Domains[0])
	}
	s.until("the sites that hang are known, and are being called", func() bool {
		opening, waiting := 0, 0
		for _, x := range s.status().Sites {
			opening += x.Opening
			waiting += x.Waiting
		}
		return opening >= 10 && waiting == len(sites)
	})
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@new.test", "a@slow.test")
	s.until("mail for the new site has arrived", func() bool { return len(s.at("new")) == 1 })
	hanging := 0
	for _, x := range s.status().Sites {
		hanging += x.Waiting
	}
	if hanging < len(sites) {
		t.Errorf("only %d recipients wait at the %d sites that hang", hanging, len(sites))
	}
	for _, x := range sites { // one after the other they give up, and the slow one has its turn
		if err := s.net.Change(x.Name, func(b *sink.Behaviour) { b.HangConnect, b.Unreachable, b.Down = 0, false, true }); err != nil {
			t.Fatal(err)
		}
	}
	s.until("mail for the slow site has arrived", func() bool { return len(s.at("slow")) == 1 })
}
