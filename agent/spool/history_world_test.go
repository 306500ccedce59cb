package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/synctest"
	"time"
)

// world is a machine, the processes on it, and what the test knows of them.
type world struct {
	m       *machine
	dir     string
	rng     *rand.Rand // of the action
	current action
	err     error // what went wrong first

	writers []*writerModel
	agent   *agentModel

	letters []*letterModel
	byID    map[ID]*letterModel
	session int  // of agents
	fragile bool // a sync failed, or an outcome is damaged: not all comes back
	key     string
	events  map[string]int
	trace   io.Writer // nil: none
}

type writerModel struct {
	fs *memFS
	w  *Writer
}

type agentModel struct {
	fs *memFS
	s  *Store
}

func newWorld(first action) *world {
	w := &world{dir: "/spool", byID: make(map[ID]*letterModel), events: make(map[string]int)}
	w.m = newMachine(rand.New(rand.NewPCG(0, 0)))
	w.m.seen = w.seen
	w.m.noHoles = first.seed%4 == 0
	return w
}

func (w *world) violate(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %s: %s", w.current, fmt.Sprintf(format, args...))
	}
}

// troubled reports whether the disk may refuse something now.
func (w *world) troubled() bool { return w.m.fault != nil }

// check looks at an error of a call by a process. It is false if the call did
// not do what it should, and that was to be expected.
func (w *world) check(fs *memFS, what string, err error) bool {
	if err == nil {
		return true
	}
	if fs.killed() || isInjected(err) {
		return false
	}
	w.violate("%s: %v", what, err)
	return false
}

func (w *world) act(a action) {
	w.current = a
	w.rng = rand.New(rand.NewPCG(a.seed, 1))
	w.m.rng = rand.New(rand.NewPCG(a.seed, 2))
	switch a.kind {
	case "append":
		w.appendSome(1)
	case "append many":
		w.appendSome(2 + w.rng.IntN(6))
	case "release":
		for range 1 + w.rng.IntN(4) {
			w.settle(released)
		}
	case "void":
		w.settle(void)
	case "open writer":
		w.openWriter()
	case "follow":
		w.follow(time.Duration(w.rng.IntN(7)) * time.Second)
	case "read":
		w.read()
	case "record":
		w.record()
	case "sync":
		w.sync()
	case "upkeep":
		w.upkeep()
	case "key":
		w.loopKey()
	case "close writer":
		if p := pick(w.rng, w.writers); p != nil {
			w.closeWriter(p)
		}
	case "close agent":
		w.closeAgent()
	case "kill writer":
		if p := pick(w.rng, w.writers); p != nil {
			p.fs.kill()
		}
	case "kill agent":
		if w.agent != nil {
			w.agent.fs.kill()
		}
	case "power loss":
		w.m.powerOff()
	case "fuse":
		w.setFuse()
	case "trouble":
		w.trouble()
	case "one fault":
		w.oneFault()
	case "calm":
		w.calm()
	case "check":
		w.examine()
	}
	w.bury()
}

func pick[T any](rng *rand.Rand, list []*T) *T {
	if len(list) == 0 {
		return nil
	}
	return list[rng.IntN(len(list))]
}

// orphan notes that a writer is gone.
func (w *world) orphan(p *writerModel) {
	for _, m := range w.letters {
		if m.writer == p {
			m.writer = nil
		}
	}
}

func (w *world) openWriter() *writerModel {
	if len(w.writers) >= 2 {
		return pick(w.rng, w.writers)
	}
	fs := w.m.process()
	size := recordsAt + int64(4+w.rng.IntN(60))<<10
	o, err := OpenWriter(w.dir, WriterOptions{FS: fs, SegmentSize: size})
	if !w.check(fs, "OpenWriter", err) {
		fs.kill()
		return nil
	}
	p := &writerModel{fs, o}
	w.writers = append(w.writers, p)
	return p
}

// letter makes a new message.
func (w *world) letter() *letterModel {
	seq := len(w.letters)
	n := 1 + w.rng.IntN(3)
	env, text := letter(seq, n)
	switch w.rng.IntN(60) {
	case 0:
		text += strings.Repeat("a large one\r\n", blobSize/13+w.rng.IntN(2000))
	default:
		text += strings.Repeat("x", w.rng.IntN(1<<w.rng.IntN(15)))
	}
	m := &letterModel{seq: seq, env: env, text: text, states: make([]stateModel, n)}
	w.letters = append(w.letters, m)
	return m
}

