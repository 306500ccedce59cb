package settings

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
)

// Where mail leaves from is asked three times. When a message comes in, FromOf says what its
// envelope tells: the pool of its rule or stream, and the address where its queue spreads its
// recipients. With the route, settle makes the choice that is still open, and replaces an
// address that is gone. And once a recipient was tried, the journal has Route.From, which the
// next route finds settled. A connection has the chosen address of its host's family; to
// a host of another one the kernel chooses, as smtp(8) does with smtp_bind_address alone.

// poolsOf are the pools of a configuration by their names; "" is that of source_addresses.
func poolsOf(c *config.Config) map[string]*pools.Pool {
	all := map[string]*pools.Pool{"": {}}
	for i, a := range c.Agent.SourceAddresses {
		x := pools.Address{Addr: a}
		if i < len(c.Agent.SourceHostnames) {
			x.Hello = c.Agent.SourceHostnames[i]
		}
		all[""].Addresses = append(all[""].Addresses, x)
	}
	for i := range c.Pools {
		p := &c.Pools[i]
		x := &pools.Pool{Name: p.Name, Favour6: len(c.Agent.Protocols) > 0 && c.Agent.Protocols[0] == "ipv6"}
		for j, a := range p.Addresses {
			at := pools.Address{Addr: a, Weight: 1}
			if len(p.Hostnames) > 0 {
				at.Hello = p.Hostnames[j]
			}
			if len(p.Weights) > 0 {
				at.Weight = p.Weights[j]
			}
			x.Addresses = append(x.Addresses, at)
		}
		all[p.Name] = x
	}
	return all
}

// pool is a pool by its name; nil if there is none.
func (s *Settings) pool(name string) *pools.Pool { return s.allPools()[name] }

// allPools are the pools by their names, made when they are wanted first.
func (s *Settings) allPools() map[string]*pools.Pool {
	s.pools.once.Do(func() { s.pools.of = poolsOf(s.Config) })
	return s.pools.of
}

// Pools are all pools that have addresses: that of source_addresses, then those of [[pool]], as
// the configuration has them.
func (s *Settings) Pools() (list []*pools.Pool) {
	if p := s.pool(""); len(p.Addresses) > 0 {
		list = append(list, p)
	}
	for i := range s.Config.Pools {
		list = append(list, s.pool(s.Config.Pools[i].Name))
	}
	return list
}

// SourceAddresses are all addresses that mail may leave from.
func (s *Settings) SourceAddresses() (list []netip.Addr) {
	list = slices.Clone(s.Config.Agent.SourceAddresses)
	for i := range s.Config.Pools {
		list = append(list, s.Config.Pools[i].Addresses...)
	}
	return list
}

// FromOf is what mail to a recipient of a message leaves from, as far as its envelope tells:
// a pools.From for queue.Options.From. Only the listed domains of a queue are spread, as others
// may join it by their MX hosts, which nobody knows yet.
func (s *Settings) FromOf(e *spool.Envelope, recipient int, domain string) string {
	if len(s.Config.Pools) == 0 {
		return ""
	}
	var f pools.From
	q := s.QueueOf(domain)
	switch st := s.StreamOf(e.Stream); {
	case e.Pool != "" && s.pool(e.Pool) != nil:
		f.Pool = e.Pool
	case st != nil:
		f.Pool = st.Pool
	}
	if q.Spread == config.SpreadRecipient {
		if f.Pool == "" {
			f.Pool = q.Pool
		}
		f.Choice = s.pool(f.Pool).Choose(strings.ToLower(e.Recipients[recipient].Address), s.usable(f.Pool, q))
	}
	return f.String()
}

// StreamOf is the [[stream]] of a stream; nil if there is none. Names are matched once, as long
// as they are not many.
func (s *Settings) StreamOf(name string) *config.Stream {
	if len(s.Config.Streams) == 0 {
		return nil
	}
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	st, known := s.streams.of[name]
	if !known {
		st = s.Config.StreamOf(name)
		if s.streams.of == nil || len(s.streams.of) >= mostStreams {
			s.streams.of = make(map[string]*config.Stream)
		}
		s.streams.of[strings.Clone(name)] = st
	}
	return st
}

// mostStreams is how many names are remembered.
const mostStreams = 4096

// usable says which addresses of a pool can be bound, and are not blocked where the mail of a
// queue goes; nil: all are. What source_addresses lists is chosen by name, come what may, as
// ever.
func (s *Settings) usable(pool string, q *config.Queue) func(netip.Addr) bool {
	if s.Presence == nil || pool == "" {
		return nil
	}
	return func(a netip.Addr) bool { return s.Presence.Here(a) && !s.Blocks.At(q.Name, a) }
}

// OnBlock is what becomes of the mail of an address that is blocked.
func (s *Settings) OnBlock(a netip.Addr) config.OnBlock {
	for i := range s.Config.Pools {
		if slices.Contains(s.Config.Pools[i].Addresses, a) {
			return s.Config.Pools[i].OnBlock
		}
	}
	return config.BlockWait
}

// settle makes the choice that is open in what mail of a domain leaves from. It is narrow if
// hosts of a family that it lacks are not to be called (settings/warmup.go).
func (s *Settings) settle(text, domain string, q *config.Queue) (f pools.From, narrow bool) {
	var err error
	if f, err = pools.Parse(text); err != nil { // a journal of a later version, perhaps
		f = pools.From{}
	}
	if f == (pools.From{}) || s.pool(f.Pool) == nil {
		f.Pool = q.Pool
	}
	p := s.pool(f.Pool)
	usable := s.usable(f.Pool, q)
	if f.Choice == (pools.Choice{}) {
		f.Choice = p.Choose(domain, usable)
		return f, false
	}
	all, old := s.SourceAddresses(), f.Choice
	f.Choice = p.Resettle(f.Choice, domain, func(a netip.Addr) bool {
		return slices.Contains(all, a) && (usable == nil || usable(a) || !slices.ContainsFunc(p.Addresses, func(x pools.Address) bool {
			return x.Is4() == a.Is4() && usable(x.Addr)
		}))
	}, usable)
	f.Choice, narrow = s.withoutWarming(f.Choice, old, q)
	return f, narrow
}

// sources are the addresses of a choice that the hosts of a plan have the family of, the
// favoured one first.
func sources(c pools.Choice, plan *route.Plan) (list []netip.Addr) {
	for _, a := range c {
		if a.IsValid() && plan.Has(a.Is4()) {
			list = append(list, a)
		}
	}
	return list
}

// hello is the EHLO name that goes with a source address.
func (s *Settings) hello(source netip.Addr) string {
	for _, p := range s.allPools() {
		for i := range p.Addresses {
			if a := &p.Addresses[i]; a.Addr == source && a.Hello != "" {
				return a.Hello
			}
		}
	}
	return s.Config.Hostname
}
