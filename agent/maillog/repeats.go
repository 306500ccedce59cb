package maillog

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"
)

// Repeats is a handler that lets only so many identical warnings and errors through
// within a minute. The next one that passes says how many were left out, as
// suppressed=K. Records below a warning, what Line made, and what is exempt always
// pass.
type Repeats struct {
	*repeats
	inner slog.Handler
	with  uint64 // hash of attributes and groups added so far
}

// repeats is shared by a handler and those made of it.
type repeats struct {
	limit  int
	exempt func(message string) bool
	seed   maphash.Seed

	mu   sync.Mutex
	seen map[uint64]*repeat // bounded by maxRepeats
}

// repeat counts one record within a minute.
type repeat struct {
	since      time.Time
	passed     int
	suppressed int
}

// maxRepeats bounds what is remembered: many different warnings are no repeats.
const maxRepeats = 1000

var _ slog.Handler = (*Repeats)(nil)

// NewRepeats returns a handler over another. limit is at least 1. exempt names messages that
// always pass; nil: none.
func NewRepeats(inner slog.Handler, limit int, exempt func(message string) bool) *Repeats {
	if exempt == nil {
		exempt = func(string) bool { return false }
	}
	return &Repeats{&repeats{limit: limit, exempt: exempt, seed: maphash.MakeSeed(), seen: make(map[uint64]*repeat)}, inner, 0}
}

// Enabled implements slog.Handler.
func (h *Repeats) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *Repeats) Handle(ctx context.Context, r slog.Record) error {
	if _, line := program(&r); line || r.Level < slog.LevelWarn || h.exempt(r.Message) {
		return h.inner.Handle(ctx, r)
	}
	suppressed, ok := h.pass(h.key(&r), r.Time)
	if !ok {
		return nil
	}
	if suppressed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return h.inner.Handle(ctx, r)
}

// pass counts a record, and says whether it may pass and how many like it did not
// since the last that passed.
func (h *repeats) pass(key uint64, now time.Time) (suppressed int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x := h.seen[key]
	if x == nil {
		if len(h.seen) >= maxRepeats {
			for k, v := range h.seen {
				if now.Sub(v.since) >= time.Minute {
					delete(h.seen, k)
				}
			}
		}
		if len(h.seen) >= maxRepeats {
			return 0, true
		}
		x = &repeat{since: now}
		h.seen[key] = x
	}
	if now.Sub(x.since) >= time.Minute {
		x.since, x.passed = now, 0
	}
	if x.passed >= h.limit {
		x.suppressed++
		return 0, false
	}
	x.passed++
	suppressed, x.suppressed = x.suppressed, 0
	return suppressed, true
}

// key tells records apart.
func (h *Repeats) key(r *slog.Record) uint64 {
	var m maphash.Hash
	m.SetSeed(h.seed)
	maphash.WriteComparable(&m, h.with)
	m.WriteString(r.Level.String())
	m.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		write(&m, a)
		return true
	})
	return m.Sum64()
}

func write(m *maphash.Hash, a slog.Attr) {
	m.WriteByte(0)
	m.WriteString(a.Key)
	m.WriteByte('=')
	m.WriteString(a.Value.Resolve().String())
}

// WithAttrs implements slog.Handler.
func (h *Repeats) WithAttrs(attrs []slog.Attr) slog.Handler {
	var m maphash.Hash
	m.SetSeed(h.seed)
	maphash.WriteComparable(&m, h.with)
	for _, a := range attrs {
		write(&m, a)
	}
	return &Repeats{h.repeats, h.inner.WithAttrs(attrs), m.Sum64()}
}

// WithGroup implements slog.Handler.
func (h *Repeats) WithGroup(name string) slog.Handler {
	var m maphash.Hash
	m.SetSeed(h.seed)
	maphash.WriteComparable(&m, h.with)
	m.WriteString(name)
	return &Repeats{h.repeats, h.inner.WithGroup(name), m.Sum64()}
}
