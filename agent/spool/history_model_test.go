package spool

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// letterModel is what the test knows of one message.
type letterModel struct {
	seq  int
	env  *Envelope // as appended, with what Append fills in
	text string

	id      ID
	receipt Receipt
	answer  answer
	// excuse says when a message may come though its Append failed.
	excuse excuse
	// powerLost: since the answer.
	powerLost bool

	// verdict is what was written without an error; pending: nothing.
	verdict byte
	// verdictLoose: power was lost since, so that it may be gone.
	verdictLoose bool
	// limbo: a verdict failed, so nobody looks after the message any more.
	limbo bool
	// writer has the segment locked; nil: nobody.
	writer *writerModel

	// taken: an agent took it as an orphan; loose: and may not know it.
	taken, takenLoose bool
	// fragile: never acknowledged, and in a file whose sync failed.
	fragile bool
	session int // the last that had it; 0: none
	over    bool
	states  []stateModel
}

// answer is how an Append ended.
type answer int

const (
	unanswered answer = iota // the process died before, or it goes on
	acknowledged
	refused
)

// excuse says when a refused message may be seen all the same.
type excuse int

const (
	never excuse = iota
	// afterPowerLoss: the message was taken back, but that could not be synced:
	// the disk refused that too, or it was only voided because its caller had
	// given it up, which is not synced.
	afterPowerLoss
	// always: the disk refused each way to take it back.
	always
)

// stateModel is the state of one recipient.
type stateModel struct {
	durable State
	// recorded since: what a power loss may take away, from the end on.
	recorded []eventModel
	loose    bool // power was lost: it is durable, or one of recorded
	// maybe was on its way into the kernel when the agent was killed.
	maybe       *eventModel
	maybeSynced bool
}

// eventModel is an event that is in the kernel.
type eventModel struct {
	State
	session int
	file    *inode // that it was written to
	summed  bool   // in a checkpoint, too, whose name is there
}

func (s *stateModel) now() State {
	if n := len(s.recorded); n > 0 {
		return s.recorded[n-1].State
	}
	return s.durable
}

// sync makes the events durable that match, and so what is before them.
func (s *stateModel) sync(match func(eventModel) bool) {
	if s.loose { // nobody has looked which of them are left
		return
	}
	s.maybeSynced = s.maybeSynced || s.maybe != nil && match(*s.maybe)
	for i := len(s.recorded) - 1; i >= 0; i-- {
		if match(s.recorded[i]) {
			s.durable = s.recorded[i].State
			s.recorded = slices.Delete(s.recorded, 0, i+1)
			return
		}
	}
}

// observe compares what an agent was given.
func (s *stateModel) observe(got State) bool {
	if s.maybe != nil && sameState(got, s.maybe.State) && !s.loose {
		s.recorded = append(s.recorded, *s.maybe)
		if s.maybeSynced {
			s.durable, s.recorded = s.maybe.State, nil
		}
	}
	if s.maybe, s.maybeSynced = nil, false; !s.loose {
		return sameState(got, s.now())
	}
	ok := sameState(got, s.durable)
	for _, e := range s.recorded {
		ok = ok || sameState(got, e.State)
	}
	s.durable, s.recorded, s.loose = got, nil, false
	return ok
}

// final reports whether the recipient can be final.
func (s *stateModel) final() bool {
	if s.maybe != nil && s.maybe.Status.Final() {
		return true
	}
	if !s.loose {
		return s.now().Status.Final()
	}
	return s.durable.Status.Final() || slices.ContainsFunc(s.recorded, func(e eventModel) bool { return e.Status.Final() })
}

func sameState(a, b State) bool {
	due := a.Due.Equal(b.Due)
	a.Due, b.Due = time.Time{}, time.Time{}
	return a == b && due
}

// done reports whether all recipients are final and a power loss cannot change
// that. After one, what an agent did not give us is what it found done on disk.
// An agent cannot know that a sync failed for the one before it.
func (m *letterModel) done(session int) bool {
	for i := range m.states {
		s := &m.states[i]
		blind := len(s.recorded) > 0 && s.recorded[len(s.recorded)-1].session != session && s.recorded[len(s.recorded)-1].file.dropped
		if s.loose || s.maybe != nil || blind {
			if !s.final() {
				return false
			}
		} else if len(s.recorded) > 0 || !s.durable.Status.Final() {
			return false
		}
	}
	return true
}

// dispensable reports whether the octets of the message may go.
func (m *letterModel) dispensable(session int) bool {
	return m.answer != acknowledged || m.fragile || m.verdict == void || m.over || m.done(session)
}

// seen is told of each operation on the disk.
func (w *world) seen(op memOp) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%v %s\n", w.current, op)
	}
	name := strings.TrimPrefix(op.name, w.dir+"/")
	dir, file := path.Split(name)
	switch {
	case op.kind == "sync" && dir == journalDir+"/" && !op.file.dropped:
		w.synced(func(e eventModel) bool { return e.file == op.file })
	case op.kind == "rename" && strings.HasSuffix(file, ".checkpoint"):
		w.events["checkpoint"]++
		for _, m := range w.letters {
			for i := range m.states {
				for n := range m.states[i].recorded {
					m.states[i].recorded[n].summed = true
				}
			}
		}
	case op.kind == "syncdir" && file == journalDir:
		w.synced(func(e eventModel) bool { return e.summed })
	case op.kind == "remove" && dir == segmentsDir+"/":
		if n, ok := parseSegmentName(file); ok {
			w.events["segment removed"]++
			w.mustBeDispensable(op, n, 0, 1<<32)
		}
	case op.kind == "remove" && dir == blobsDir+"/":
		if id, ok := parseBlobName(file); ok {
			w.events["blob removed"]++
			w.mustBeDispensable(op, id.Segment(), int64(id.Offset()), int64(id.Offset())+1)
		}
	case op.kind == "punch" && dir == segmentsDir+"/":
		if n, ok := parseSegmentName(file); ok {
			w.events["punch"]++
			w.mustBeDispensable(op, n, op.off, op.off+int64(len(op.data)))
		}
	}
}

