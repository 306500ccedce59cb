package move

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// outgoing is a transfer from here to another node.
type outgoing struct {
	m    *Mover
	busy sync.Mutex // held while something is done with it; before Mover.mu

	// collected: what the start has put into the queue is out of it again. Guarded by busy.
	collected bool

	// Guarded by Mover.mu for who lists it; only the holder of busy changes them.
	list    list
	open    bool // the batch of list is not confirmed yet
	running bool // a Run is at work on it, and makes further batches
	why     string
	taken   map[spool.ID][]queue.Job // what is not moved and not back, out of the queue
	next    time.Time                // of the next try by Mover.Run
	wait    time.Duration            // between the last two
	abort   context.CancelFunc       // ends what is under way with the other node
}

// Run is one millrace move at work. It is for one goroutine.
type Run struct {
	x *outgoing
}

// Begin asks a node whether it takes mail. End must follow.
func (m *Mover) Begin(ctx context.Context, node, who string) (*Run, error) {
	m.mu.Lock()
	own, peer := m.node, m.peer
	m.mu.Unlock()
	switch {
	case peer == nil || own == "":
		return nil, errors.New("this node is in no fleet; remedy: set name, and listen, of [fleet]")
	case node == own:
		return nil, fmt.Errorf("node %s is this one", node)
	case !words.MatchString(node):
		return nil, fmt.Errorf("%q is no name of a node", node)
	}
	if err := m.whole(); err != nil {
		return nil, err
	}
	if err := m.askReady(ctx, node); err != nil {
		return nil, err
	}
	now := time.Now()
	x := &outgoing{m: m, collected: true, running: true, taken: make(map[spool.ID][]queue.Job), abort: func() {}}
	x.list = list{Version: version, Transfer: newTransfer(now), Node: node, Who: who, Began: now.UTC().Truncate(time.Second)}
	m.mu.Lock()
	m.out[x.list.Transfer] = x
	m.mu.Unlock()
	return &Run{x}, nil
}

const (
	// A batch is bounded by messages, recipients and octets of content, but for one message that
	// is more. With 256 messages the syncs of a batch, some eight on both sides, are shared by so
	// many; the octets are held in memory on both sides.
	batchMessages   = 256
	batchRecipients = 2000
	batchOctets     = 4 << 20
	// inMemory is the size of a content up to which it is held in memory.
	inMemory = 1 << 20
)

// Move moves recipients that were taken out of the queue, and returns how many. All others are
// back in the queue on return, or wait for the other node: then the error says so.
func (r *Run) Move(ctx context.Context, jobs []queue.Job, envelope func(spool.ID) *spool.Envelope) (n int, err error) {
	// One message after the other, as the queue lists them.
	var order []spool.ID
	byID := make(map[spool.ID][]queue.Job)
	for _, job := range jobs {
		if byID[job.ID] == nil {
			order = append(order, job.ID)
		}
		byID[job.ID] = append(byID[job.ID], job)
	}
	for len(order) > 0 && err == nil && ctx.Err() == nil {
		batch := make(map[spool.ID][]queue.Job)
		var messages []message
		recipients, octets := 0, int64(0)
		for len(order) > 0 {
			id := order[0]
			e := envelope(id)
			x, ok := r.x.m.messageOf(id, e, byID[id])
			if !ok { // a try settles it as damaged, if it is
				r.x.m.putBack(byID[id])
				order = order[1:]
				continue
			}
			if len(messages) > 0 && (len(messages) == batchMessages || recipients+len(x.Recipients) > batchRecipients || octets+e.Size > batchOctets) {
				break
			}
			messages, batch[id] = append(messages, x), byID[id]
			recipients, octets = recipients+len(x.Recipients), octets+e.Size
			order = order[1:]
		}
		if len(messages) == 0 {
			continue
		}
		var moved int
		moved, err = r.x.batch(messages, batch)
		n += moved
	}
	for _, id := range order {
		r.x.m.putBack(byID[id])
	}
	return n, err
}

