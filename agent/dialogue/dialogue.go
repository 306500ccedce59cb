// Package dialogue lets admins look on at what sessions and receivers say to each other, as
// it happens.
//
// A Board has the watchers. Each session has a Session, which gets the lines from package
// smtp, and is told of its transactions. A Watcher gets those of the dialogues that it asked
// for: a session to its end, where all of a site is asked for; where a recipient is, or what
// was refused, one transaction with the opening of its connection.
//
// While nobody watches, a line costs one atomic load, and nothing is kept. While somebody
// does, a Session keeps the opening of its connection and what was said since, within bounds,
// as it shows only then whether that was asked for. Nobody waits for a watcher: what one that
// reads too slowly misses is counted, and told where it is missing.
//
// Content and secrets are left out by package smtp, which also makes the lines printable.
package dialogue

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/agent/control"
)

// MaxWatchers is how many may watch at a time. They cost processor time with each line, and a
// connection of the control socket each.
const MaxWatchers = 8

// ErrTooMany says that MaxWatchers watch already.
var ErrTooMany = errors.New("8 watch already; remedy: end one of them")

// Board has the watchers. The zero Board has none. Its methods may be called by many
// goroutines.
type Board struct {
	now      atomic.Pointer[audience] // nil: nobody watches
	sessions atomic.Uint64            // numbers given

	mu    sync.Mutex
	since uint64 // audiences there were
}

// audience are those who watch. It does not change.
type audience struct {
	since uint64 // tells one time of watching from another: in between lines were missed
	list  []*Watcher
}

// Watched reports whether somebody watches.
func (b *Board) Watched() bool { return b.now.Load() != nil }

// Watch begins to watch. The caller calls Close.
func (b *Board) Watch(q control.WatchQuestion) (*Watcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var next audience
	if old := b.now.Load(); old != nil {
		next = *old
	} else {
		b.since++
		next.since = b.since
	}
	if len(next.list) >= MaxWatchers {
		return nil, ErrTooMany
	}
	w := &Watcher{board: b, question: q, wake: make(chan struct{}, 1)}
	next.list = append(slices.Clone(next.list), w)
	b.now.Store(&next)
	return w, nil
}

// leave ends the watching of one.
func (b *Board) leave(w *Watcher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.now.Load()
	if old == nil {
		return
	}
	next := audience{old.since, slices.DeleteFunc(slices.Clone(old.list), func(x *Watcher) bool { return x == w })}
	if len(next.list) == 0 {
		b.now.Store(nil)
		return
	}
	b.now.Store(&next)
}
