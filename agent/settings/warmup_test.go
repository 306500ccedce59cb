package settings

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/warmup"
)

const warmingPools = `
[[pool]]
name = "news"
addresses = ["192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:2::1"]
warmup = ["", "standard", "", "standard"]
overflow = "warm"
[[pool]]
name = "six"
addresses = ["192.0.2.11", "2001:db8:3::1"]
warmup = ["", "standard"]
overflow = "warm"
[[queue]]
name = "google"
domains = ["*.google.example"]
pool = "news"
[[queue]]
name = "dual"
domains = ["*.dual.example"]
pool = "six"
`

func warming(t *testing.T) *Settings {
	t.Helper()
	s := pooled(t, warmingPools)
	s.Warmup = warmup.New(warmup.Options{Log: slog.New(slog.DiscardHandler), Zone: time.UTC}, time.Now())
	s.Warmup.Use(WarmupPlans(s.Config))
	return s
}

// What has no room leaves from warm addresses alone, is no more bounded there, and is where it
// belongs for as long as its own address warms up.
func TestOverflowLeavesFromWarmAddressesAlone(t *testing.T) {
	t.Parallel()
	s := warming(t)
	google := s.Config.Queue("google")
	plan := planOf("d.google.example", "198.51.100.1", "2001:db8:9::1")
	cold := 0
	for _, domain := range []string{"a.google.example", "b.google.example", "c.google.example", "d.google.example", "e.google.example", "f.google.example"} {
		rt := s.MXRoute(domain, google, plan)
		isCold := false
		for _, a := range rt.Sources {
			isCold = isCold || a.String() == "192.0.2.2" || a.String() == "2001:db8:2::1"
		}
		if isCold != (rt.Warmup != nil) {
			t.Fatalf("%s from %v: %+v", domain, rt.Sources, rt.Warmup)
		}
		if !isCold {
			continue
		}
		cold++
		to := rt.Warmup.Elsewhere(domain, 1, 0)
		next := s.MXRoute(queue.RouteName(domain, to), google, plan)
		if to != "news 192.0.2.1 2001:db8:1::1" || next.Warmup != nil || next.From != to {
			t.Errorf("%s overflows to %q, which leaves from %q (%+v)", domain, to, next.From, next.Warmup)
		}
		if !s.Overflowed("", to, domain, google) || s.Overflowed("", rt.From, domain, google) || s.Overflowed("", "six 192.0.2.11", domain, google) {
			t.Errorf("%s: what has overflowed is not told from what has not", domain)
		}
	}
	if cold == 0 {
		t.Error("no domain has a cold address")
	}
	s.Warmup.Use(nil)
	for _, domain := range []string{"a.google.example", "b.google.example", "c.google.example", "d.google.example"} {
		if s.MXRoute(domain, google, plan).Warmup != nil || s.Overflowed("", "news 192.0.2.1 2001:db8:1::1", domain, google) {
			t.Errorf("%s is bounded by addresses without a plan", domain)
		}
	}
}

// Where one family is cold, what has overflowed calls hosts of the other alone; a receiver that
// has no such host is waited for.
func TestOverflowNeverFillsInAColdFamily(t *testing.T) {
	t.Parallel()
	s := warming(t)
	dual := s.Config.Queue("dual")
	both, six := planOf("a.dual.example", "198.51.100.1", "2001:db8:9::1"), planOf("a.dual.example", "2001:db8:9::1")
	rt := s.MXRoute("a.dual.example", dual, both)
	if rt.Warmup == nil || len(rt.Warmup.Budgets) != 1 || rt.Warmup.Addresses[0] != "2001:db8:3::/64" {
		t.Fatalf("%+v", rt.Warmup)
	}
	to := rt.Warmup.Elsewhere("a.dual.example", 1, 0)
	next := s.MXRoute(queue.RouteName("a.dual.example", to), dual, both)
	if to != "six 192.0.2.11" || next.Warmup != nil || len(next.Places) != 1 || next.Places[0].Source != netip.MustParseAddr("192.0.2.11") {
		t.Errorf("overflows to %q, at %+v, %+v", to, next.Places, next.Warmup)
	}
	four := planOf("a.dual.example", "198.51.100.1")
	if rt := s.MXRoute("a.dual.example", dual, four); rt.Warmup != nil {
		t.Errorf("a receiver of IPv4 alone waits for an address of IPv6: %+v", rt.Warmup)
	}
	if to := s.MXRoute("a.dual.example", dual, six).Warmup.Elsewhere("a.dual.example", 1, 0); to != "" {
		t.Errorf("a receiver of IPv6 alone is called from %q", to)
	}
}

// A plan of the configuration takes the place of the shipped one, or its days.
func TestPlansOfAConfiguration(t *testing.T) {
	t.Parallel()
	s := pooled(t, strings.ReplaceAll(warmingPools, `overflow = "warm"`, `overflow = "wait"`)+"[[warmup]]\nname = \"standard\"\ncomplaints = \"1%\"\n")
	plans := WarmupPlans(s.Config)
	p, shipped := plans["2001:db8:2::/64"], warmup.Standard()
	if len(plans) != 3 || len(p.Days) != len(shipped.Days) || p.Bars.Complaints != 0.01 || p.Bars.HardBounces != shipped.Bars.HardBounces {
		t.Errorf("%+v", plans)
	}
}
