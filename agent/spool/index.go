package spool

import (
	"slices"
	"time"
)

// index is what the store remembers of the messages of one segment. There may be
// ten million messages, so it is packed: a message takes four octets while all
// is fresh, and a deferred one with a single recipient 24. What is done and
// can be given back takes none, whatever it was.
type index struct {
	replies *textTable
	froms   *textTable

	keys    []uint32 // one for each message, by offset
	slots   []uint32 // beside keys: the place in states, plus 1; 0 is fresh; nil while all are
	states  []kept
	free    []uint32          // unused places in states
	multi   map[uint32]*multi // by offset: those with not just one recipient
	done    spans             // their messages are not in keys
	open    int               // messages in keys that are not done
	freed   int64             // octets of messages that got done since holes were last made
	freedAt time.Time         // when the first of them did

	// From the journal, until the record is read.
	replay      map[uint32]uint32 // state of recipient 0, by offset: place in states
	replayMulti map[uint32]*multi // states of all others
}

// A key is the offset of a record, which is a multiple of recordAlign below
// maxOffset, moved up by two bits. This leaves the five lowest free.
const (
	keyBlob  = 1 << 0 // content is in a file of its own
	keyDone  = 1 << 1 // all recipients are final, or the record is void
	keyMulti = 1 << 2 // see index.multi
	keyKept  = 1 << 3 // done, but remembered: an outcome is damaged
	keyShift = 2

	maxOffset = 1 << 30
)

func keyOffset(key uint32) uint32 { return key >> keyShift &^ (recordAlign - 1) }

// multi is a message with several recipients.
type multi struct {
	recipients uint32
	open       uint32 // not final
	states     []kept // nil while all are fresh
}

// kept is a state in memory, in 16 octets.
type kept struct {
	due   int64
	reply uint16 // in replies
	from  uint16 // in froms
	tries uint16
	how   uint8 // status, and the flags below
	class uint8
}

const (
	keptHandback = 1 << 7
	keptStuck    = 1 << 6
	keptHeld     = 1 << 5
	keptStatus   = keptHeld - 1
)

var freshKept = kept{due: noTime}

func (k kept) status() Status { return Status(k.how & keptStatus) }

func (x *index) pack(s *state) kept {
	k := kept{
		due: s.due, reply: uint16(x.replies.hold(s.reply)), from: uint16(x.froms.hold(s.from)), tries: s.tries,
		how: uint8(s.status) & keptStatus, class: s.class,
	}
	if s.handback {
		k.how |= keptHandback
	}
	if s.stuck {
		k.how |= keptStuck
	}
	if s.held {
		k.how |= keptHeld
	}
	return k
}

func (x *index) unpack(k kept) state {
	return state{
		due: k.due, reply: x.replies.text(uint32(k.reply)), from: x.froms.text(uint32(k.from)), tries: k.tries,
		status: k.status(), class: k.class, handback: k.how&keptHandback != 0, stuck: k.how&keptStuck != 0, held: k.how&keptHeld != 0,
	}
}

// drop ends the use of a state's texts.
func (x *index) drop(k kept) {
	x.replies.drop(uint32(k.reply))
	x.froms.drop(uint32(k.from))
}

// store puts a state into a free place.
func (x *index) store(k kept) (place uint32) {
	if n := len(x.free); n > 0 {
		place = x.free[n-1]
		x.free = x.free[:n-1]
		x.states[place] = k
		return place
	}
	x.states = append(x.states, k)
	return uint32(len(x.states) - 1)
}

// take empties a place.
func (x *index) take(place uint32) kept {
	k := x.states[place]
	x.free = append(x.free, place)
	return k
}

// find returns where a message is in keys.
func (x *index) find(offset uint32) (i int, ok bool) {
	return slices.BinarySearchFunc(x.keys, offset, func(key, offset uint32) int {
		switch o := keyOffset(key); {
		case o < offset:
			return -1
		case o > offset:
			return 1
		}
		return 0
	})
}