// messageOf describes the recipients of a message that jobs have; not ok: it cannot be read.
func (m *Mover) messageOf(id spool.ID, e *spool.Envelope, jobs []queue.Job) (x message, ok bool) {
	states, err := m.o.Store.States(id)
	if e == nil || err != nil {
		return x, false
	}
	x.ID = id.String()
	for _, job := range jobs {
		for _, item := range job.Items {
			if int(item.Ordinal) >= min(len(states), len(e.Recipients)) {
				return x, false
			}
			x.Recipients = append(x.Recipients, recipientOf(item.Ordinal, &states[item.Ordinal]))
		}
	}
	slices.SortFunc(x.Recipients, func(a, b recipient) int { return cmp.Compare(a.Ordinal, b.Ordinal) })
	return x, true
}

// putBack gives the queue back what nothing was begun with.
func (m *Mover) putBack(jobs []queue.Job) {
	states := make(map[spool.ID][]spool.State)
	var done []queue.Settled
	for _, job := range jobs {
		st, ok := states[job.ID]
		if !ok {
			st, _ = m.o.Store.States(job.ID)
			states[job.ID] = st
		}
		for _, item := range job.Items {
			how := queue.Released // to where it was
			if int(item.Ordinal) < len(st) && st[item.Ordinal].Held {
				how = queue.Held
			}
			done = append(done, queue.Settled{Handle: item.Handle, How: how})
		}
	}
	m.o.Queue.Settle(done)
}

// batch moves a batch: O2 to O6.
func (x *outgoing) batch(messages []message, taken map[spool.ID][]queue.Job) (moved int, err error) {
	x.busy.Lock()
	defer x.busy.Unlock()
	m := x.m
	next := x.list
	next.Number, next.Messages, next.Since = next.Number+1, messages, time.Now().UTC().Truncate(time.Second)
	var all []queue.Job
	for i := range messages {
		id, _ := spool.ParseID(messages[i].ID)
		all = append(all, taken[id]...)
	}
	m.o.step("O1")
	if err := m.write(&next); err != nil {
		m.putBack(all)
		return 0, fmt.Errorf("what is to be moved cannot be written down: %w", err)
	}
	m.mu.Lock()
	x.list, x.open, x.taken, x.why = next, true, taken, ""
	m.mu.Unlock()
	m.o.step("O2")
	m.o.Settler.RestateEach(all, func(_ spool.ID, _ uint32, st *spool.State) queue.How {
		st.Held, st.Reply = true, marker(next.Transfer)
		return queue.Pending
	})
	m.o.step("O3")
	return x.push(m.o.Stop)
}

// push brings the open batch to its end: O4 to O6. After an error it is to be called again. The
// caller holds busy.
func (x *outgoing) push(ctx context.Context) (moved int, err error) {
	m := x.m
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.mu.Lock()
	x.abort = cancel
	m.mu.Unlock()
	var refused error
	if len(x.taken) > 0 {
		var has map[spool.ID]spool.ID
		has, refused, err = x.send(ctx)
		if err != nil {
			return 0, x.waits(err)
		}
		m.o.step("O4")
		if moved, err = x.settle(has); err != nil {
			return moved, x.waits(err)
		}
		if refused != nil {
			if err := x.back(); err != nil {
				return moved, x.waits(err)
			}
		}
	}
	// Also when an earlier call has settled them, or an earlier agent.
	if err := m.o.Store.Sync(); err != nil {
		return moved, x.waits(err)
	}
	m.o.step("O5")
	if err := x.confirm(ctx); err != nil {
		return moved, x.waits(fmt.Errorf("%w; its mail is there, and is not sent before it hears that it is moved", err))
	}
	m.o.step("O6")
	m.mu.Lock()
	x.open, x.why, x.wait = false, "", 0
	m.mu.Unlock()
	return moved, refused
}

