// Package pools chooses the addresses that mail leaves from. It is pure.
//
// A Pool is some addresses with EHLO names and weights. Choose picks one of each family,
// IPv4 and IPv6, for a key: the recipient's domain, or the whole address where a queue spreads
// its mail. The choice is by weighted rendezvous: each address gets a score of the key and its
// weight, and the highest wins. So shares are as the weights are, a key keeps its address
// as long as that is the best for it, and an address that comes or goes, or changes its weight,
// moves no more keys than its share grows or shrinks by. The family of a connection is the
// receiver's affair: both are chosen before anybody has asked the DNS.
//
// # From
//
// From is what a recipient's mail leaves from: the pool that its rule, stream or queue names,
// and, once that is settled, the choice. The zero From is all that was never told: the pool of
// its queue, and a choice still to be made. The first try settles it, the journal keeps its
// text, and no retry moves to another address, so that greylisting does not begin anew, however
// weights and pools change. Only an address that is not configured any more, or that
// cannot be bound, is chosen anew (Resettle).
//
// # Without pools
//
// [agent] source_addresses without any [[pool]] is a Pool without a name, which chooses as
// the first release did (byName): an upgrade moves no domain to another address.
//
// # One reputation
//
// Receivers count an IPv6 /64 as one sender, since whoever has one address of it has them
// all. Same says whether two addresses are one in that sense.
package pools

import (
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"strings"
)

// Pool is addresses of this host.
type Pool struct {
	Name      string // "" is that of source_addresses
	Addresses []Address
	// Favour6 says which family is called first where a receiver has both: IPv6 if true.
	Favour6 bool
}

// Address is one of a pool.
type Address struct {
	netip.Addr
	Hello  string // EHLO name; "": the host's
	Weight int    // from 1
}

// Choice is an address of each family, or of one, the favoured first; the zero Choice is none:
// the kernel chooses.
type Choice [2]netip.Addr

// From is the pool that mail leaves from, and the choice in it.
type From struct {
	Pool string
	Choice
}

// noPool stands for the name of the pool that has none.
const noPool = "-"

// String writes a From as the journal keeps it: "news", "news 192.0.2.1 2001:db8::1",
// "- 192.0.2.1", or "" for the zero From.
func (f From) String() string {
	if f == (From{}) {
		return ""
	}
	text := f.Pool
	if text == "" {
		text = noPool
	}
	for _, a := range f.Choice {
		if a.IsValid() {
			text += " " + a.String()
		}
	}
	return text
}

// PoolOf is the name of the pool in what String wrote.
func PoolOf(s string) string {
	name, _, _ := strings.Cut(s, " ")
	if name == noPool {
		return ""
	}
	return name
}

// Parse reads what String wrote.
func Parse(s string) (From, error) {
	fields := strings.Fields(s)
	var f From
	if len(fields) == 0 {
		return f, nil
	}
	if fields[0] != noPool {
		f.Pool = fields[0]
	}
	if len(fields) > 3 {
		return From{}, fmt.Errorf("%q is no source of mail", s)
	}
	for i, text := range fields[1:] {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return From{}, fmt.Errorf("%q is no source of mail: %w", s, err)
		}
		f.Choice[i] = a
	}
	return f, nil
}

// Choose picks for a key, among the addresses that can be used if there are any. A nil usable
// is for all.
func (p *Pool) Choose(key string, usable func(netip.Addr) bool) Choice {
	if p.Name == "" {
		return p.byName(key)
	}
	return ordered(p.best(key, true, usable), p.best(key, false, usable), p.Favour6)
}

func ordered(four, six netip.Addr, favour6 bool) (c Choice) {
	if favour6 {
		four, six = six, four
	}
	if !four.IsValid() {
		four, six = six, four
	}
	return Choice{four, six}
}

// best is the address of a family with the highest score; of those that can be used, if
// there is one.
func (p *Pool) best(key string, is4 bool, usable func(netip.Addr) bool) (best netip.Addr) {
	of := hash(key)
	top := math.Inf(-1)
	for _, only := range [...]bool{true, false} {
		for i := range p.Addresses {
			a := &p.Addresses[i]
			if a.Is4() != is4 || only && usable != nil && !usable(a.Addr) {
				continue
			}
			if s := score(of, a); s > top {
				top, best = s, a.Addr
			}
		}
		if best.IsValid() {
			break
		}
	}
	return best
}

// score is that of a key at an address: -weight/ln(u) for a u between 0 and 1 that is as good as
// random in both. The highest of several is each one's as often as its weight is of all.
func score(of uint64, a *Address) float64 {
	x := of
	for b, i := a.As16(), 0; i < len(b); i += 8 {
		var part uint64
		for _, c := range b[i : i+8] {
			part = part<<8 | uint64(c)
		}
		x = mix(x ^ part)
	}
	u := (float64(x>>11) + 0.5) / (1 << 53)
	return -float64(max(1, a.Weight)) / math.Log(u)
}

// hash is FNV-1a, the same for ever: choices must outlive restarts.
func hash(key string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key))
	return mix(h.Sum64())
}

// mix spreads every bit over all (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// byName picks as the first release did: a name has one address of the whole pool, which is
// favoured, and one of the other family, whether they can be used or not.
func (p *Pool) byName(name string) (c Choice) {
	n := uint32(len(p.Addresses))
	if n == 0 {
		return c
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	sum := h.Sum32()
	own := p.Addresses[sum%n].Addr
	c[0] = own
	var others []netip.Addr
	for _, a := range p.Addresses {
		if a.Is4() != own.Is4() {
			others = append(others, a.Addr)
		}
	}
	if len(others) > 0 {
		c[1] = others[sum/n%uint32(len(others))] // sum%n is spent: it led here
	}
	return c
}

// Resettle is a choice as it holds now: an address of it that keep refuses is replaced by the
// pool's choice for the key, and a family that it lacks is filled in. The favoured family stays.
func (p *Pool) Resettle(c Choice, key string, keep, usable func(netip.Addr) bool) Choice {
	fresh := p.Choose(key, usable)
	if c == (Choice{}) {
		return fresh
	}
	var is [2]netip.Addr // IPv4, IPv6
	for i, four := range [...]bool{true, false} {
		for _, a := range fresh {
			if a.IsValid() && a.Is4() == four {
				is[i] = a
			}
		}
		for _, a := range c {
			if a.IsValid() && a.Is4() == four && keep(a) {
				is[i] = a
			}
		}
	}
	return ordered(is[0], is[1], !c[0].Is4())
}

// Same says whether two addresses have one reputation.
func Same(a, b netip.Addr) bool {
	if a == b {
		return true
	}
	if !a.IsValid() || !b.IsValid() || a.Is4() || b.Is4() {
		return false
	}
	return netip.PrefixFrom(a, 64).Masked() == netip.PrefixFrom(b, 64).Masked()
}