func (x *index) offset(i int) uint32 { return keyOffset(x.keys[i]) }
func (x *index) isDone(i int) bool   { return x.keys[i]&keyDone != 0 }
func (x *index) blob(i int) bool     { return x.keys[i]&keyBlob != 0 }
func (x *index) hasMany(i int) bool  { return x.keys[i]&keyMulti != 0 }

// many returns a message with several recipients that is not done.
func (x *index) many(i int) *multi {
	if !x.hasMany(i) {
		return nil
	}
	return x.multi[x.offset(i)]
}

// slot returns the place of the state of a single recipient.
func (x *index) slot(i int) (place uint32, ok bool) {
	if x.slots == nil || x.slots[i] == 0 {
		return 0, false
	}
	return x.slots[i] - 1, true
}

func (x *index) setSlot(i int, slot uint32) {
	if x.slots == nil {
		if slot == 0 {
			return
		}
		x.slots = make([]uint32, len(x.keys), cap(x.keys))
	}
	x.slots[i] = slot
}

// expect makes room for n messages.
func (x *index) expect(n int) { x.keys = slices.Grow(x.keys, n) }

// add takes up the next message, with what the journal says of it.
func (x *index) add(offset, recipients uint32, blob bool) (i int, replayed bool) {
	key := offset << keyShift
	if blob {
		key |= keyBlob
	}
	if recipients != 1 {
		key |= keyMulti
	}
	i = len(x.keys)
	x.keys = append(x.keys, key)
	if x.slots != nil {
		x.slots = append(x.slots, 0)
	}
	x.open++
	place, first := x.replay[offset]
	others := x.replayMulti[offset]
	delete(x.replay, offset)
	delete(x.replayMulti, offset)
	replayed = first || others != nil
	if recipients == 1 {
		if first {
			x.setSlot(i, place+1)
			if x.states[place].status().Final() {
				x.finish(i)
			}
		}
		return i, replayed
	}
	m := &multi{recipients: recipients, open: recipients}
	if x.multi == nil {
		x.multi = make(map[uint32]*multi)
	}
	x.multi[offset] = m
	if replayed && recipients > 0 {
		m.fill()
		if others != nil {
			copy(m.states, others.states)
		}
		if first {
			m.states[0] = x.take(place)
		}
		for _, k := range m.states {
			if k.status().Final() {
				m.open--
			}
		}
	}
	if m.open == 0 {
		x.finish(i)
	}
	return i, replayed
}

func (m *multi) fill() {
	m.states = make([]kept, m.recipients)
	for r := range m.states {
		m.states[r] = freshKept
	}
}

func (x *index) recipients(i int) uint32 {
	if x.hasMany(i) {
		if m := x.many(i); m != nil {
			return m.recipients
		}
		return 0 // done, and forgotten
	}
	return 1
}

// isFinal reports whether a recipient of a message does not change any more.
func (x *index) isFinal(i int, recipient uint32) bool {
	if x.isDone(i) {
		return true
	}
	m := x.many(i)
	return m != nil && m.states != nil && m.states[recipient].status().Final()
}

// state returns the state of a recipient; fresh says that nothing is known.
func (x *index) state(i int, recipient uint32) (s state, isFresh bool) {
	k := freshKept
	if m := x.many(i); m != nil {
		if m.states != nil {
			k = m.states[recipient]
		}
	} else if place, ok := x.slot(i); ok {
		k = x.states[place]
	}
	return x.unpack(k), k == freshKept
}

// set changes a recipient that is not final. done: it was the last one.
func (x *index) set(i int, recipient uint32, s *state) (done bool) {
	k := x.pack(s)
	if !x.hasMany(i) {
		if place, ok := x.slot(i); ok {
			x.drop(x.states[place])
			x.states[place] = k
		} else if k.status().Final() && k.status() != Damaged {
			x.drop(k) // the usual way of a message: nothing to keep
		} else {
			x.setSlot(i, x.store(k)+1)
		}
		return k.status().Final()
	}
	m := x.many(i)
	if m.states == nil {
		m.fill()
	}
	x.drop(m.states[recipient])
	m.states[recipient] = k
	if k.status().Final() {
		m.open--
	}
	return m.open == 0
}

