package queue

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// StreamSetting is what an admin or a policy asks of a stream.
type StreamSetting struct {
	// Paused, if not "", says why nothing of the stream is sent. What is in
	// flight finishes; the rest waits, does not expire, and comes due as ever.
	Paused string
	// Until is when the pause ends by itself; zero: when somebody ends it.
	Until time.Time
	// Priority is the stream's share of a destination beside the others that
	// wait there, 1 (as 0) to MaxPriority.
	Priority int
}

// MaxPriority is the highest priority of a stream: so many times the share of
// one without.
const MaxPriority = 100

// SetStream puts a setting of a stream into force, whether it has mail or not;
// the zero setting ends it. It moves lanes, not messages. Streams past the
// limit of distinct ones are hashed together and cannot be told apart.
func (q *Queue) SetStream(stream string, s StreamSetting) error {
	if s.Priority < 0 || s.Priority > MaxPriority {
		return fmt.Errorf("priority %d is not between 1 and %d", s.Priority, MaxPriority)
	}
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	was := q.settings[stream]
	if s == (StreamSetting{}) {
		delete(q.settings, stream)
	} else {
		q.settings[stream] = s
	}
	if (was.Paused == "") == (s.Paused == "") {
		return nil
	}
	no, ok := q.streams.index[stream]
	if !ok {
		return nil
	}
	for _, l := range q.lanes {
		if l.key.stream != no {
			continue
		}
		q.detach(l)
		if dest := l.domain.dest; dest != nil {
			q.attach(l, dest)
			q.serve(l, now)
		}
	}
	return nil
}

// LiftPauses ends the pauses that end by themselves by now, and returns their
// streams.
func (q *Queue) LiftPauses(now time.Time) (lifted []string) {
	q.mu.Lock()
	for name, s := range q.settings {
		if s.Paused != "" && !s.Until.IsZero() && !now.Before(s.Until) {
			lifted = append(lifted, name)
		}
	}
	q.mu.Unlock()
	for _, name := range lifted {
		s := q.Setting(name)
		s.Paused, s.Until = "", time.Time{}
		_ = q.SetStream(name, s) // its priority was good before
	}
	return lifted
}

// Setting returns what is asked of a stream.
func (q *Queue) Setting(stream string) StreamSetting {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.settings[stream]
}

// Settings returns what is asked of every stream that has a setting.
func (q *Queue) Settings() map[string]StreamSetting {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.settings)
}

// paused reports whether a lane's stream is paused. The way home stays open:
// what was handed back is not the stream's any more.
func (q *Queue) paused(l *lane) bool {
	return len(q.settings) > 0 && l.key.domain != q.o.Relay && q.settings[q.streams.text(l.key.stream)].Paused != ""
}

// priority is a stream's share.
func (q *Queue) priority(stream uint32) int {
	if len(q.settings) == 0 {
		return 1
	}
	return max(1, q.settings[q.streams.text(stream)].Priority)
}

// Stream is the state of one stream, as listings show it.
type Stream struct {
	Name     string
	Waiting  int // recipients in lanes
	Deferred int
	Active   int
	StreamSetting
}

// Streams lists the streams with mail or with a setting, by name. It looks at
// every recipient, some thousand under the mutex at a time.
func (q *Queue) Streams() []Stream {
	all := make(map[string]*Stream)
	stream := func(name string) *Stream {
		s := all[name]
		if s == nil {
			s = &Stream{Name: name, StreamSetting: q.settings[name]}
			all[name] = s
		}
		return s
	}
	q.mu.Lock()
	for name := range q.settings {
		stream(name)
	}
	q.mu.Unlock()
	q.each(func(_ uint32, rec *recipient) {
		s := stream(q.streams.text(q.messages.at(rec.message).stream))
		switch rec.state {
		case inLane:
			s.Waiting++
		case inBucket:
			s.Deferred++
		case taken:
			s.Active++
		}
	}, func() bool { return true })
	list := make([]Stream, 0, len(all))
	for _, s := range all {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Stream) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