// appendSome appends messages that share their syncs: the first sync is held up
// until the others wait. Some are given up meanwhile.
func (w *world) appendSome(n int) {
	p := pick(w.rng, w.writers)
	if p == nil {
		if p = w.openWriter(); p == nil {
			return
		}
	}
	type result struct {
		m       *letterModel
		receipt Receipt
		err     error
		cancel  context.CancelFunc
		gaveUp  bool
		done    chan struct{}
	}
	var gate chan struct{}
	if n > 1 {
		gate = make(chan struct{})
		w.m.gate = gate
	}
	faults := w.m.faults
	var results []*result
	for range n {
		r := &result{m: w.letter(), done: make(chan struct{})}
		r.m.writer = p
		var ctx context.Context
		ctx, r.cancel = context.WithCancel(context.Background())
		results = append(results, r)
		go func() {
			defer close(r.done)
			r.receipt, r.err = p.w.Append(ctx, r.m.env, strings.NewReader(r.m.text))
		}()
		if n > 1 {
			synctest.Wait()
		}
	}
	if n > 1 {
		for _, r := range results {
			if w.rng.IntN(12) == 0 {
				r.cancel()
				r.gaveUp = true
				synctest.Wait()
			}
		}
		w.m.mu.Lock()
		w.m.gate = nil
		w.m.mu.Unlock()
		close(gate)
	}
	for _, r := range results {
		<-r.done
	}
	synctest.Wait() // those given up are voided only now
	faults = w.m.faults - faults
	for _, r := range results {
		r.cancel()
		m := r.m
		switch {
		case r.err == nil:
			w.events["acknowledged"]++
			m.answer, m.receipt, m.id = acknowledged, r.receipt, r.receipt.ID()
			if old := w.byID[m.id]; old != nil {
				w.violate("%s has the id of %s", m, old)
			}
			w.byID[m.id] = m
		case p.fs.killed(): // nobody knows
			w.events["not answered"]++
		case r.gaveUp || w.check(p.fs, "Append", r.err) || w.err == nil:
			m.answer, m.writer = refused, nil
			if w.events["refused"]++; r.gaveUp {
				w.events["given up"]++
			}
			fill(m) // if it should come
			switch {
			case faults >= 4 || r.gaveUp && faults > 0:
				m.excuse = always
			case faults >= 2 || r.gaveUp:
				m.excuse = afterPowerLoss
			}
		}
		fill(m)
	}
}

// fill puts into an envelope what Append does.
func fill(m *letterModel) {
	m.env.Size, m.env.HeaderSize = int64(len(m.text)), int64(strings.Index(m.text, "\r\n\r\n")+4)
}

func (w *world) settle(verdict byte) {
	var open []*letterModel
	for _, m := range w.letters {
		if m.answer == acknowledged && m.verdict == pending && m.kept() && !m.limbo && m.receipt.r != nil {
			open = append(open, m)
		}
	}
	m := pick(w.rng, open)
	if m == nil {
		return
	}
	call := m.receipt.Release
	if verdict == void {
		call = m.receipt.Void
	}
	if w.check(m.writer.fs, "verdict", call()) {
		m.verdict, m.verdictLoose = verdict, false
	} else {
		m.limbo = true
	}
}

func (w *world) closeWriter(p *writerModel) {
	w.check(p.fs, "close writer", p.w.Close())
	if p.fs.killed() {
		return // bury sees to it
	}
	w.orphan(p)
	w.writers = slices.DeleteFunc(w.writers, func(o *writerModel) bool { return o == p })
	p.fs.kill()
}

// openAgent opens and loads a store. Clean says that nothing failed.
func (w *world) openAgent() (clean bool) {
	faults := w.m.faults
	fs := w.m.process()
	s, err := OpenStore(w.dir, StoreOptions{FS: fs, journalStep: 512, journalMax: 128 << w.rng.IntN(7), byHand: true})
	if !w.check(fs, "OpenStore", err) {
		fs.kill()
		return false
	}
	w.session++
	w.agent = &agentModel{fs, s}
	w.meanwhile()
	err = s.Load(func(id ID, e *Envelope, states []State) error {
		w.observe(id, e, states, false)
		w.readLetter(w.byID[id])
		w.meanwhile()
		return nil
	})
	if !w.check(fs, "Load", err) {
		if !fs.killed() {
			w.closeAgent()
		}
		return false
	}
	return w.m.faults == faults
}