// finish notes that a message is done. Its states are forgotten, as nobody asks
// for them any more, unless one says that it could not be read.
func (x *index) finish(i int) {
	if x.isDone(i) {
		return
	}
	x.keys[i] |= keyDone
	x.open--
	if place, ok := x.slot(i); ok {
		if x.states[place].status() == Damaged {
			x.keys[i] |= keyKept
			return
		}
		x.drop(x.take(place))
		x.slots[i] = 0
	}
	if m := x.many(i); m != nil {
		if slices.ContainsFunc(m.states, func(k kept) bool { return k.status() == Damaged }) {
			x.keys[i] |= keyKept
			return
		}
		for _, k := range m.states {
			x.drop(k)
		}
		delete(x.multi, x.offset(i))
	}
}

// replayed notes a state from the journal, of a record not yet read.
func (x *index) replayed(offset, recipient uint32, s *state) {
	k := x.pack(s)
	if recipient == 0 {
		if place, ok := x.replay[offset]; ok {
			x.drop(x.states[place])
			x.states[place] = k
			return
		}
		if x.replay == nil {
			x.replay = make(map[uint32]uint32)
		}
		x.replay[offset] = x.store(k)
		return
	}
	m := x.replayMulti[offset]
	if m == nil {
		m = new(multi)
		if x.replayMulti == nil {
			x.replayMulti = make(map[uint32]*multi)
		}
		x.replayMulti[offset] = m
	}
	for len(m.states) <= int(recipient) {
		m.states = append(m.states, freshKept)
	}
	x.drop(m.states[recipient])
	m.states[recipient] = k
}

// unread yields what the journal says of records that were not found.
func (x *index) unread(yield func(offset, recipient uint32, s state)) {
	for offset, place := range x.replay {
		yield(offset, 0, x.unpack(x.states[place]))
	}
	for offset, m := range x.replayMulti {
		for r, k := range m.states {
			if k != freshKept {
				yield(offset, uint32(r), x.unpack(k))
			}
		}
	}
}

// forgetUnread ends the replay.
func (x *index) forgetUnread() {
	for _, place := range x.replay {
		x.drop(x.take(place))
	}
	for _, m := range x.replayMulti {
		for _, k := range m.states {
			x.drop(k)
		}
	}
	x.replay, x.replayMulti = nil, nil
}

// behind returns where the record behind a message starts, or what is known to be
// behind it: end is that of the last record.
func (x *index) behind(i int, end int64) int64 {
	if i+1 < len(x.keys) {
		end = int64(x.offset(i + 1))
	}
	if j := x.done.after(x.offset(i)); j < len(x.done) {
		end = min(end, int64(x.done[j].from))
	}
	return end
}

// compact forgets the messages within done.
func (x *index) compact() {
	n := 0
	for i, key := range x.keys {
		if _, gone := x.done.find(keyOffset(key)); gone {
			continue
		}
		x.keys[n] = key
		if x.slots != nil {
			x.slots[n] = x.slots[i]
		}
		n++
	}
	// A copy, so that the memory really goes.
	x.keys = slices.Clone(x.keys[:n])
	if x.slots != nil {
		x.slots = slices.Clone(x.slots[:n])
	}
	if len(x.free) == len(x.states) {
		x.states, x.free = nil, nil
	}
}

// forget ends the use of all texts.
func (x *index) forget() {
	for i := range x.keys {
		if place, ok := x.slot(i); ok {
			x.drop(x.states[place])
		}
	}
	for _, m := range x.multi {
		for _, k := range m.states {
			x.drop(k)
		}
	}
	*x = index{replies: x.replies, froms: x.froms}
}
