package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func addresses(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// A pool that lacks a family, for some domains or altogether, keeps no mail from
// hosts of that family.
func TestPoolReachesHostsOfEveryFamily(t *testing.T) {
	t.Parallel()
	for _, pool := range [][]netip.Addr{addresses("127.0.0.2", "::1"), addresses("::1"), addresses("127.0.0.2")} {
		t.Run(fmt.Sprint(pool), func(t *testing.T) {
			t.Parallel()
			const n = 20
			s := newStage(t, func(c *config.Config) { c.Agent.SourceAddresses = pool },
				sink.Provider{Name: "far", Domains: []string{"d*.test"}}) // has IPv4 alone
			s.start()
			for i := range n {
				s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("a@d%d.test", i))
			}
			s.until("all delivered", func() bool { return len(s.at("far")) == n })
		})
	}
}
