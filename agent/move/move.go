package move

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// Peer asks other nodes, over mutual TLS: whoever answers is that node.
type Peer interface {
	// Do sends a request; the answer is returned whatever its status is, and its body must be
	// closed.
	Do(ctx context.Context, node, method, path string, body io.Reader) (*http.Response, error)
}

// Settler makes outcomes final; package settle has it.
type Settler interface {
	// DecideEach settles recipients, and says of how many, and whether all is in the journal.
	DecideEach(jobs []queue.Job, envelope func(spool.ID) *spool.Envelope, decide func(id spool.ID, last string) outcome.Decision) (n int, recorded bool)
	// RestateEach changes what the journal knows of recipients, and then where they are in the
	// queue.
	RestateEach(jobs []queue.Job, change func(id spool.ID, ordinal uint32, st *spool.State) queue.How) int
}

// Options are what a Mover works with. None may be missing.
type Options struct {
	Log     *slog.Logger
	Spool   string // its directory
	Store   *spool.Store
	Writer  *spool.Writer
	Queue   *queue.Queue
	Settler Settler
	// Add brings a message into the queue that has come from another node, where it had the id
	// was. It is called again for no message.
	Add func(id spool.ID, e *spool.Envelope, states []spool.State, node, was string)
	// Room says why the spool has no room for mail of other nodes; nil: it has. Writer takes what it can,
	// as an agent's own reports are written whatever the limits are.
	Room func() error
	// Stop ends when work that is under way is to be given up.
	Stop context.Context

	directory string // of the files, in Spool; set by New
	// step is called by tests at each step of the package comment; nil: not at all.
	step func(string)
	// again is how long after its first failure a transfer is tried again; 0: retryFirst.
	again time.Duration
}

// Mover moves mail. Its methods may be called by many goroutines.
type Mover struct {
	o Options

	mu     sync.Mutex
	node   string
	peer   Peer // nil: no other node can be reached
	loaded bool
	out    map[string]*outgoing     // by transfer
	in     map[inKey]*incoming      // closed ones too: they refuse what comes late
	turns  map[string]chan struct{} // of nodes, see enter
	kept   map[spool.ID][]keeping   // what files said of messages at the start; one may be in several transfers
}

// keeping is what the file of a transfer from here says of a message.
type keeping struct {
	transfer string
	message  message
}

// New reads which transfers an earlier agent left open. An error says that one cannot be read.
func New(o Options) (*Mover, error) {
	if o.step == nil {
		o.step = func(string) {}
	}
	o.again = cmp.Or(o.again, retryFirst)
	o.directory = filepath.Join(o.Spool, spool.MovesDirectory)
	m := &Mover{o: o, out: make(map[string]*outgoing), in: make(map[inKey]*incoming), turns: make(map[string]chan struct{}), kept: make(map[spool.ID][]keeping)}
	all, err := read(o.directory)
	if err != nil {
		return nil, fmt.Errorf("mail on its way between nodes: %w", err)
	}
	for _, l := range all {
		if l.In {
			in := &incoming{list: l, open: true, have: make(map[spool.ID]*arrival)}
			m.in[inKey{l.Node, l.Transfer}] = in
			for _, x := range l.Messages {
				was, err1 := spool.ParseID(x.ID)
				if as, err2 := spool.ParseID(x.As); l.Accepted && err1 == nil && err2 == nil {
					in.have[was] = &arrival{as: as}
				}
			}
			continue
		}
		x := &outgoing{m: m, list: l, open: true, abort: func() {}, taken: make(map[spool.ID][]queue.Job), why: "the agent was started anew"}
		m.out[l.Transfer] = x
		for _, msg := range l.Messages {
			if id, err := spool.ParseID(msg.ID); err == nil {
				m.kept[id] = append(m.kept[id], keeping{l.Transfer, msg})
			}
		}
	}
	return m, nil
}

// Use says which node this is and how others are reached. Node "" and peer nil: not at all.
func (m *Mover) Use(node string, peer Peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node, m.peer = node, peer
}

