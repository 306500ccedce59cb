package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/pools"
)

// OnBlock says what becomes of the mail of an address that a provider refuses.
type OnBlock string

// The ways.
const (
	BlockWait   OnBlock = "wait"   // it waits there until the suspension ends
	BlockOthers OnBlock = "others" // other addresses of the pool take it, but for the stream that earned the block
)

// Spread says by what an address of a pool is chosen.
type Spread string

// The ways to choose.
const (
	SpreadDomain    Spread = "domain"    // a domain has one address of a pool
	SpreadRecipient Spread = "recipient" // its recipients have all of them, each always the same
)

// Pool is one [[pool]]: addresses of this host that mail leaves from. A [[milter.rule]], a
// [[stream]] or a queue names it; of these the first that does counts, in that order. What
// names none leaves from agent.source_addresses, as ever.
//
// A domain has one address of a pool in each family, chosen by the weights. Until a recipient is
// tried the configuration in force counts, also after a reload. The first try settles its
// address: no retry moves to another one, also when pools or weights are changed. An address that cannot be bound, as before a VRRP master takes over, is left
// out where the pool has others, and comes back by itself.
type Pool struct {
	// Name names the pool; required, and each name once.
	Name string `toml:"name"`
	// Addresses are the addresses that connections come from, each in one pool only;
	// required. To a host of a family that has none here the system chooses, as it does for
	// Postfix.
	Addresses []netip.Addr `toml:"addresses"`
	// Hostnames are the EHLO names of the addresses, one for each in the same order; each
	// should resolve to its address, and back. Default: hostname for all of them.
	Hostnames []string `toml:"hostnames"`
	// Weights are the shares of the addresses beside others of their family, one for
	// each in the same order, 1 to 1000. Default: 1 for all of them.
	Weights []int `toml:"weights"`
	// OnBlock is what becomes of an address's mail to a provider that says it is blocked
	// (a [[reply]] of class "reputation" with action "suspend"): "wait" for the end of that,
	// or "others", by which other addresses of the pool take it, but never that of the
	// stream that earned the block. One that is said at the banner, before any message, was
	// earned by no stream that is known: then it waits. An IPv6 /64 is one address in this.
	// Default: "wait".
	OnBlock OnBlock `toml:"on_block"`
	// Shared makes the day's shares of addresses that warm up those of all nodes of the fleet
	// together, as for nodes that send from the same addresses, behind NAT or by a proxy.
	// Default: false.
	Shared bool `toml:"shared"`
	// Warmup is the plan by which an address that is new to receivers begins: "standard" or
	// the name of a [[warmup]], for all addresses, or one for each in the same order, "" for
	// one that is warm: ["", "standard"]. It limits what goes out from an address, and brings
	// no mail to it: that is up to weights, and to spread. A domain without spread has one
	// address, cold or not. Default: all are warm.
	Warmup PoolWarmup `toml:"warmup"`
	// Overflow is what becomes of mail that was never tried, when its address has no room for it
	// at the moment: "warm" addresses of the pool send it at once, it has to "wait", or
	// goes back to the host's MTA ("handback"). What was tried stays at its address, and counts
	// no more. Unless mail waits, half of an hour's part of the share is kept for recipients
	// who took mail from this host before, as far as [outcomes] keeps recipients. Required
	// with warmup.
	Overflow Overflow `toml:"overflow"`

	File string `toml:"-"` // where the pool stands, for messages
	Line int    `toml:"-"`
}

// PoolNamed returns the pool of a name; nil if there is none.
func (c *Config) PoolNamed(name string) *Pool {
	for i := range c.Pools {
		if c.Pools[i].Name == name {
			return &c.Pools[i]
		}
	}
	return nil
}

// checkUnique sees that something at a path has a name of its own, of so many octets at most (0:
// any number); example is one. names has those so far, with their places.
func (l *loader) checkUnique(kind, example, path, name string, most int, names map[string]Notice) {
	first, twice := names[name]
	switch {
	case l.bad[path+".name"]:
	case name == "":
		l.fail(path, remedy(fmt.Sprintf("a %s without a name", kind), fmt.Sprintf("give it one: name = %q", example)))
	case !isPlainName(name), most > 0 && len(name) > most:
		how := "begin with a letter or digit, and use these, dots, hyphens and underscores"
		if most > 0 {
			how += fmt.Sprintf(", %d at most", most)
		}
		l.fail(path+".name", remedy(fmt.Sprintf("name: %q cannot name a %s", name, kind), how))
	case twice:
		l.fail(path+".name", remedy(fmt.Sprintf("name: there is a %s %q already at %s:%d", kind, name, first.File, first.Line), "choose another name, or join the two"))
	default:
		names[name] = l.place(path)
	}
}

