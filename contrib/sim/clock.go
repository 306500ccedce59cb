package sim

import (
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
	c.events.push(event{c.now + max(d, 0), c.seq, do})
}

// run lets everything happen that is due up to then.
func (c *clock) run(until time.Duration) {
	for len(c.events) > 0 && c.events[0].at <= until {
		e := c.events.pop()
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

// events is a binary heap, the next one first. container/heap would allocate for each.
type events []event

func (e events) less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}

func (e *events) push(x event) {
	h := append(*e, x)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	*e = h
}

func (e *events) pop() event {
	h := *e
	x, n := h[0], len(h)-1
	h[0], h[n] = h[n], event{}
	h = h[:n]
	for i := 0; ; {
		least := i
		for _, c := range [...]int{2*i + 1, 2*i + 2} {
			if c < n && h.less(c, least) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*e = h
	return x
}
