package settings

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/millrace/millrace/agent/pools"
)

// Block is a source address that a provider, a queue with MX patterns, refuses, and whose mail
// there other addresses of its pool take meanwhile ([[pool]] on_block = "others").
type Block struct {
	Queue   string
	Address netip.Addr
}

// Blocks are those in force. They outlive Settings; a nil Blocks has none.
type Blocks struct {
	mu   sync.Mutex
	list []Block
}

// Set replaces what is in force, and says whether that is another.
func (b *Blocks) Set(list []Block) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Equal(b.list, list) {
		return false
	}
	b.list = slices.Clone(list)
	return true
}

// At says whether an address, or another one of the same reputation, is blocked at a provider.
func (b *Blocks) At(queue string, a netip.Addr) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.list, func(x Block) bool { return x.Queue == queue && pools.Same(x.Address, a) })
}
