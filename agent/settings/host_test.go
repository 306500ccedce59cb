package settings

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
)

func TestPoliciesChooseAmongHosts(t *testing.T) {
	t.Parallel()
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	why := errors.New("the policy does not name it")
	plan := &route.Plan{Domain: "d.test", Hosts: []route.Host{
		{Name: "mx1.test", Preference: 1, Addrs: addr("192.0.2.1"), Need: route.Need{Asks: route.Avoid, Err: why}},
		{Name: "mx2.test", Preference: 2, Addrs: addr("192.0.2.2"), Need: route.Need{Asks: route.Valid}},
	}}
	s := &Settings{Config: &config.Config{}}
	peers := func(level config.TLS) (list []string, err error) {
		t.Helper()
		all, err := s.Hosts(queue.Route{Queue: &config.Queue{TLS: level}, Plan: plan})
		for _, p := range all {
			list = append(list, p.Name+" "+p.Need.String())
		}
		return list, err
	}
	if got, err := peers(config.TLSOpportunistic); err != nil || !slices.Equal(got, []string{"mx2.test MTA-STS"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := peers(config.TLSNone); err != nil || !slices.Equal(got, []string{"mx1.test none", "mx2.test none"}) {
		t.Errorf("a queue without TLS: %q, %v", got, err)
	}
	plan.Hosts = plan.Hosts[:1]
	if got, err := peers(config.TLSOpportunistic); !errors.Is(err, why) {
		t.Errorf("%q, %v", got, err)
	}
}
