package route

import (
	"container/heap"
	"time"
)

// maxOctets bounds the cache. An ordinary answer takes some 450 octets, so about
// 35,000 of them fit, those of 10,000 domains; a stranger's at most some 16 KiB
// (maxExchangers names of 253 octets), which is why answers are not just counted.
const maxOctets = 16 << 20

// cache keeps answers until they expire, and never more octets than its limit.
type cache struct {
	limit, octets int
	entries       map[question]*entry
	order         byExpiry // all of them
}

// entry is one answer in its place.
type entry struct {
	question question
	answer   *answer
	octets   int
	place    int // in cache.order
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: make(map[question]*entry)}
}

// get returns the answer to a question, nil if there is none that counts still.
func (c *cache) get(q question, now time.Time) *answer {
	c.expire(now)
	if e := c.entries[q]; e != nil {
		return e.answer
	}
	return nil
}

// put stores an answer. In a full cache those that expire first make room.
func (c *cache) put(q question, a *answer, now time.Time) {
	c.expire(now)
	if old := c.entries[q]; old != nil {
		c.drop(old)
	}
	e := &entry{question: q, answer: a, octets: entryOctets + len(q.name) + a.octets()}
	for len(c.order) > 0 && c.octets+e.octets > c.limit {
		c.drop(c.order[0])
	}
	c.entries[q] = e
	c.octets += e.octets
	heap.Push(&c.order, e)
}

// expire forgets the answers whose time is over.
func (c *cache) expire(now time.Time) {
	for len(c.order) > 0 && !now.Before(c.order[0].answer.expires) {
		c.drop(c.order[0])
	}
}

func (c *cache) drop(e *entry) {
	heap.Remove(&c.order, e.place)
	delete(c.entries, e.question)
	c.octets -= e.octets
}

// entryOctets is what an entry takes beside its texts and records, on 64 bits: the
// entry (64), the answer (176), its place in the order (8) and in the map (32,
// twice that while the map grows).
const entryOctets = 64 + 176 + 8 + 64

// octets is what the answer's texts and records take, with what the allocator adds.
func (a *answer) octets() int {
	const slack = 16 // of each text
	n := 32*cap(a.mx) + 24*cap(a.addrs) + 16*cap(a.txt) + 24*cap(a.tlsa) + len(a.target)
	for _, m := range a.mx {
		n += len(m.Name) + slack
	}
	for _, t := range a.txt {
		n += len(t) + slack
	}
	for _, r := range a.tlsa {
		n += len(r.Data) + slack
	}
	if a.err != nil {
		n += len(a.err.Error()) + 256 // the errors that it wraps
	}
	return n
}

// byExpiry is a heap, what expires first on top.
type byExpiry []*entry

func (b byExpiry) Len() int           { return len(b) }
func (b byExpiry) Less(i, j int) bool { return b[i].answer.expires.Before(b[j].answer.expires) }

func (b byExpiry) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].place, b[j].place = i, j
}

// Push implements heap.Interface.
func (b *byExpiry) Push(x any) {
	e := x.(*entry)
	e.place = len(*b)
	*b = append(*b, e)
}

// Pop implements heap.Interface.
func (b *byExpiry) Pop() any {
	last := len(*b) - 1
	e := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	return e
}
