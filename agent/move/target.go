package move

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
)

type inKey struct{ node, transfer string }

// incoming is a transfer from another node to here.
type incoming struct {
	busy sync.Mutex // held by the request that is dealt with; before Mover.mu

	// Guarded by Mover.mu; list is changed by the holder of busy alone.
	list list
	open bool                  // the batch of list is not confirmed
	have map[spool.ID]*arrival // its messages that are durable here, by their ids at the origin
}

// arrival is a message of an open batch.
type arrival struct {
	as  spool.ID
	env *spool.Envelope // once the store has yielded it
}

const (
	// appendsAtOnce is how many messages go to the spool together: they share syncs.
	appendsAtOnce = 64
	// appendWithin is how long one may take to become durable.
	appendWithin = time.Minute
	// arriveWithin is how long it may take until the store has yielded what was appended. It looks
	// at once, or, without a notice of the kernel, every few seconds.
	arriveWithin = 20 * time.Second
)

// errGone says that a batch is not the open one.
var errGone = errors.New("that batch is not open here any more")

// Handler answers the requests of other nodes; node tells who asks, and is never "": others are
// not let in. It is for all paths under /v1/move/.
func (m *Mover) Handler(node func(*http.Request) string) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, do func(node string, r *http.Request) (answer, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			a, err := do(node(r), r)
			switch {
			case errors.Is(err, errGone):
				http.Error(w, err.Error(), http.StatusConflict)
			case err != nil:
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			default:
				w.Header().Set("Content-Type", "application/json")
				json.NewEncoder(w).Encode(&a)
			}
		})
	}
	handle(pathReady, func(string, *http.Request) (answer, error) {
		if err := m.whole(); err != nil {
			return answer{}, err
		}
		return answer{}, m.o.Room()
	})
	handle(pathBatch, m.take)
	handle(pathConfirm, m.confirmed)
	return mux
}

// take takes a batch: T1 to T3.
func (m *Mover) take(node string, r *http.Request) (a answer, err error) {
	if err := m.whole(); err != nil {
		return a, err
	}
	leave, err := m.enter(r.Context(), node)
	if err != nil {
		return a, err
	}
	defer leave()
	body := bufio.NewReaderSize(r.Body, 64<<10)
	h, err := readHeader(body)
	if err != nil {
		return a, err
	}
	in, err := m.lock(inKey{node, h.Transfer})
	if err != nil {
		return a, err
	}
	defer in.busy.Unlock()
	if err := m.openBatch(in, &h); err != nil {
		return a, err
	}
	m.o.step("T1")
	a.Has = make(map[string]string)
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		places = make(chan struct{}, appendsAtOnce)
	)
	note := func(was string, as spool.ID, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			a.Refused = err.Error()
			return
		}
		a.Has[was] = as.String()
	}
	for i := range h.Messages {
		x := &h.Messages[i]
		id, _ := spool.ParseID(x.ID)
		content := io.LimitReader(body, x.Size)
		m.mu.Lock()
		old := in.have[id]
		m.mu.Unlock()
		switch {
		case old != nil || in.list.Accepted: // then nothing more of it comes
			if old != nil {
				note(x.ID, old.as, nil)
			} else {
				note(x.ID, 0, errors.New("the admin there has accepted the transfer, and so ended it"))
			}
			if _, err = io.CopyN(io.Discard, body, x.Size); err == nil {
				continue
			}
		case x.Size <= inMemory:
			b := make([]byte, x.Size)
			if _, err = io.ReadFull(body, b); err == nil {
				places <- struct{}{}
				wg.Go(func() {
					as, err := m.append(in, id, x, bytes.NewReader(b))
					note(x.ID, as, err)
					<-places
				})
				continue
			}
		default:
			var as spool.ID
			whole := &exactly{r: content, left: x.Size}
			as, err = m.append(in, id, x, whole)
			if err != nil && whole.err == nil {
				// The spool does not take it; the others may be smaller.
				note(x.ID, 0, err)
				_, err = io.Copy(io.Discard, content)
			} else if err == nil {
				note(x.ID, as, nil)
			}
			if err == nil {
				continue
			}
		}
		wg.Wait()
		return a, fmt.Errorf("the batch ends too early: %w", err)
	}
	wg.Wait()
	m.o.step("T3")
	return a, nil
}

// exactly reads so many octets, or fails.
type exactly struct {
	r    io.Reader
	left int64
	err  error
}

func (x *exactly) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	x.left -= int64(n)
	if err == io.EOF && x.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		x.err = err
	}
	return n, err
}