func (w *world) follow(d time.Duration) (clean bool) {
	faults := w.m.faults
	if w.agent == nil && !w.openAgent() && w.agent == nil {
		return false
	}
	a := w.agent
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	err := a.s.Follow(ctx, func(id ID, e *Envelope, states []State, orphan bool) error {
		w.observe(id, e, states, orphan)
		w.readLetter(w.byID[id])
		w.meanwhile()
		return nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		w.check(a.fs, "Follow", err)
		return false
	}
	return w.m.faults == faults && !a.fs.killed()
}

// meanwhile lets a writer work while an agent looks at the spool.
func (w *world) meanwhile() {
	switch w.rng.IntN(8) {
	case 0:
		if p := pick(w.rng, w.writers); p != nil && !p.fs.killed() && w.current.kind != "finale" {
			w.appendSome(1 + w.rng.IntN(2))
		}
	case 1:
		w.settle(released)
	case 2:
		w.settle(void)
	}
}

// readLetter compares the content of a message.
func (w *world) readLetter(m *letterModel) {
	if m == nil || w.agent == nil {
		return
	}
	c, err := w.agent.s.Open(m.id)
	if m.fragile && errors.Is(err, ErrDamaged) {
		return // a later agent cannot know that the sync of an earlier one failed
	}
	if !w.check(w.agent.fs, "open "+m.String(), err) {
		return
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if m.fragile && errors.Is(err, ErrDamaged) {
		return
	}
	if w.check(w.agent.fs, "read "+m.String(), err) && string(b) != m.text {
		w.violate("%s: %d octets differ from the %d that were appended", m, len(b), len(m.text))
	}
}

// held lists what the agent has and is not done.
func (w *world) held() (list []*letterModel) {
	if w.agent == nil {
		return nil
	}
	for _, m := range w.letters {
		if m.session == w.session && slices.ContainsFunc(m.states, func(s stateModel) bool { return !s.now().Status.Final() }) {
			list = append(list, m)
		}
	}
	return list
}

func (w *world) read() { w.readLetter(pick(w.rng, w.held())) }

// record journals events of some recipients, most of them final.
func (w *world) record() {
	if w.agent == nil {
		w.openAgent()
		return
	}
	var events []Event
	used := make(map[Event]bool)
	for range 1 + w.rng.IntN(4) {
		m := pick(w.rng, w.held())
		if m == nil {
			return
		}
		for i := range m.states {
			if m.states[i].now().Status.Final() || used[Event{ID: m.id, Recipient: uint32(i)}] {
				continue
			}
			used[Event{ID: m.id, Recipient: uint32(i)}] = true
			st := State{Status: Status(w.rng.IntN(int(Damaged))), // a damaged one is never reclaimed
				Tries: uint16(w.rng.IntN(100)), Class: uint8(w.rng.IntN(9))}
			if w.rng.IntN(3) == 0 {
				st.Status = Queued
				st.Due, st.Handback = time.Unix(1800000000, int64(w.rng.IntN(1e9))), w.rng.IntN(4) == 0
				st.Stuck = st.Handback && w.rng.IntN(2) == 0
				st.Held = w.rng.IntN(4) == 0
				st.Reply = strings.Repeat("r", w.rng.IntN(60))
			}
			if w.rng.IntN(200) == 0 {
				st.Status, w.fragile = Damaged, true
			}
			events = append(events, Event{ID: m.id, Recipient: uint32(i), State: st})
			if w.rng.IntN(3) == 0 {
				break
			}
		}
	}
	if len(events) == 0 {
		return
	}
	ok := w.check(w.agent.fs, "Record", w.agent.s.Record(events...))
	for _, e := range events {
		s := &w.byID[e.ID].states[e.Recipient]
		ev := eventModel{State: e.State, session: w.session, file: w.journal()}
		if ok {
			s.recorded = append(s.recorded, ev)
		} else if w.agent.fs.killed() {
			s.maybe = &ev
		}
	}
}

// journal returns the file that takes the agent's events, also if the agent was
// just killed while it wrote one.
func (w *world) journal() *inode { return w.agent.s.journal.file.(*memFile).f }

func (w *world) sync() {
	if w.agent == nil || !w.check(w.agent.fs, "Sync", w.agent.s.Sync()) {
		return
	}
	w.synced(func(e eventModel) bool { return e.session == w.session || !e.file.dropped })
}

func (w *world) upkeep() {
	if w.agent != nil {
		w.agent.s.upkeep()
	}
}

func (w *world) closeAgent() {
	if w.agent == nil {
		return
	}
	a := w.agent
	ok := w.check(a.fs, "close agent", a.s.Close())
	if a.fs.killed() {
		return
	}
	if ok {
		w.synced(func(e eventModel) bool { return e.session == w.session || !e.file.dropped })
	}
	w.agent = nil
	a.fs.kill()
}

func (w *world) loopKey() {
	fs := w.m.process()
	defer fs.kill()
	key, err := loopKey(fs, w.dir)
	if !w.check(fs, "loop key", err) {
		return
	}
	if w.key != "" && w.key != string(key) {
		w.violate("the loop key changed")
	}
	w.key = string(key)
}