func (w *world) synced(match func(eventModel) bool) {
	for _, m := range w.letters {
		for i := range m.states {
			m.states[i].sync(match)
		}
	}
}

// mustBeDispensable looks at the messages of which these octets hold a part.
func (w *world) mustBeDispensable(op memOp, segment uint32, from, to int64) {
	for _, m := range w.letters {
		if m.id.Segment() != segment || m.dispensable(w.session) {
			continue
		}
		start := int64(m.id.Offset())
		end := start + recordHeaderSize + int64(len(appendEnvelope(nil, m.env)))
		if len(m.text) < blobSize {
			end += int64(len(m.text))
		}
		if start < to && end > from {
			w.violate("%s: octets of %s go, which is not durably done: %+v", op, m, m.states)
		}
	}
}

// kept reports whether a living writer has the segment locked.
func (m *letterModel) kept() bool { return m.writer != nil && !m.writer.fs.killed() }

func (m *letterModel) String() string { return fmt.Sprintf("letter %d (%s)", m.seq, m.id) }

// observe checks a message that an agent was given.
func (w *world) observe(id ID, e *Envelope, states []State, orphan bool) {
	var seq int
	if _, err := fmt.Sscanf(e.QueueID, "Q%d", &seq); err != nil || seq < 0 || seq >= len(w.letters) {
		w.violate("invented: %s %+v", id, e)
		return
	}
	m := w.letters[seq]
	switch {
	case m.answer == unanswered:
		if old := w.byID[id]; old != nil && old != m {
			w.violate("%s came as %s, which is %s", m, id, old)
		}
		m.id, w.byID[id] = id, m
		m.answer, m.powerLost = acknowledged, false
		m.fragile = w.harmed(id.Segment())
	case m.answer == refused:
		if m.excuse == never || m.excuse == afterPowerLoss && !m.powerLost {
			w.violate("%s came as %s, and was refused", m, id)
		}
		w.events["refused came"]++
		m.id, w.byID[id] = id, m
		m.answer, m.powerLost = acknowledged, false
		m.fragile = true
	case m.id != id:
		w.violate("%s came as %s", m, id)
	}
	if got, want := fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", m.env); got != want {
		w.violate("%s: envelope\n%s, want\n%s", m, got, want)
	}
	if m.session == w.session {
		w.violate("%s came twice", m)
	}
	m.session = w.session
	if m.over {
		w.violate("%s came back after it was done", m)
	}
	switch {
	case m.verdict == void && !m.verdictLoose:
		w.violate("%s came and is void", m)
	case m.verdict == released && !m.verdictLoose && orphan:
		w.violate("%s is called an orphan and was released", m)
	case m.verdict == pending && m.kept() && !m.limbo:
		w.violate("%s came before its verdict", m)
	case m.verdict == pending && !m.taken && !orphan:
		w.violate("%s is an orphan and nobody says so", m)
	case m.verdict == pending && m.taken && !m.takenLoose && orphan:
		w.violate("%s is called a new orphan again", m)
	}
	if m.verdict == pending && orphan {
		w.events["orphan"]++
		m.taken, m.takenLoose = true, w.troubled()
	}
	if states == nil {
		states = make([]State, len(m.states))
	}
	if len(states) != len(m.states) {
		w.violate("%s has %d states", m, len(states))
		return
	}
	open := false
	for i := range states {
		open = open || !states[i].Status.Final()
		before := m.states[i]
		if before.loose {
			w.events["state after power loss"]++
		}
		if !m.states[i].observe(states[i]) {
			w.violate("%s/%d came as %+v, want %+v", m, i, states[i], before)
		}
	}
	if !open {
		w.violate("%s came though it is done", m)
	}
}

// complete checks, after a whole Load and Follow without trouble, that nothing
// is missing.
func (w *world) complete() {
	for _, m := range w.letters {
		if m.session == w.session || m.over || m.answer == refused {
			continue
		}
		if m.answer == unanswered {
			// Looked for and not found, it can only come back if what hides
			// it, a verdict of the dying writer, is lost.
			m.answer, m.excuse, m.powerLost = refused, afterPowerLoss, false
			continue
		}
		if m.verdict == void || m.verdict == pending && m.kept() {
			continue
		}
		durable := true
		for i := range m.states {
			s := &m.states[i]
			if !s.final() && !(m.fragile && m.powerLost) {
				w.violate("%s is lost: %+v", m, *m)
				break
			}
			durable = durable && (s.loose || s.durable.Status.Final())
		}
		if !durable { // a sync failed, and the next agent cannot know
			continue
		}
		m.over = true
	}
}

// losePower brings the model to what a power loss leaves.
func (w *world) losePower() {
	for _, m := range w.letters {
		m.powerLost = true
		m.writer = nil
		m.verdictLoose, m.takenLoose = true, true
		for i := range m.states {
			s := &m.states[i]
			if s.maybe != nil {
				s.recorded, s.maybe = append(s.recorded, *s.maybe), nil
			}
			s.loose = s.loose || len(s.recorded) > 0
		}
	}
}
