package lease

import (
	"errors"
	"time"
)

// forget is what the admin said of a node.
type forget struct {
	node string
	seq  int64         // of the last reply before
	end  time.Duration // it is not said after that
	done chan error
}

// Why a node was not forgotten.
var (
	ErrCalls   = errors.New("the store has heard of it within half a minute")
	ErrUnknown = errors.New("the store was started anew, and does not know yet who is off")
	ErrNotSaid = errors.New("the store does not answer")
)

// Forget says that a node is off for good, which the admin must know, and that from now on: what he
// said does not count for a node that calls after it. What became of it comes out of the channel,
// within ten seconds if calls are made.
func (m *Member) Forget(node string) <-chan error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endForget(ErrNotSaid)
	m.forget = &forget{node: node, seq: m.last.Seq, end: m.o.Boot() + 10*time.Second, done: make(chan error, 1)}
	m.soon = true
	return m.forget.done
}

func (m *Member) endForget(err error) {
	if m.forget != nil {
		m.forget.done <- err
		m.forget = nil
	}
}
