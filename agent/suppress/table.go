package suppress

import (
	"hash/maphash"
	"math"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// maxBounces is the most that is counted.
const maxBounces = math.MaxUint8

// mark is what memory keeps of an entry.
type mark struct {
	last    uint32 // seconds since 1970, until 2106
	seq     uint16 // with the rest, tells its line in the file from older ones
	bounces uint8
	class   uint8 // with lateBit
}

// lateBit marks an entry whose last bounce came in a report. No class is as great.
const lateBit = 0x80

func (m mark) entry() Entry {
	return Entry{Last: time.Unix(int64(m.last), 0).UTC(), Bounces: int(m.bounces), Class: outcome.Class(m.class &^ lateBit), Late: m.class&lateBit != 0}
}

// table holds the marks by their hashes.
type table struct {
	seed  maphash.Seed
	marks map[uint64]mark
	seq   uint16 // of the last mark
}

func newTable() table { return table{seed: maphash.MakeSeed(), marks: make(map[uint64]mark)} }

// key is the hash of an entry; the address is folded.
func (t *table) key(stream, address string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	h.WriteString(address)
	h.WriteByte(0)
	h.WriteString(stream)
	return h.Sum64()
}

func (t *table) get(stream, address string) (Entry, bool) {
	m, ok := t.marks[t.key(stream, address)]
	if !ok {
		return Entry{}, false
	}
	return m.entry(), true
}

func (t *table) set(e *Entry) mark {
	t.seq++
	m := mark{
		last: uint32(max(0, min(e.Last.Unix(), math.MaxUint32))), seq: t.seq,
		bounces: uint8(e.Bounces), class: uint8(e.Class),
	}
	if e.Late {
		m.class |= lateBit
	}
	t.marks[t.key(e.Stream, e.Address)] = m
	return m
}

func (t *table) drop(stream, address string) bool {
	k := t.key(stream, address)
	_, ok := t.marks[k]
	delete(t.marks, k)
	return ok
}

// current reports whether a line of the file is the last word on its entry.
func (t *table) current(stream, address string, m mark) bool {
	return t.marks[t.key(stream, address)] == m && m != mark{}
}

// fold makes one of the ways to write an address.
func fold(address string) string { return strings.ToLower(address) }
