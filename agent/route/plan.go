package route

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
)

// Key names the set of mail exchangers: host names, those of equal preference
// joined by commas, the worse after a semicolon ("a.example,b.example;c.example").
// Domains with the same key have the same way and share a destination; the
// figures of the preferences do not matter, only their order. An address
// literal is its own key. One of more than maxKey octets is cut, and ends in a hash of
// the whole.
func (p *Plan) Key() string {
	set := p.Published()
	if len(set) == 0 {
		return p.Domain
	}
	var b strings.Builder
	for i, m := range set {
		if i > 0 {
			if m.Preference == set[i-1].Preference {
				b.WriteByte(',')
			} else {
				b.WriteByte(';')
			}
		}
		b.WriteString(m.Name)
	}
	return bounded(b.String())
}

// bounded cuts a key.
func bounded(key string) string {
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		key = strings.Clone(key[:maxKey-keySum]) + "..." + hex.EncodeToString(sum[:16])
	}
	return key
}

// maxKey bounds a key in octets, as several copies are kept as long as there is mail for
// the domain, whose owner chooses the names. Sets of ten ordinary names take 300 octets.
const (
	maxKey = 1024
	keySum = 3 + 2*16 // of these for the hash
)

// Names returns the names of all published exchangers, for MX patterns. It is
// empty for an address literal.
func (p *Plan) Names() []string {
	set := p.Published()
	names := make([]string, len(set))
	for i, m := range set {
		names[i] = m.Name
	}
	return names
}

// Published is the MX set, the best first; of a Plan that was made by hand, its hosts. It is
// empty for an address literal.
func (p *Plan) Published() []MX {
	if p.MX != nil {
		return p.MX
	}
	var set []MX
	for _, h := range p.Hosts {
		if h.Name != "" {
			set = append(set, MX{Name: h.Name, Preference: h.Preference})
		}
	}
	return set
}

// Has reports whether a host has an IPv4 address, or else an IPv6 one.
func (p *Plan) Has(ipv4 bool) bool {
	return slices.ContainsFunc(p.Hosts, func(h Host) bool {
		return slices.ContainsFunc(h.Addrs, func(a netip.Addr) bool { return a.Is4() == ipv4 })
	})
}

// Address is one place to connect to.
type Address struct {
	Host       string // "" for an address literal
	Preference uint16
	Addr       netip.Addr
	Need       Need // of the host
}

// Addresses returns every address in the order to try: by preference; within a
// preference, host after host in random order (RFC 5321 section 5.1); of a host,
// protocol after protocol, and at random within one, because the cache would
// freeze the order of the first answer. A nil rng uses the process's own.
func (p *Plan) Addresses(rng *rand.Rand) []Address {
	shuffle := rand.Shuffle
	if rng != nil {
		shuffle = rng.Shuffle
	}
	var list []Address
	for start := 0; start < len(p.Hosts); {
		end := start + 1
		for end < len(p.Hosts) && p.Hosts[end].Preference == p.Hosts[start].Preference {
			end++
		}
		order := append([]Host(nil), p.Hosts[start:end]...)
		shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, h := range order {
			list = append(list, hostAddresses(h, shuffle)...)
		}
		start = end
	}
	return list
}

func hostAddresses(h Host, shuffle func(int, func(i, j int))) []Address {
	list := make([]Address, len(h.Addrs))
	for i, a := range h.Addrs {
		list[i] = Address{Host: h.Name, Preference: h.Preference, Addr: a, Need: h.Need}
	}
	for start := 0; start < len(list); {
		end := start + 1
		for end < len(list) && list[end].Addr.Is4() == list[start].Addr.Is4() {
			end++
		}
		run := list[start:end]
		shuffle(len(run), func(i, j int) { run[i], run[j] = run[j], run[i] })
		start = end
	}
	return list
}
