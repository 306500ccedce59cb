package lease

import "math"

// Kind is what a limit bounds.
type Kind int

const (
	Sessions Kind = iota // at one time
	Rate                 // a second
	Count                // on a day
)

// Demand is what this node could use of a limit.
type Demand struct {
	Key   string
	Kind  Kind
	Day   string // of a Count
	Limit float64
	Want  float64 // what is in use and what could be besides; not for a Count
	Used  int64   // of a Count: all that this node has counted on that day, what is under way included; of Sessions: those up or opening but idle ones, beyond what may be used too
}

type subject struct {
	kind     Kind
	key, day string
}

func (l subject) field() string {
	switch l.kind {
	case Sessions:
		return "s:" + l.key
	case Rate:
		return "r:" + l.key
	}
	return "c:" + l.day + ":" + l.key
}

func thousandths(x float64) int64 { return int64(min(math.Floor(x*1000), 1e14)) }

// whole are limit and demand in the store's units.
func (d *Demand) whole() (limit, want int64) {
	switch d.Kind {
	case Rate:
		return thousandths(d.Limit), thousandths(d.Want)
	case Count:
		return int64(d.Limit), d.Used
	}
	return int64(d.Limit), int64(d.Want)
}
