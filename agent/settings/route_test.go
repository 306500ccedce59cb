package settings

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/smtp"
)

// Where no name is verified, domains with MX names of their own on the same hosts share
// sessions; where one is, its name stays with the mail.
func TestDomainsShareSessionsWhereNoNameIsVerified(t *testing.T) {
	t.Parallel()
	q := config.Queue{Name: "general", TLS: config.TLSOpportunistic}
	verify := config.Queue{Name: "strict", TLS: config.TLSVerify}
	s := &Settings{Config: &config.Config{General: config.Queue{Name: "general"}}, Sites: sites.New()}
	plan := func(i int, need route.Need, backup string) *route.Plan {
		p := &route.Plan{Hosts: []route.Host{{Name: fmt.Sprintf("mail.d%d.test", i), Preference: 10, Addrs: addresses("192.0.2.1"), Need: need}}}
		if backup != "" {
			p.Hosts = append(p.Hosts, route.Host{Name: fmt.Sprintf("backup.d%d.test", i), Preference: 20, Addrs: addresses(backup)})
		}
		return p
	}
	seen := make(map[string]string) // key -> what
	for _, x := range []struct {
		what   string
		queue  *config.Queue
		need   route.Need
		backup string
		shared bool
	}{
		{"opportunistic", &q, route.Need{}, "", true},
		{"testing", &q, route.Need{Asks: route.Report}, "", true},
		{"with a backup", &q, route.Need{}, "192.0.2.2", true},
		{"MTA-STS", &q, route.Need{Asks: route.Valid}, "", false},
		{"DANE without a usable record", &q, route.Need{Asks: route.Encrypt}, "", false},
		{"verify", &verify, route.Need{}, "", false},
	} {
		a, b := s.MXRoute("d1.test", x.queue, plan(1, x.need, x.backup)), s.MXRoute("d2.test", x.queue, plan(2, x.need, x.backup))
		if a.Site != "d1.test" || b.Site != a.Site || (a.Key == b.Key) != x.shared {
			t.Errorf("%s: site %s, key %q; site %s, key %q", x.what, a.Site, a.Key, b.Site, b.Key)
		}
		if what := seen[a.Key]; what != "" && x.what != "testing" {
			t.Errorf("%s has the key of %s: %q", x.what, what, a.Key)
		}
		seen[a.Key] = x.what
	}
}

// The set of a host whose addresses cannot be found at the moment is that of before, and
// so are site and sessions.
func TestRouteStaysWhileAHostHasNoAddress(t *testing.T) {
	t.Parallel()
	s := &Settings{Config: &config.Config{}, Sites: sites.New()}
	q := config.Queue{Name: "general", TLS: config.TLSOpportunistic}
	mx := []route.MX{{Name: "mx1.example.net", Preference: 10}, {Name: "mx2.example.net", Preference: 10}, {Name: "backup.example", Preference: 20}}
	hosts := []route.Host{
		{Name: "mx1.example.net", Preference: 10, Addrs: addresses("192.0.2.1")},
		{Name: "mx2.example.net", Preference: 10, Addrs: addresses("192.0.2.2")},
		{Name: "backup.example", Preference: 20, Addrs: addresses("192.0.2.3")},
	}
	first := s.MXRoute("d.test", &q, &route.Plan{MX: mx, Hosts: hosts})
	for _, left := range [][]route.Host{hosts[:1], hosts[1:], hosts[2:], hosts[:2]} {
		if rt := s.MXRoute("d.test", &q, &route.Plan{MX: mx, Hosts: left}); rt.Site != "example.net" || rt.Site != first.Site || rt.Key != first.Key {
			t.Errorf("with %s first: %q %q, not %q %q", left[0].Name, rt.Site, rt.Key, first.Site, first.Key)
		}
	}
	lone := s.MXRoute("e.test", &q, &route.Plan{MX: []route.MX{{Name: "dead.test", Preference: 1}, {Name: "backup.example", Preference: 20}}, Hosts: hosts[2:]})
	if lone.Site != "backup.example" {
		t.Errorf("a best host that never had an address: %q", lone.Site)
	}
}

// A simulated domain is asked of nobody, and called nowhere, whatever its queue says of the way
// and of TLS.
func TestSimulatedDomainIsCalledInsideTheAgent(t *testing.T) {
	t.Parallel()
	s, err := New(pooled(t, `
[agent]
resolvers = ["127.0.0.1:1"]
state_directory = "`+t.TempDir()+`"
[simulate]
domain = "simulated.test"
[[queue]]
name = "own"
domains = ["simulated.test"]
route = "reject: 550 5.7.1 we send no mail there"
tls = "verify"
max_sessions = 3
`).Config, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, site := range map[string]string{"simulated.test": "simulated.test", "SUB.simulated.test from x": "sub.simulated.test"} {
		rt, err := s.Route(t.Context(), name, true)
		if err != nil || !rt.Simulated || rt.Site != site || rt.Plan != nil || len(rt.Places) > 0 {
			t.Fatalf("%+v, %v", rt, err)
		}
		hosts, err := s.Hosts(rt)
		if err != nil || len(hosts) != 1 || hosts[0].Relay() != site+"[simulated]" {
			t.Fatalf("%+v, %v", hosts, err)
		}
		c, err := smtp.Dial(t.Context(), hosts[0].Addr, s.Options(rt, hosts[0], nil))
		if err != nil {
			t.Fatal(err)
		}
		c.Quit(t.Context())
	}
	s.Simulated.Wait()
	if rt, _ := s.Route(t.Context(), "simulated.test", true); rt.Queue.Name != "own" || rt.Queue.MaxSessions != 3 || rt.Queue.MaxRecipientsPerMessage != 1 {
		t.Errorf("%+v", rt.Queue)
	}
}

// After a reload by which the hand-back relay has become another, mail in the lanes of before goes
// to that, and its site is named so.
func TestSiteOfTheHandbackIsNamedByTheRelayInForce(t *testing.T) {
	t.Parallel()
	c := &config.Config{Handback: config.Handback{Relay: "unix:/run/relay.sock"}}
	set := &Settings{Config: c, Relay: queue.RelayDomain("127.0.0.1:10626")}
	rt, err := set.Route(t.Context(), set.Relay, false)
	if err != nil || rt.Site != "relay:unix:/run/relay.sock" || rt.Relay != c.Handback.Relay {
		t.Errorf("%+v, %v", rt, err)
	}
}