// settle makes final what the other node has: O5.
func (x *outgoing) settle(has map[spool.ID]spool.ID) (n int, err error) {
	m := x.m
	var jobs []queue.Job
	for id, list := range x.taken {
		if _, ok := has[id]; ok {
			jobs = append(jobs, list...)
		}
	}
	if len(jobs) == 0 {
		return 0, nil
	}
	slices.SortStableFunc(jobs, func(a, b queue.Job) int { return cmp.Compare(a.ID, b.ID) })
	var last spool.ID
	var e *spool.Envelope
	n, recorded := m.o.Settler.DecideEach(jobs, func(id spool.ID) *spool.Envelope {
		if id != last {
			last = id
			e, _ = m.o.Store.Envelope(id)
		}
		return e
	}, func(id spool.ID, _ string) outcome.Decision {
		return outcome.Decision{Action: outcome.Move, Enhanced: "2.0.0", Reason: fmt.Sprintf("moved to node %s as %s", x.list.Node, has[id])}
	})
	if !recorded {
		return 0, errors.New("the journal cannot be written")
	}
	m.mu.Lock()
	for id := range has {
		delete(x.taken, id)
	}
	m.mu.Unlock()
	return n, nil
}

// back gives what is not moved back to this node's queue. That it stays is durable before it can
// be sent.
func (x *outgoing) back() error {
	m := x.m
	next := x.list
	next.Messages = slices.Clone(next.Messages)
	were := make(map[spool.ID]*message)
	for i := range next.Messages {
		id, _ := spool.ParseID(next.Messages[i].ID)
		if x.taken[id] != nil {
			next.Messages[i].Back = true
			were[id] = &next.Messages[i]
		}
	}
	if len(were) == 0 {
		return nil
	}
	if err := m.write(&next); err != nil {
		return fmt.Errorf("what stays here cannot be written down: %w", err)
	}
	var jobs []queue.Job
	m.mu.Lock()
	for _, list := range x.taken {
		jobs = append(jobs, list...)
	}
	x.list, x.taken = next, make(map[spool.ID][]queue.Job)
	m.mu.Unlock()
	m.o.step("back")
	m.o.Settler.RestateEach(jobs, func(id spool.ID, ordinal uint32, st *spool.State) queue.How {
		for i := range were[id].Recipients {
			if r := &were[id].Recipients[i]; r.Ordinal == ordinal {
				*st = r.state()
			}
		}
		if st.Held {
			return queue.Held
		}
		return queue.Released
	})
	return nil
}

// waits notes what a transfer waits for.
func (x *outgoing) waits(err error) error {
	m := x.m
	m.mu.Lock()
	defer m.mu.Unlock()
	news := x.why == "" || x.wait == 0
	x.wait = min(max(2*x.wait, m.o.again), retryLast)
	x.next, x.why = time.Now().Add(x.wait), err.Error()
	n, recipients := x.list.count()
	if news {
		m.o.Log.Warn("mail on its way to another node waits for it; remedy: millrace move --list, and --abandon keeps it here",
			"transfer", x.list.Transfer, "node", x.list.Node, "messages", n, "recipients", recipients, "err", err)
	}
	return fmt.Errorf("%w; transfer %s goes on by itself, or keep its mail here by millrace move --abandon %s", err, x.list.Transfer, x.list.Transfer)
}

// goOn goes on with a transfer that waited.
func (x *outgoing) goOn(ctx context.Context) {
	if !x.busy.TryLock() {
		return
	}
	defer x.busy.Unlock()
	m := x.m
	if err := m.whole(); err != nil {
		return
	}
	x.collect()
	if x.open {
		_, err := x.push(ctx)
		if x.open {
			return
		}
		m.o.Log.Info("transfer of mail to another node has ended", "transfer", x.list.Transfer, "node", x.list.Node, "err", err)
	}
	x.end()
}

