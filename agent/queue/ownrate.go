package queue

import (
	"slices"
	"time"
)

// A receiver may refuse one stream's messages with the words that others use for a rate, for
// ever. The pace of the site must not fall for the other streams.

// streamRates are the streams of a site that were accepted lately, and those that were
// refused for their rate since.
type streamRates struct {
	accepted []streamTime // few: most sites have one
	refused  map[uint32]streamRow
	slowedBy uint32 // the stream whose refusals lowered the pace, if it was one alone
	slowed   slowed
}

// streamTime is when something last happened to a stream.
type streamTime struct {
	stream uint32
	at     time.Time
}

// streams are what is known of the site's streams.
func (s *site) streams() *streamRates {
	if s.rates == nil {
		s.rates = new(streamRates)
	}
	return s.rates
}

// past says whether nothing of it counts any more.
func (r *streamRates) past(now time.Time) bool {
	return len(r.refused) == 0 && r.slowed == notSlowed &&
		!slices.ContainsFunc(r.accepted, func(x streamTime) bool { return now.Sub(x.at) < rateNear })
}

// acceptedAt is when a stream was last accepted; zero: not lately.
func (r *streamRates) acceptedAt(stream uint32) time.Time {
	for i := range r.accepted {
		if r.accepted[i].stream == stream {
			return r.accepted[i].at
		}
	}
	return time.Time{}
}

// accept notes that a stream was accepted.
func (r *streamRates) accept(stream uint32, now time.Time) {
	for i := range r.accepted {
		if r.accepted[i].stream == stream {
			r.accepted[i].at = now
			return
		}
	}
	if len(r.accepted) >= maxRateStream {
		r.accepted = r.accepted[:0]
	}
	r.accepted = append(r.accepted, streamTime{stream, now})
}

// slowed is who lowered the pace.
type slowed uint8

const (
	notSlowed slowed = iota
	byOne
	bySeveral
)

// told notes that a refusal of a stream lowers the pace.
func (r *streamRates) told(stream uint32) {
	switch {
	case r.slowed == notSlowed:
		r.slowed, r.slowedBy = byOne, stream
	case r.slowedBy != stream:
		r.slowed = bySeveral
	}
}

// streamRow is a row of refusals of a stream with none accepted.
type streamRow struct{ since, last time.Time }

const (
	// rateNear is how long before a stream's first refusal another's acceptance counts, if it
	// was not accepted itself.
	rateNear      = time.Minute
	maxRateStream = 64
)

// took notes that a message of a stream was accepted, and says whether the pace was lowered
// for nothing: by another stream alone, which is refused still.
func (r *streamRates) took(stream uint32, now time.Time) (forNothing bool) {
	if r.slowed == byOne && r.slowedBy != stream {
		_, forNothing = r.refused[r.slowedBy]
	}
	if forNothing || r.slowedBy == stream {
		r.slowed = notSlowed
	}
	r.accept(stream, now)
	delete(r.refused, stream)
	return forNothing
}

// ownAffair notes that a message of a stream was refused for its rate, and says whether it
// is the stream's affair: no other is refused, and others were accepted since, or just before
// if this one was not.
func (r *streamRates) ownAffair(stream uint32, now time.Time) bool {
	row, known := r.refused[stream]
	if !known || now.Sub(row.last) > bringFor {
		row.since = now
		if now.Sub(r.acceptedAt(stream)) >= rateNear {
			row.since = now.Add(-rateNear)
		}
	}
	row.last = now
	if r.refused == nil || len(r.refused) >= maxRateStream {
		r.refused = make(map[uint32]streamRow)
	}
	r.refused[stream] = row
	for other, x := range r.refused {
		if other != stream && now.Sub(x.last) < rateNear {
			return false
		}
	}
	return slices.ContainsFunc(r.accepted, func(x streamTime) bool { return x.stream != stream && x.at.After(row.since) })
}
