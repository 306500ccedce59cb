package move

import (
	"context"
	"fmt"
	"time"
)

// What one node can have this one keep in memory is bounded: a header of maxHeader octets and maxValues
// values, and contents of up to appendsAtOnce times inMemory, in batchesAtOnce batches; and
// maxTransfers lists.
const (
	// batchesAtOnce is how many batches of a node are read at once; the others wait unread.
	batchesAtOnce = 2
	// maxTransfers is how many transfers of a node are known. Closed ones are known to refuse what
	// hung in a socket, which is over after callWithin; the oldest are forgotten.
	maxTransfers = 100
)

// enter waits for the turn of a batch among those of its node; leave ends it.
func (m *Mover) enter(ctx context.Context, node string) (leave func(), err error) {
	m.mu.Lock()
	turns := m.turns[node]
	if turns == nil {
		turns = make(chan struct{}, batchesAtOnce)
		m.turns[node] = turns
	}
	m.mu.Unlock()
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lock returns a transfer from another node, made if there is none, with busy held.
func (m *Mover) lock(k inKey) (*incoming, error) {
	for {
		m.mu.Lock()
		in := m.in[k]
		if in == nil {
			if err := m.forgetClosed(k.node); err != nil {
				m.mu.Unlock()
				return nil, err
			}
			in = &incoming{list: list{Version: version, Transfer: k.transfer, Node: k.node, In: true, Began: time.Now().UTC().Truncate(time.Second)}}
			m.in[k] = in
		}
		m.mu.Unlock()
		in.busy.Lock()
		m.mu.Lock()
		known := m.in[k] == in
		m.mu.Unlock()
		if known {
			return in, nil
		}
		in.busy.Unlock() // it was forgotten meanwhile
	}
}

// forgetClosed makes room for a further transfer of a node. The caller holds mu.
func (m *Mover) forgetClosed(node string) error {
	n := 0
	var oldest inKey
	for k, in := range m.in {
		if k.node != node {
			continue
		}
		n++
		if !in.open && (oldest.node == "" || in.list.Began.Before(m.in[oldest].list.Began)) {
			oldest = k
		}
	}
	if n < maxTransfers {
		return nil
	}
	// One that is being dealt with may be opened in a moment.
	if in := m.in[oldest]; in != nil && in.busy.TryLock() {
		delete(m.in, oldest)
		in.busy.Unlock()
		return nil
	}
	return fmt.Errorf("%d transfers of this node are open there; remedy: millrace move --list, and --abandon or --accept, at both", n)
}
