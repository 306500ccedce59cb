package queue

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// SetPriority sets a stream's share of a destination beside the others that wait
// there, 1 (as 0) to config.MaxPriority, whether it has mail or not. Streams past the limit
// of distinct ones are hashed together and have no priority of their own.
func (q *Queue) SetPriority(stream string, priority int) error {
	if priority < 0 || priority > config.MaxPriority {
		return fmt.Errorf("priority %d is not between 1 and %d", priority, config.MaxPriority)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if priority <= 1 {
		delete(q.priorities, stream)
	} else {
		q.priorities[stream] = priority
	}
	return nil
}

// priority is a stream's share: what an admin has set, or what its [[stream]] says.
func (q *Queue) priority(f *flow) int {
	if len(q.priorities) > 0 {
		if n := q.priorities[q.streams.text(f.stream)]; n > 0 {
			return n
		}
	}
	return max(1, f.priority)
}

// Stream is the state of one stream, as listings show it.
type Stream struct {
	Name     string
	Waiting  int // recipients in lanes
	Deferred int
	Active   int
	Held     int       // on hold, or paused
	Paused   string    // why a pause of the stream is on; "" if none is
	Priority int       // 0 is 1
	Limits   string    // name of its [[stream]]; "" if it has none
	Waits    string    // which of its limits, or which warm-up, some of it waits for; "" if for none
	Until    time.Time // when that ends; zero: that is not known
}

// Streams lists the streams with mail, a pause or a priority, by name. It looks at
// every recipient, some thousand under the mutex at a time.
func (q *Queue) Streams() []Stream {
	all := make(map[string]*Stream)
	stream := func(name string) *Stream {
		s := all[name]
		if s == nil {
			s = &Stream{Name: name, Priority: q.priorities[name]}
			all[name] = s
		}
		return s
	}
	q.mu.Lock()
	for name := range q.priorities {
		stream(name)
	}
	for _, b := range q.pauses {
		if b.Stream != "" && b == (Pause{Stream: b.Stream, Reason: b.Reason}) {
			stream(b.Stream).Paused = b.Reason
		}
	}
	q.mu.Unlock()
	q.each(func(_ uint32, rec *recipient) {
		s := stream(q.streams.text(uint32(q.messages.at(rec.message).stream)))
		switch rec.state {
		case inLane:
			s.Waiting++
		case inBucket:
			s.Deferred++
		case taken:
			s.Active++
		case onHold, parked:
			s.Held++
		}
	}, func() bool { return true })
	now := time.Now()
	q.mu.Lock()
	for name, s := range all {
		if l := q.limitsOfName(name); l != nil {
			s.Limits, s.Priority = l.Name, cmp.Or(s.Priority, l.Priority)
			s.Waits, s.Until = l.waitsFor(now)
		}
	}
	for _, g := range q.coldGates.gates {
		if !g.forWarmup || g.warmup == nil || !g.until.After(now) {
			continue
		}
		for _, r := range [...]*ring[*sleeper]{&g.cold, &g.warm} {
			for x, i := r.head, r.n; i > 0; x, i = x.next, i-1 {
				if s := all[q.streams.text(x.flow.stream)]; s != nil && (s.Until.IsZero() || g.until.Before(s.Until)) {
					s.Waits, s.Until = g.warmup.inWords(), g.until
				}
			}
		}
	}
	q.mu.Unlock()
	list := make([]Stream, 0, len(all))
	for _, s := range all {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Stream) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
