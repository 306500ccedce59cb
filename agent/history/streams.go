package history

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
)

// Stream is what became of a stream's recipients since First.
type Stream struct {
	Name        string
	First, Last time.Time // of its attempts that are counted here
	Sent        int       // recipients
	Bounced     int
	Ended       int     // otherwise: handed back, suppressed, cancelled, damaged, moved
	Deferrals   int     // attempts; their recipients are tried again
	Rate        float64 // recipients a second that were done of late
}

// stream is a Stream under way.
type stream struct {
	Stream
	done meter
}

// stream finds or begins the account of a stream; nil if there are far too
// many at once. The caller holds h.mu.
func (h *History) stream(name string, now time.Time) *stream {
	s := h.streams[name]
	if s == nil {
		if len(h.streams) >= 2*maxStreams {
			return nil
		}
		name = strings.Clone(name)
		s = &stream{Stream: Stream{Name: name, First: now}}
		h.streams[name] = s
	}
	s.Last = now
	return s
}

func (s *stream) count(d *event.Delivery) {
	switch {
	case d.Status == event.Sent:
		s.Sent++
	case d.Status == event.Bounced:
		s.Bounced++
	case d.Status.Final():
		s.Ended++
	case d.Status == event.Deferred:
		s.Deferrals++
	}
	if d.Status.Final() {
		s.done.now++
	}
}

// forget is how long a stream is remembered after its last attempt.
const forget = 48 * time.Hour

// stepStreams ends a step for the streams, and forgets those of long ago.
func (h *History) stepStreams(took time.Duration) {
	for name, s := range h.streams {
		s.done.step(took)
		if h.sampled.Sub(s.Last) > forget {
			delete(h.streams, name)
		}
	}
	if len(h.streams) <= maxStreams {
		return
	}
	all := make([]*stream, 0, len(h.streams))
	for _, s := range h.streams {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *stream) int { return a.Last.Compare(b.Last) })
	for _, s := range all[:len(all)-maxStreams] {
		delete(h.streams, s.Name)
	}
}

// Streams returns what became of the streams, by name.
func (h *History) Streams(now time.Time) map[string]Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make(map[string]Stream, len(h.streams))
	for name, s := range h.streams {
		x := s.Stream
		x.Rate = s.done.rate(now.Sub(h.sampled))
		list[name] = x
	}
	return list
}

// The classes of failures are counted for parts of the span.
const (
	partSteps = int(10 * time.Minute / Step)
	parts     = points / partSteps
	lastHour  = 6 // parts
)

// classes counts failures, by class, in the part under way and those before.
type classes struct {
	part   int
	byPart [parts]map[outcome.Class]*failures
}

type failures struct{ bounced, deferred int }

func (c *classes) count(d *event.Delivery) {
	m := c.byPart[c.part]
	if m == nil {
		m = make(map[outcome.Class]*failures)
		c.byPart[c.part] = m
	}
	f := m[d.Class]
	if f == nil {
		f = new(failures)
		m[d.Class] = f
	}
	switch d.Status {
	case event.Bounced:
		f.bounced++
	case event.Deferred:
		f.deferred++
	}
}

// step begins a part when it is time to.
func (c *classes) step(samples int) {
	if samples%partSteps == 0 {
		c.part = (c.part + 1) % parts
		c.byPart[c.part] = nil
	}
}

// Class counts the failures of one class.
type Class struct {
	Class                        outcome.Class
	Bounced, BouncedLastHour     int // recipients, in Span and in the last hour
	Deferrals, DeferralsLastHour int // attempts
}

// Classes are the classes of failures that happened, those with most bounces first.
func (h *History) Classes() []Class {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[outcome.Class]*Class)
	for ago := range parts {
		for class, f := range h.classes.byPart[(h.classes.part+parts-ago)%parts] {
			c := all[class]
			if c == nil {
				c = &Class{Class: class}
				all[class] = c
			}
			c.Bounced += f.bounced
			c.Deferrals += f.deferred
			if ago < lastHour {
				c.BouncedLastHour += f.bounced
				c.DeferralsLastHour += f.deferred
			}
		}
	}
	list := make([]Class, 0, len(all))
	for _, c := range all {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b Class) int {
		return cmp.Or(cmp.Compare(b.Bounced, a.Bounced), cmp.Compare(b.Deferrals, a.Deferrals), cmp.Compare(a.Class, b.Class))
	})
	return list
}
