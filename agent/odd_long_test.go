//go:build long

package agent

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Receivers that took mail and then do not answer MAIL any more hold their sessions only as
// long as nobody else wants them: RFC 5321 would wait five minutes for each.
func TestSitesThatStallInATransactionMakeRoom(t *testing.T) {
	t.Parallel()
	var sites []sink.Provider
	for i := range 3 {
		name := fmt.Sprint("stalls", i)
		sites = append(sites, sink.Provider{Name: name, Domains: []string{name + ".test"}})
	}
	s := newStage(t, func(c *config.Config) { c.Agent.MaxSessions = 3 }, append(sites, far(sink.Behaviour{}))...)
	s.start()
	for _, x := range sites {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@"+x.Domains[0])
	}
	s.until("they work", func() bool {
		n := 0
		for _, x := range sites {
			n += len(s.at(x.Name))
		}
		return n == len(sites)
	})
	for _, x := range sites {
		if err := s.net.Change(x.Name, func(b *sink.Behaviour) { b.HangMail = 1 }); err != nil {
			t.Fatal(err)
		}
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@"+x.Domains[0])
	}
	s.until("all of them stall", func() bool { return s.status().Active == len(sites) })
	s.sendMany(10, "a")
	s.until("another site has its mail", func() bool { return len(s.at("far")) == 10 })
	if n := len(s.at("host")); n != 0 {
		t.Errorf("%d bounces", n)
	}
}