// Arrived is called for each message of Load and Follow. keep: it stays out of the queue, as it
// came from a node that has not confirmed it. Otherwise the states are those to go on with.
func (m *Mover) Arrived(id spool.ID, e *spool.Envelope, states []spool.State) (_ []spool.State, keep bool) {
	if e.Moved != "" {
		if k, ok := parseMark(e.Moved); ok && m.arrived(k, id, e) {
			return nil, true
		}
	}
	m.mu.Lock()
	all := m.kept[id]
	m.mu.Unlock()
	if len(all) == 0 {
		return states, false
	}
	next := make([]spool.State, len(e.Recipients))
	copy(next, states)
	for _, k := range all {
		for i := range k.message.Recipients {
			r := &k.message.Recipients[i]
			if int(r.Ordinal) >= len(next) || next[r.Ordinal].Status.Final() {
				continue
			}
			st := &next[r.Ordinal]
			switch {
			case !k.message.Back:
				// Nobody takes it from there before Loaded does: the admin's verbs wait for that.
				*st = r.state()
				st.Held, st.Reply = true, marker(k.transfer)
			case st.Held && st.Reply == marker(k.transfer):
				// It was written down that it stays, and the journal has not heard of it.
				*st = r.state()
				if err := m.o.Store.Record(spool.Event{ID: id, Recipient: r.Ordinal, State: *st}); err != nil {
					m.o.Log.Error("cannot write what mail that was not moved is to do; it is on hold after a restart", "id", id, "err", err)
				}
			}
		}
	}
	return next, false
}

// marker is what the journal has as the last reply of recipients on their way, which are held
// there. The queue shows it, and so does an agent that does not know of transfers.
func marker(transfer string) string { return "on its way to another node: transfer " + transfer }

// Loaded is called behind Load: what was in transfers is taken out of the queue again.
func (m *Mover) Loaded() {
	m.mu.Lock()
	m.loaded = true
	all := slices.Collect(maps.Values(m.out))
	m.mu.Unlock()
	for _, x := range all {
		x.busy.Lock()
		x.collect()
		x.busy.Unlock()
	}
}

// collect takes what is on its way out of the queue, where the start has put it. Once the whole spool
// has been seen there is nothing more to come. The caller holds busy.
func (x *outgoing) collect() {
	m := x.m
	if x.collected {
		return
	}
	x.collected = m.whole() == nil
	m.mu.Lock()
	kept := make(map[spool.ID][]recipient)
	for id, all := range m.kept {
		for _, k := range all {
			if k.transfer == x.list.Transfer && !k.message.Back {
				kept[id] = k.message.Recipients
			}
		}
	}
	m.mu.Unlock()
	m.o.Queue.List(func(page []queue.Entry) bool {
		chosen := slices.DeleteFunc(page, func(e queue.Entry) bool {
			return !e.OnHold || !slices.ContainsFunc(kept[e.ID], func(r recipient) bool { return r.Ordinal == e.Ordinal })
		})
		jobs := m.o.Queue.Take(chosen)
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, job := range jobs {
			x.taken[job.ID] = append(x.taken[job.ID], job)
		}
		return true
	})
	if !x.collected {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.kept {
		// A copy: Arrived reads the old one.
		rest := slices.DeleteFunc(slices.Clone(m.kept[id]), func(k keeping) bool { return k.transfer == x.list.Transfer })
		if m.kept[id] = rest; len(rest) == 0 {
			delete(m.kept, id)
		}
	}
}

// whole reports whether everything that was in the spool at the start has been seen; else an
// error says what is missing.
func (m *Mover) whole() error {
	m.mu.Lock()
	loaded := m.loaded
	m.mu.Unlock()
	if !loaded || !m.o.Store.Looked() {
		return errors.New("the spool is still being read; try again in a moment")
	}
	if bad := m.o.Store.Unreadable(); len(bad) > 0 {
		return fmt.Errorf("a part of the spool cannot be read for now: %s", bad[0].Reason)
	}
	return nil
}

const (
	retryFirst = time.Second
	retryLast  = time.Minute
)

// Run goes on with open transfers that no run is at work on, until ctx ends.
func (m *Mover) Run(ctx context.Context) {
	loop.Every(ctx, m.o.again, func(now time.Time) {
		m.mu.Lock()
		var due []*outgoing
		for _, x := range m.out {
			if !x.running && !now.Before(x.next) && m.peer != nil {
				due = append(due, x)
			}
		}
		m.mu.Unlock()
		for _, x := range due {
			x.goOn(ctx)
		}
	})
}

// Transfers lists what is open.
func (m *Mover) Transfers() []control.Transfer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []control.Transfer
	add := func(l *list, why string) {
		t := control.Transfer{ID: l.Transfer, Node: l.Node, In: l.In, Who: l.Who, Began: l.Began, Since: l.Since, Why: why}
		t.Messages, t.Recipients = l.count()
		t.Kept = !l.In && t.Messages == 0
		all = append(all, t)
	}
	for _, x := range m.out {
		if x.open {
			add(&x.list, x.why)
		}
	}
	for _, x := range m.in {
		if x.open && !x.list.Accepted {
			add(&x.list, "node "+x.list.Node+" has not confirmed it")
		}
	}
	slices.SortFunc(all, func(a, b control.Transfer) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// newTransfer is a name that no other transfer has.
func newTransfer(now time.Time) string {
	var b [4]byte
	rand.Read(b[:])
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}
