package settings

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
)

// sources picks where connections to a domain's hosts come from: of the pool one
// address for each family that the hosts have and the pool too. A connection has
// the one of its host's family; to a host of another one the kernel chooses, as
// smtp(8) does with smtp_bind_address alone. What is picked depends on the name
// and the pool alone, so a retry keeps its source (greylisting looks at it).
//
// The name has one address of the whole pool. Where the hosts have its family
// it is the favoured one; to the others goes one of their own family.
func sources(pool []netip.Addr, name string, plan *route.Plan) []netip.Addr {
	if len(pool) == 0 {
		return nil
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	sum, n := h.Sum32(), uint32(len(pool))
	own := pool[sum%n]
	var list []netip.Addr
	for _, is4 := range []bool{own.Is4(), !own.Is4()} {
		if !plan.Has(is4) {
			continue
		}
		pick := own
		if own.Is4() != is4 {
			family := slices.DeleteFunc(slices.Clone(pool), func(a netip.Addr) bool { return a.Is4() != is4 })
			if len(family) == 0 {
				continue
			}
			pick = family[sum/n%uint32(len(family))] // sum%n is spent: it led here
		}
		list = append(list, pick)
	}
	return list
}

// source is where a connection to an address comes from; the zero address: the
// kernel chooses.
func source(rt *queue.Route, to netip.Addr) netip.Addr {
	for _, a := range rt.Sources {
		if a.Is4() == to.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
