package history

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Point is one step of a series.
type Point struct {
	Sent, Deferrals, Bounces float32 // attempts a second that ended so
	Sessions                 float32 // at the end of the step
	Waiting                  float32 // recipients ready to go, at the end of the step
	Deferred                 float32 // recipients that wait for a later attempt; the series of the whole only
	Median, Slow             float32 // seconds from MAIL to the reply to the content: median and 95th percentile; 0: nothing sent
}

// plus puts two places together. Times are those of the busier one.
func (p Point) plus(o Point) Point {
	times := p
	if o.Sent > p.Sent {
		times = o
	}
	return Point{
		Sent: p.Sent + o.Sent, Deferrals: p.Deferrals + o.Deferrals, Bounces: p.Bounces + o.Bounces,
		Sessions: p.Sessions + o.Sessions, Waiting: p.Waiting + o.Waiting, Deferred: p.Deferred + o.Deferred,
		Median: times.Median, Slow: times.Slow,
	}
}

// load says how busy a place is.
func (p Point) load() float32 { return p.Sent*float32(Step/time.Second) + p.Waiting + p.Sessions }

// Moment is a Point and its time.
type Moment struct {
	At time.Time
	Point
}

// Series is a place's last hours, oldest first.
type Series struct {
	Name    string
	Moments []Moment
}

// Last is the newest point, zero if there is none.
func (s Series) Last() (p Point) {
	if n := len(s.Moments); n > 0 {
		p = s.Moments[n-1].Point
	}
	return p
}

// series is a ring of points that grows until it is full.
type series struct {
	first int // the sample it begins with
	ring  []Point
}

func (s *series) add(sample int, p Point) {
	if len(s.ring) == 0 {
		s.first = sample
	}
	if len(s.ring) < points {
		s.ring = append(s.ring, p)
		return
	}
	s.ring[(sample-s.first)%points] = p
}

// read returns a series from a time on. The caller holds h.mu.
func (h *History) read(name string, s *series, from time.Time) Series {
	out := Series{Name: name}
	first := max(s.first, h.samples-points)
	since := from.UnixNano()
	for i := first; i < h.samples && len(s.ring) > 0; i++ {
		if at := h.at[i%points]; at >= since {
			out.Moments = append(out.Moments, Moment{time.Unix(0, at), s.ring[(i-s.first)%points]})
		}
	}
	return out
}

// group are the series of the busiest places of a kind, and one for the rest.
type group struct {
	most   int
	series map[string]*tracked
	other  series
}

// tracked is a place that has a series.
type tracked struct {
	series
	weight float32 // its load, fading
}

// fade is what a step leaves of a weight: half of it in ten minutes.
const fade = 0.9885

func newGroup(most int) group { return group{most: most, series: make(map[string]*tracked)} }

// add takes a step of all places. One without a series gets that of the least
// busy place only when it is twice as busy, or two places would take turns and
// neither have a series worth looking at.
func (g *group) add(sample int, places map[string]Point) {
	var without []string
	for name := range places {
		if g.series[name] == nil {
			without = append(without, name)
		}
	}
	slices.SortFunc(without, func(a, b string) int {
		return cmp.Or(cmp.Compare(places[b].load(), places[a].load()), cmp.Compare(a, b))
	})
	for _, name := range without {
		if len(g.series) >= g.most {
			least := g.least()
			if places[name].load() <= 2*g.series[least].weight {
				break
			}
			delete(g.series, least)
		}
		g.series[name] = &tracked{weight: places[name].load()}
	}
	var other Point
	for name, p := range places {
		if t := g.series[name]; t == nil {
			other = other.plus(p)
		}
	}
	for name, t := range g.series {
		p := places[name]
		t.add(sample, p)
		t.weight = max(t.weight*fade, p.load())
	}
	g.other.add(sample, other)
}

func (g *group) least() (name string) {
	for n, t := range g.series {
		if name == "" || t.weight < g.series[name].weight {
			name = n
		}
	}
	return name
}

// Total is the series of the whole, from a time on. What comes of SetPast has the rates of
// attempts only; the rest of it is NaN.
func (h *History) Total(from time.Time) Series {
	h.mu.Lock()
	defer h.mu.Unlock()
	own := h.read("", &h.total, from)
	oldest := h.sampled
	if h.samples > 0 {
		oldest = time.Unix(0, h.at[max(h.total.first, h.samples-points)%points])
	}
	var past []Moment
	for _, m := range h.past {
		if !m.At.Before(from) && m.At.Before(oldest) {
			past = append(past, m)
		}
	}
	own.Moments = append(past, own.Moments...)
	return own
}

// Count is how many attempts ended in which way in the time of Width from Start on.
type Count struct {
	Start                    time.Time
	Width                    time.Duration
	Sent, Deferrals, Bounces int64
}

// SetPast replaces what is known of the time before our own samples, oldest first. Of the
// last Span it is drawn step by step, as if it had been sampled.
func (h *History) SetPast(counts []Count, now time.Time) {
	var past []Moment
	unknown := float32(math.NaN())
	for _, c := range counts {
		s := float32(c.Width.Seconds())
		p := Point{
			Sent: float32(c.Sent) / s, Deferrals: float32(c.Deferrals) / s, Bounces: float32(c.Bounces) / s,
			Sessions: unknown, Waiting: unknown, Deferred: unknown, Median: unknown, Slow: unknown,
		}
		end := c.Start.Add(c.Width)
		if now.Sub(c.Start) > Span {
			past = append(past, Moment{c.Start.Add(c.Width / 2), p})
			continue
		}
		for at := c.Start.Add(Step); !at.After(end); at = at.Add(Step) {
			past = append(past, Moment{at, p})
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.past = past
}

// Reach is how far back the series of the whole goes.
func (h *History) Reach(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.past) == 0 {
		return min(now.Sub(h.began), Span)
	}
	return max(now.Sub(h.past[0].At), min(now.Sub(h.began), Span))
}

// Queues are the series of the busiest queues, the busiest first.
func (h *History) Queues(from time.Time) []Series {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := make([]string, 0, len(h.queues.series))
	for name := range h.queues.series {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(h.queues.series[b].weight, h.queues.series[a].weight), cmp.Compare(a, b))
	})
	var list []Series
	for _, name := range names {
		list = append(list, h.read(name, &h.queues.series[name].series, from))
	}
	return list
}

// Site is the series of one site; false if it has none of its own.
func (h *History) Site(name string, from time.Time) (Series, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.places.series[name]
	if t == nil {
		return Series{}, false
	}
	return h.read(name, &t.series, from), true
}