// openBatch makes durable what is to come: T1. The caller holds in.busy.
func (m *Mover) openBatch(in *incoming, h *header) error {
	messages := make([]message, 0, len(h.Messages))
	seen := make(map[string]bool)
	for i := range h.Messages {
		x := &h.Messages[i]
		var err error
		x.env, err = spool.DecodeEnvelope(x.Envelope)
		if _, bad := spool.ParseID(x.ID); err != nil || bad != nil || x.Size < 0 || len(x.env.Recipients) != len(x.Recipients) || len(x.Recipients) == 0 || seen[x.ID] {
			return fmt.Errorf("message %q of the batch cannot be read", x.ID)
		}
		seen[x.ID] = true
		messages = append(messages, x.message)
	}
	if len(messages) == 0 {
		return errors.New("the batch has no messages")
	}
	switch {
	case in.open && h.Number == in.list.Number:
		// Again: some of what was to come.
		for i := range messages {
			if !slices.ContainsFunc(in.list.Messages, func(x message) bool { return x.ID == messages[i].ID }) {
				return fmt.Errorf("message %s is not of this batch: %w", messages[i].ID, errGone)
			}
		}
		return nil
	case in.open, h.Number <= in.list.Number:
		return errGone
	}
	next := in.list
	next.Number, next.Messages, next.Since = h.Number, messages, time.Now().UTC().Truncate(time.Second)
	if err := m.write(&next); err != nil {
		return fmt.Errorf("what comes cannot be written down: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	in.list, in.open, in.have = next, true, make(map[spool.ID]*arrival)
	return nil
}

// append makes a message durable: T2. It stays out of the queue, see arrived.
func (m *Mover) append(in *incoming, was spool.ID, x *headerMessage, content io.Reader) (as spool.ID, err error) {
	if err := m.o.Room(); err != nil {
		return 0, err
	}
	e := x.env
	e.Moved = mark{in.list.Node, in.list.Transfer, in.list.Number, was}.String()
	ctx, cancel := context.WithTimeout(m.o.Stop, appendWithin)
	defer cancel()
	r, err := m.o.Writer.Append(ctx, e, content)
	if err != nil {
		return 0, err
	}
	m.o.step("T2")
	// A message whose verdict cannot be written is here all the same: the store yields it as an orphan,
	// at the next start at the latest, and the confirmation waits for that. Were the origin told that it
	// is not here, both would send it.
	if err := r.Release(); err != nil {
		m.o.Log.Error("a message of another node is not sent before the agent is started again", "id", r.ID(), "node", in.list.Node, "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if in.have[was] == nil {
		in.have[was] = &arrival{as: r.ID()}
	}
	return r.ID(), nil
}

// arrived notes a message that the store has yielded. It reports whether it is of a batch that is
// not confirmed.
func (m *Mover) arrived(k mark, id spool.ID, e *spool.Envelope) bool {
	m.mu.Lock()
	in := m.in[inKey{k.node, k.transfer}]
	if in == nil || !in.open || in.list.Accepted || in.list.Number != k.number {
		m.mu.Unlock()
		return false
	}
	h := in.have[k.id]
	if h == nil {
		h = &arrival{as: id}
		in.have[k.id] = h
	}
	second := h.as != id
	if !second {
		h.env = e
	}
	m.mu.Unlock()
	if second {
		// A process that died too slowly had appended it, and it has come again since.
		m.o.Log.Warn("a second copy of a message from another node is dropped", "id", id, "node", k.node, "was", k.id, "first", h.as)
		if err := m.o.Store.Record(cancelled(id, e, "a second copy of "+h.as.String())...); err != nil {
			m.o.Log.Error("a second copy of a message is sent after a restart", "id", id, "err", err)
		}
	}
	return true
}

// cancelled ends a copy that is not this node's. It is no outcome of its recipients, who are the
// origin's, so nobody hears of it but the journal.
func cancelled(id spool.ID, e *spool.Envelope, why string) []spool.Event {
	events := make([]spool.Event, len(e.Recipients))
	for i := range events {
		events[i] = spool.Event{ID: id, Recipient: uint32(i), State: spool.State{Status: spool.Cancelled, Reply: why}}
	}
	return events
}

// confirmed makes a batch this node's: T4 to T6.
func (m *Mover) confirmed(node string, r *http.Request) (a answer, err error) {
	if err := m.whole(); err != nil {
		return a, err
	}
	var c confirmation
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(&c); err != nil {
		return a, err
	}
	if err := check(c.Version, c.Transfer, c.Number); err != nil {
		return a, err
	}
	in, err := m.lock(inKey{node, c.Transfer})
	if err != nil {
		return a, err
	}
	defer in.busy.Unlock()
	switch {
	case in.open && in.list.Number == c.Number:
		moved := make(map[string]bool, len(c.Moved))
		for _, id := range c.Moved {
			moved[id] = true
		}
		return a, m.release(in, moved)
	case !in.open && in.list.Number <= c.Number:
		// It was confirmed before, or nothing has ever come of it: it is closed for what hung in a
		// socket.
		m.mu.Lock()
		in.list.Number = c.Number
		m.mu.Unlock()
		return a, nil
	}
	return a, errGone
}

// release makes those messages of the open batch this node's that the origin has moved, and drops
// the others: T4 to T6. The caller holds in.busy.
func (m *Mover) release(in *incoming, moved map[string]bool) error {
	type release struct {
		*arrival
		was    string
		states []spool.State
	}
	var mine []release
	var events []spool.Event
	dropped := 0
	for i := range in.list.Messages {
		x := &in.list.Messages[i]
		id, _ := spool.ParseID(x.ID)
		m.mu.Lock()
		h := in.have[id]
		m.mu.Unlock()
		if h == nil {
			if moved[x.ID] {
				// It cannot be: the origin has our answer for it. To go on would lose it in silence.
				m.o.Log.Error("a message that another node has moved here is not here", "node", in.list.Node, "was", x.ID, "transfer", in.list.Transfer)
				return fmt.Errorf("%s has not come", x.ID)
			}
			continue
		}
		if in.list.Accepted {
			if !moved[x.ID] {
				m.o.Log.Error("possible duplicate: a message was accepted here by the admin, and kept by the node that it came from", "id", h.as, "node", in.list.Node, "was", x.ID)
			}
			continue
		}
		if err := m.await(h); err != nil {
			return err
		}
		if !moved[x.ID] {
			events = append(events, cancelled(h.as, h.env, "kept by node "+in.list.Node)...)
			dropped++
			continue
		}
		states := make([]spool.State, len(x.Recipients))
		for n := range x.Recipients {
			states[n] = x.Recipients[n].state()
			events = append(events, spool.Event{ID: h.as, Recipient: uint32(n), State: states[n]})
		}
		mine = append(mine, release{h, x.ID, states})
	}
	if len(events) > 0 {
		// Those that are final were dropped by an earlier try.
		if err := m.o.Store.Record(events...); err != nil && !errors.Is(err, spool.ErrFinal) {
			return err
		}
		if err := m.o.Store.Sync(); err != nil {
			return err
		}
	}
	m.o.step("T4")
	if err := m.remove(&in.list); err != nil {
		return err
	}
	m.o.step("T5")
	m.mu.Lock()
	in.open, in.have, in.list.Messages, in.list.Accepted = false, nil, nil, false
	m.mu.Unlock()
	for _, x := range mine {
		m.o.Add(x.as, x.env, x.states, in.list.Node, x.was)
	}
	if dropped > 0 {
		m.o.Log.Info("copies are dropped that the node that they came from has kept", "node", in.list.Node, "transfer", in.list.Transfer, "messages", dropped)
	}
	m.o.step("T6")
	return nil
}

// await waits until the store has yielded a message.
func (m *Mover) await(h *arrival) error {
	for end := time.Now().Add(arriveWithin); ; {
		m.mu.Lock()
		seen := h.env != nil
		m.mu.Unlock()
		if seen {
			return nil
		}
		if time.Now().After(end) || m.o.Stop.Err() != nil {
			return fmt.Errorf("%s is in the spool, and has not been read yet", h.as)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Accept makes what has come of a transfer this node's, without the word of the node that it came
// from, which must be gone for good: else both may send it.
func (m *Mover) Accept(transfer string) (done control.Selected, err error) {
	if err := m.whole(); err != nil {
		return done, err
	}
	var in *incoming
	m.mu.Lock()
	for k, x := range m.in {
		if k.transfer == transfer && x.open && !x.list.Accepted {
			in = x
		}
	}
	m.mu.Unlock()
	if in == nil {
		return done, fmt.Errorf("transfer %s from another node: %w", transfer, control.ErrUnknown)
	}
	in.busy.Lock()
	defer in.busy.Unlock()
	next := in.list
	next.Accepted, next.Messages = true, slices.Clone(next.Messages)
	var events []spool.Event
	var mine []*message
	for i := range next.Messages {
		x := &next.Messages[i]
		id, _ := spool.ParseID(x.ID)
		m.mu.Lock()
		h := in.have[id]
		m.mu.Unlock()
		if h == nil {
			continue
		}
		if err := m.await(h); err != nil {
			return done, err
		}
		x.As = h.as.String()
		for n := range x.Recipients {
			events = append(events, spool.Event{ID: h.as, Recipient: uint32(n), State: x.Recipients[n].state()})
		}
		mine = append(mine, x)
		done.Messages, done.Recipients = done.Messages+1, done.Recipients+len(x.Recipients)
	}
	if err := m.o.Store.Record(events...); err != nil {
		return control.Selected{}, err
	}
	if err := m.o.Store.Sync(); err != nil {
		return control.Selected{}, err
	}
	if err := m.write(&next); err != nil {
		return control.Selected{}, err
	}
	m.mu.Lock()
	have := in.have
	in.list = next
	m.mu.Unlock()
	for _, x := range mine {
		id, _ := spool.ParseID(x.ID)
		states := make([]spool.State, len(x.Recipients))
		for n := range x.Recipients {
			states[n] = x.Recipients[n].state()
		}
		m.o.Add(have[id].as, have[id].env, states, next.Node, x.ID)
	}
	m.o.Log.Warn("mail of a transfer is accepted without the word of the node that it came from: possible duplicates, if that still has it",
		"transfer", transfer, "node", next.Node, "messages", done.Messages)
	return done, nil
}