func (l *loader) checkPools() {
	names := map[string]Notice{}
	all := map[netip.Addr]string{} // address -> what has it already, and where
	at := func(what, path string) string {
		n := l.place(path)
		return fmt.Sprintf("%s already, at %s:%d", what, n.File, n.Line)
	}
	for i, a := range l.cfg.Agent.SourceAddresses {
		all[a] = at("agent.source_addresses", fmt.Sprintf("agent.source_addresses[%d]", i))
	}
	for i := range l.cfg.Pools {
		p, path := &l.cfg.Pools[i], fmt.Sprintf("pool[%d]", i)
		l.checkUnique("pool", "news", path, p.Name, 0, names)
		if len(p.Addresses) == 0 && !l.bad[path+".addresses"] {
			l.fail(path+".addresses", remedy(fmt.Sprintf("pool %q has no address", p.Name), `add addresses = ["192.0.2.1"]`))
		}
		for j, a := range p.Addresses {
			key := fmt.Sprintf("%s.addresses[%d]", path, j)
			if slices.Contains(p.Addresses[:j], a) {
				l.fail(key, remedy(fmt.Sprintf("addresses: %s stands there twice", a), "name each address once, and give it weight"))
				continue
			}
			if other, ok := all[a]; ok {
				l.fail(key, remedy(fmt.Sprintf("addresses: %s is in %s", a, other),
					"list it in one only, and name that pool wherever mail is to leave from it, as with pool under [general]"))
				continue
			}
			all[a] = at(fmt.Sprintf("pool %q", p.Name), key)
			if protocol := protocolOf(a); !slices.Contains(l.cfg.Agent.Protocols, protocol) {
				l.fail(key, remedy(fmt.Sprintf("addresses: %s is not of the protocols that are tried", a),
					fmt.Sprintf("add %q to agent.protocols, or remove the address", protocol)))
			}
		}
		if n := len(p.Hostnames); n > 0 && n != len(p.Addresses) && !l.bad[path+".addresses"] {
			l.fail(path+".hostnames", remedy(fmt.Sprintf("hostnames: %d names for %d addresses", n, len(p.Addresses)), "give one name for each address, in the same order"))
		}
		for j, s := range p.Hostnames {
			if !isHostname(s) {
				l.failElement(path+".hostnames", j, remedy(fmt.Sprintf("hostnames: %q is not a host name", s), `write it like "out1.example.com"`))
			}
		}
		if n := len(p.Weights); n > 0 && n != len(p.Addresses) && !l.bad[path+".addresses"] {
			l.fail(path+".weights", remedy(fmt.Sprintf("weights: %d numbers for %d addresses", n, len(p.Addresses)), "give one number for each address, in the same order"))
		}
		if p.OnBlock == "" {
			p.OnBlock = BlockWait
		}
	}
}

func protocolOf(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// isPlainName says whether a name needs no quotes anywhere.
func isPlainName(s string) bool {
	return s != "" && strings.Trim(strings.ToLower(s[:1]), "abcdefghijklmnopqrstuvwxyz0123456789") == "" &&
		strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// checkPoolName looks whether a pool is there that something names.
func (l *loader) checkPoolName(name, path string) {
	if !l.given(path) || name == "" || l.cfg.PoolNamed(name) != nil {
		return
	}
	var known []string
	for i := range l.cfg.Pools {
		if p := l.cfg.Pools[i].Name; isPlainName(p) && !slices.Contains(known, p) {
			known = append(known, p)
		}
	}
	todo := "add a [[pool]] with this name, or remove the line"
	if len(known) > 0 {
		todo = "name one of " + strings.Join(known, ", ") + ", or add a [[pool]] with this name"
	}
	l.fail(path, remedy(fmt.Sprintf("pool: there is no pool %q", name), todo))
}

// remarkPools is about queues that spread nothing, and addresses of several pools that receivers
// take for one.
func (l *loader) remarkPools() {
	for i := range l.cfg.Queues {
		q := &l.cfg.Queues[i]
		if q.Spread == SpreadRecipient && len(q.Domains) == 0 {
			at := l.place(fmt.Sprintf("queue[%d].spread", i))
			at.Text = remedy(fmt.Sprintf("spread: queue %q lists no domains, and those that join by mx are not spread", q.Name),
				"list the domains whose recipients all addresses are to share")
			l.notices = append(l.notices, at)
		}
	}
	for i := range l.cfg.Pools {
		for j, a := range l.cfg.Pools[i].Addresses {
			for k := range l.cfg.Pools[:i] {
				other := &l.cfg.Pools[k]
				if n := slices.IndexFunc(other.Addresses, func(b netip.Addr) bool { return pools.Same(a, b) }); n >= 0 {
					at := l.place(fmt.Sprintf("pool[%d].addresses[%d]", i, j))
					at.Text = remedy(fmt.Sprintf("addresses: %s is of the same /64 as %s of pool %q: to receivers the two pools have one reputation", a, other.Addresses[n], other.Name),
						"give each pool a /64 of its own")
					l.notices = append(l.notices, at)
					break
				}
			}
		}
	}
}
