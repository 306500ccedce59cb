package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// other is the label of all that have no series of their own.
const other = "other"

// ranked keeps counts by name, with a bounded number of names that have a
// series of their own: seats. Who comes first gets a free seat at once. When none is
// free, traffic decides, at most once a minute: somebody without a seat takes that of
// the least busy one, if he is twice as busy (recent traffic weighs more) and the
// other has had it for an hour. An hour is longer than any window in which
// counters are usually looked at.
type ranked[C any] struct {
	seats  int
	seated int
	names  map[string]*entry[C] // bounded by tracked
	rest   C                    // of all without a seat
	looked time.Time            // when seats were last given
	last   *entry[C]            // that at returned; mostly the next one's too
}

// entry is what is known of a name.
type entry[C any] struct {
	name   string
	label  string
	seat   bool
	since  time.Time // of the seat
	recent uint64    // events since the last look
	weight float64   // events, older ones for less
	own    *C        // while it has a seat; also what it had counted when it lost it
}

const (
	tracked  = 20             // names for each seat whose traffic is watched
	lookGap  = time.Minute    //
	fade     = 0.97           // what a look leaves of the weight: half in 23 minutes
	seatHold = time.Hour      // a seat is kept so long at least
	busier   = 2              // how much busier one must be to take it
	nothing  = 1.0 / (1 << 8) // a weight of somebody long gone
)

func newRanked[C any](seats int) ranked[C] {
	return ranked[C]{seats: seats, names: make(map[string]*entry[C])}
}

// at counts an event of a name and returns where its counts are.
func (r *ranked[C]) at(name string, now time.Time) *C {
	e := r.last
	if e == nil || e.name != name {
		e = r.names[name]
	}
	if e == nil {
		if name == other || len(r.names) >= tracked*r.seats {
			return &r.rest
		}
		name = strings.Clone(name) // it may be part of something larger
		e = &entry[C]{name: name, label: name}
		if !utf8.ValidString(name) {
			e.label = strconv.QuoteToASCII(name)
		}
		r.names[name] = e
		if r.seated < r.seats {
			r.sit(e, now)
		}
	}
	r.last = e
	e.recent++
	if e.seat {
		return e.own
	}
	return &r.rest
}

// label is that of a name: its own, or other.
func (r *ranked[C]) label(name string) string {
	if e := r.names[name]; e != nil && e.seat {
		return e.label
	}
	return other
}

// sit gives a free seat. One who had a seat before goes on from what he had
// counted then.
func (r *ranked[C]) sit(e *entry[C], now time.Time) {
	e.seat, e.since = true, now
	if e.own == nil {
		e.own = new(C)
	}
	r.seated++
}

// look gives the seats anew, if it is time.
func (r *ranked[C]) look(now time.Time) {
	if now.Sub(r.looked) < lookGap {
		return
	}
	r.looked, r.last = now, nil
	var sitting, standing []*entry[C]
	for name, e := range r.names {
		e.weight = e.weight*fade + float64(e.recent)
		e.recent = 0
		switch {
		case e.seat:
			sitting = append(sitting, e)
		case e.weight < nothing:
			delete(r.names, name)
		default:
			standing = append(standing, e)
		}
	}
	least := func(a, b *entry[C]) int { return cmp.Compare(a.weight, b.weight) }
	slices.SortFunc(sitting, least)
	slices.SortFunc(standing, least)
	for _, s := range sitting {
		if len(standing) == 0 {
			break
		}
		best := standing[len(standing)-1]
		if best.weight <= busier*s.weight {
			break // the others are busier still
		}
		if now.Sub(s.since) < seatHold {
			continue
		}
		s.seat = false
		r.seated--
		r.sit(best, now)
		standing = standing[:len(standing)-1]
	}
	for n := len(standing); n > 0 && r.seated < r.seats; n-- {
		r.sit(standing[n-1], now)
		standing = standing[:n-1]
	}
	// Make room for newcomers, who may be busy: the least busy half is not watched
	// any more.
	if len(r.names) >= tracked*r.seats {
		half := make(map[*entry[C]]bool)
		for _, e := range standing[:len(standing)/2] {
			half[e] = true
		}
		for name, e := range r.names {
			if half[e] {
				delete(r.names, name)
			}
		}
	}
}

// each calls yield for each series.
func (r *ranked[C]) each(yield func(label string, c *C)) {
	for _, e := range r.names {
		if e.seat {
			yield(e.label, e.own)
		}
	}
	yield(other, &r.rest)
}
