package spool

import (
	"log/slog"
	"maps"
	"slices"
)

// Damage is something in the spool that cannot be read. Nothing of its segment
// is reclaimed: the file stays for the admin, beside those that are in use.
type Damage struct {
	Segment    uint32
	Offset     int64  // in the segment; 0 is all of it
	ID         ID     // of the message, if it can be named; else 0
	Recipients uint32 // of that message
	Recorded   bool   // a recipient of it has the outcome Damaged
	Reason     string
}

// maxDamages bounds what Damaged returns: a disk that fails may damage all.
const maxDamages = 1000

// Damaged returns what was found unreadable so far, at most the first 1,000. A
// message that is in it and has no outcome is not yielded, as its envelope
// cannot be read; the caller records the outcome Damaged for its recipients.
// Damage of contents is not in it before that outcome is recorded: who reads
// them is told. It stays, over restarts, until somebody removes or repairs the
// segment while no agent runs.
func (s *Store) Damaged() []Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Damage(nil), s.damages...)
}

// Unreadable returns the segments of which a part could not be read, the last
// time, because the disk refused it. They are tried again every few seconds.
func (s *Store) Unreadable() (list []Damage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(s.segments)) {
		if seg := s.segments[n]; seg.trouble != nil {
			list = append(list, Damage{Segment: n, Offset: seg.scanned, Reason: seg.trouble.Error()})
		}
	}
	return list
}

// damage notes something unreadable and keeps the segment.
func (s *Store) damage(seg *segment, d Damage) {
	d.Segment = seg.number
	s.mu.Lock()
	seg.damaged = true
	seg.punch = nil
	if len(s.damages) < maxDamages {
		s.damages = append(s.damages, d)
	}
	s.mu.Unlock()
	attrs := []any{slog.String("segment", segmentName(d.Segment)), slog.Int64("offset", d.Offset), slog.String("error", d.Reason)}
	if d.ID != 0 {
		attrs = append(attrs, slog.String("id", d.ID.String()), slog.Any("nrcpt", d.Recipients))
	}
	s.log.Error("spool: damaged", attrs...)
}

// recorded notes in what Damaged returns that a recipient got that outcome.
// Callers hold mu.
func (s *Store) recorded(c *change) {
	for i := range s.damages {
		if s.damages[i].ID == c.id {
			s.damages[i].Recorded = true
			return
		}
	}
	if len(s.damages) < maxDamages {
		s.damages = append(s.damages, Damage{
			Segment: c.seg.number, Offset: int64(c.id.Offset()), ID: c.id,
			Recipients: c.seg.recipients(c.i), Recorded: true, Reason: c.state.reply,
		})
	}
}
