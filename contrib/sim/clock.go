package sim

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// epoch is the moment at which every simulation begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is virtual time: what is to happen, in order, and the chance in it.
type clock struct {
	now    time.Duration // since the epoch
	rng    *rand.Rand
	events events
	seq    int
}

func newClock(seed uint64) *clock { return &clock{rng: rand.New(rand.NewPCG(seed, 1))} }

// time is the present moment as the controller is told it.
func (c *clock) time() time.Time { return epoch.Add(c.now) }

// after lets something happen when d has passed.
func (c *clock) after(d time.Duration, do func()) {
	c.seq++
	heap.Push(&c.events, event{c.now + max(d, 0), c.seq, do})
}

// run lets everything happen that is due up to then.
func (c *clock) run(until time.Duration) {
	for len(c.events) > 0 && c.events[0].at <= until {
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.do()
	}
	c.now = until
}

type event struct {
	at  time.Duration
	seq int // of two at the same time the older one is first
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}