// end removes a transfer that has nothing open. The caller holds busy.
func (x *outgoing) end() {
	m := x.m
	if x.list.Number > 0 {
		if err := m.remove(&x.list); err != nil {
			m.o.Log.Error("a transfer that has ended stays in the list", "transfer", x.list.Transfer, "err", err)
			return // the next try comes
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.out, x.list.Transfer)
}

// End ends the run; what is open goes on by Mover.Run.
func (r *Run) End() {
	x := r.x
	x.busy.Lock()
	defer x.busy.Unlock()
	x.m.mu.Lock()
	x.running = false
	open := x.open
	x.m.mu.Unlock()
	if !open {
		x.end()
	}
}

// Transfer is the name of the run's transfer.
func (r *Run) Transfer() string { return r.x.list.Transfer }

// Abandon keeps the mail of a transfer to another node here, whatever that says, and has it sent
// from here. The other node drops its copies when it hears of it.
func (m *Mover) Abandon(transfer string) (done control.Selected, err error) {
	if err := m.whole(); err != nil {
		return done, err
	}
	m.mu.Lock()
	x := m.out[transfer]
	if x != nil {
		x.abort()
	}
	m.mu.Unlock()
	if x == nil {
		return done, fmt.Errorf("transfer %s: %w", transfer, control.ErrUnknown)
	}
	x.busy.Lock()
	defer x.busy.Unlock()
	x.collect()
	for _, list := range x.taken {
		done.Messages++
		for _, job := range list {
			done.Recipients += len(job.Items)
		}
	}
	if done.Messages == 0 {
		return done, fmt.Errorf("nothing of transfer %s can be kept here: node %s has it, and has only to hear that it is moved", transfer, x.list.Node)
	}
	if err := x.back(); err != nil {
		return control.Selected{}, err
	}
	m.o.Log.Warn("a transfer is abandoned: its mail is sent from here; the other node drops its copies when it hears of it, unless its admin has accepted them",
		"transfer", transfer, "node", x.list.Node, "messages", done.Messages, "recipients", done.Recipients)
	return done, nil
}

// askReady asks a node whether it takes mail.
func (m *Mover) askReady(ctx context.Context, node string) error {
	var a answer
	return m.call(ctx, node, pathReady, nil, &a)
}

// send sends what is not moved yet of the open batch: O4. has are the messages that the other node
// has, with their ids there; refused says why it takes no others.
func (x *outgoing) send(ctx context.Context) (has map[spool.ID]spool.ID, refused, err error) {
	m := x.m
	var parts []part
	var unread error
	for i := range x.list.Messages {
		msg := &x.list.Messages[i]
		id, _ := spool.ParseID(msg.ID)
		if x.taken[id] == nil {
			continue
		}
		p, err := m.partOf(id, msg)
		if err != nil {
			// It stays here; a try settles it as damaged, if it is.
			unread = fmt.Errorf("a message cannot be read: %w", err)
			continue
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, unread, nil
	}
	a, err := x.sendBatch(ctx, parts)
	if err != nil {
		return nil, nil, err
	}
	has = make(map[spool.ID]spool.ID, len(a.Has))
	for was, as := range a.Has {
		id, err1 := spool.ParseID(was)
		at, err2 := spool.ParseID(as)
		if err1 != nil || err2 != nil || x.taken[id] == nil {
			return nil, nil, fmt.Errorf("node %s answers that it has %q as %q", x.list.Node, was, as)
		}
		has[id] = at
	}
	switch {
	case a.Refused != "":
		refused = fmt.Errorf("node %s: %s", x.list.Node, a.Refused)
	case unread != nil:
		refused = unread
	case len(has) < len(x.taken):
		refused = fmt.Errorf("node %s has not taken all", x.list.Node)
	}
	return has, refused, nil
}

// sendBatch writes a batch while it is sent, and reads the answer.
func (x *outgoing) sendBatch(ctx context.Context, parts []part) (a answer, err error) {
	r, w := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { w.CloseWithError(x.m.writeBatch(w, &x.list, parts)) })
	defer writing.Wait()
	defer r.CloseWithError(errors.New("the request has ended")) // so does what writes
	err = x.m.call(ctx, x.list.Node, pathBatch, r, &a)
	return a, err
}

// confirm tells the other node which messages of the batch are moved: O6.
func (x *outgoing) confirm(ctx context.Context) error {
	c := confirmation{Version: version, Transfer: x.list.Transfer, Number: x.list.Number}
	for i := range x.list.Messages {
		if msg := &x.list.Messages[i]; !msg.Back {
			c.Moved = append(c.Moved, msg.ID)
		}
	}
	var a answer
	return x.m.callJSON(ctx, x.list.Node, pathConfirm, &c, &a)
}
