package settings

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/warmup"
)

// WarmupPlans are the plans of a configuration's addresses, by their names in package warmup.
func WarmupPlans(c *config.Config) map[string]warmup.Plan {
	plans := map[string]warmup.Plan{config.StandardWarmup: warmup.Standard()}
	for i := range c.Warmups {
		x := &c.Warmups[i]
		p := warmup.Plan{Name: x.Name, Days: x.Days, Bars: warmup.Bars{Deferrals: float64(x.Deferrals), HardBounces: float64(x.HardBounces), Complaints: float64(x.Complaints)}}
		if len(p.Days) == 0 {
			p.Days = plans[config.StandardWarmup].Days
		}
		plans[x.Name] = p
	}
	all := make(map[string]warmup.Plan)
	for i := range c.Pools {
		p := &c.Pools[i]
		for j, a := range p.Addresses {
			if name := p.Warmup.Of(j); name != "" {
				all[warmup.Address(a)] = plans[name]
			}
		}
	}
	return all
}

// SharesWarmup says whether the share of an address, as package warmup calls it, is that of all
// nodes of the fleet together.
func (s *Settings) SharesWarmup(address string) bool { return s.sharedWarmups[address] }

// sharedWarmups are those addresses.
func sharedWarmups(c *config.Config) map[string]bool {
	all := make(map[string]bool)
	for i := range c.Pools {
		if p := &c.Pools[i]; c.Fleet.On() && p.Shared {
			for _, a := range p.Addresses {
				all[warmup.Address(a)] = true
			}
		}
	}
	return all
}

// warming says whether an address is not warm yet where the mail of a queue goes.
func (s *Settings) warming(a netip.Addr, q *config.Queue) bool {
	return s.Warmup != nil && a.IsValid() && s.Warmup.Warming(warmup.Address(a), q.Name, time.Now())
}

// warmupOf bounds what leaves from the addresses of a choice for the first time; nil if all of
// them are warm. Where a choice has an address of each family, nobody knows yet which of
// them a connection will have: both must have room, and both count.
func (s *Settings) warmupOf(f pools.From, sources []netip.Addr, plan *route.Plan, q *config.Queue) *queue.Warmup {
	var w *queue.Warmup
	for _, a := range sources {
		if !s.warming(a, q) {
			continue
		}
		_, p := s.Config.WarmupOf(a)
		if p == nil {
			continue // of a /64 of which another address warms up in another pool
		}
		name := warmup.Address(a)
		share := s.Warmup.Share(name, q.Name)
		if share == nil {
			continue
		}
		if w == nil {
			w = &queue.Warmup{Key: q.Name + " " + f.Pool + " " + string(p.Overflow), Pool: f.Pool}
			switch p.Overflow {
			case config.OverflowWarm:
				w.Elsewhere = func(domain string, id spool.ID, recipient uint32) string {
					return s.warmFrom(f.Pool, domain, id, recipient, plan, q)
				}
			case config.OverflowHandback:
				w.Handback = true
			}
		}
		w.Key += " " + name
		w.Addresses = append(w.Addresses, name)
		w.Budgets = append(w.Budgets, share)
	}
	return w
}

// warmFrom is what mail leaves from for which a warming address of a pool has no room: a
// choice of warm addresses alone, "" if none of them reaches its hosts. A queue that spreads its recipients
// spreads these, too.
func (s *Settings) warmFrom(pool, domain string, id spool.ID, recipient uint32, plan *route.Plan, q *config.Queue) string {
	p := s.pool(pool)
	if p == nil {
		return ""
	}
	usable := s.usable(pool, q)
	warm := func(a netip.Addr) bool { return (usable == nil || usable(a)) && !s.warming(a, q) }
	key := domain
	if q.Spread == config.SpreadRecipient {
		key = fmt.Sprintf("%s %d %d", domain, id, recipient)
	}
	f := pools.From{Pool: pool}
	n, reaches := 0, false
	for _, a := range p.Choose(key, warm) {
		if a.IsValid() && warm(a) {
			f.Choice[n] = a
			n++
			reaches = reaches || plan.Has(a.Is4())
		}
	}
	if !reaches {
		return ""
	}
	return f.String()
}

// withoutWarming leaves out of a choice what was filled in to one of before and is not warm:
// mail that has overflowed would come back to where it had no room. Hosts of that family are not
// called then, as the system would choose an address for them.
func (s *Settings) withoutWarming(c, before pools.Choice, q *config.Queue) (left pools.Choice, narrow bool) {
	n := 0
	for _, a := range c {
		if a.IsValid() && !slices.Contains(before[:], a) && s.warming(a, q) {
			narrow = true
			continue
		}
		if a.IsValid() {
			left[n] = a
			n++
		}
	}
	if n == 0 || !narrow {
		return c, false
	}
	return left, true
}

// Overflowed says whether mail that would leave from one choice may leave from another, as the
// first has an address that warms up and had no room for it.
func (s *Settings) Overflowed(home, from, domain string, q *config.Queue) bool {
	if s.Warmup == nil {
		return false
	}
	f, err := pools.Parse(from)
	if err != nil || f.Choice == (pools.Choice{}) {
		return false
	}
	h, _ := s.settle(home, domain, q)
	p := s.pool(f.Pool)
	if h.Pool != f.Pool || p == nil {
		return false
	}
	for _, a := range f.Choice {
		if a.IsValid() && (s.warming(a, q) || !slices.ContainsFunc(p.Addresses, func(x pools.Address) bool { return x.Addr == a })) {
			return false
		}
	}
	return slices.ContainsFunc(h.Choice[:], func(a netip.Addr) bool {
		_, p := s.Config.WarmupOf(a)
		return s.warming(a, q) && p != nil && p.Overflow == config.OverflowWarm
	})
}
