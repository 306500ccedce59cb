package history

import (
	"math"
	"math/bits"
	"time"

	"github.com/millrace/millrace/agent/event"
)

// window is how many steps, beside the one under way, give a rate: so many that
// it stands still, so few that it is of now.
const window = 3

// meter counts in the step under way and in those of the window.
type meter struct {
	now  uint32
	past [window]struct {
		n    uint32
		took time.Duration
	}
}

func (m *meter) step(took time.Duration) {
	copy(m.past[1:], m.past[:])
	m.past[0].n, m.past[0].took = m.now, took
	m.now = 0
}

// rate is events a second; elapsed is the age of the step under way.
func (m *meter) rate(elapsed time.Duration) float64 {
	n, over := float64(m.now), elapsed
	for _, p := range m.past {
		n += float64(p.n)
		over += p.took
	}
	// A moment after the start one event is no rate of thousands.
	return n / max(over, time.Second).Seconds()
}

func (m *meter) idle() bool {
	n := m.now
	for _, p := range m.past {
		n += p.n
	}
	return n == 0
}

// tally counts the attempts of a step.
type tally struct {
	sent              meter
	deferred, bounced uint32
	took              [buckets]uint32
}

// The buckets of times from MAIL to the reply to the content: four for each power of two,
// from one millisecond to a quarter of an hour. Bits are counted for them, not
// logarithms taken, since this is done for each delivery.
const (
	buckets = 80
	finest  = 1 << 20 // nanoseconds, about a millisecond
)

func bucket(d time.Duration) int {
	if d < finest {
		return 0
	}
	quarters := uint64(d) / (finest / 4) // 4 and more
	power := bits.Len64(quarters) - 3
	return min(4*power+int(quarters>>power)&3, buckets-1)
}

// middle is the time in the middle of a bucket, in seconds.
func middle(bucket int) float64 {
	return math.Ldexp(1+(float64(bucket%4)+0.5)/4, bucket/4) * finest / 1e9
}

// count takes an attempt in; took is the bucket of its time.
func (t *tally) count(d *event.Delivery, took int) {
	switch d.Status {
	case event.Sent, event.HandedBack:
		t.sent.now++
		t.took[took]++
	case event.Deferred:
		t.deferred++
	case event.Bounced:
		t.bounced++
	}
}

// point is the step that ends, as a point of a series.
func (t *tally) point(took time.Duration) Point {
	s := float32(took.Seconds())
	return Point{
		Sent: float32(t.sent.now) / s, Deferrals: float32(t.deferred) / s, Bounces: float32(t.bounced) / s,
		Median: t.quantile(0.5), Slow: t.quantile(0.95),
	}
}

// quantile is in seconds, within a tenth of the truth; 0 if nothing was sent.
func (t *tally) quantile(q float64) float32 {
	var n, seen float64
	for _, c := range t.took {
		n += float64(c)
	}
	if n == 0 {
		return 0
	}
	for i, c := range t.took {
		if seen += float64(c); seen >= q*n {
			return float32(middle(i))
		}
	}
	return 0 // not reached: the sum reaches n
}

func (t *tally) step(took time.Duration) {
	t.sent.step(took)
	t.deferred, t.bounced = 0, 0
	clear(t.took[:])
}

func (t *tally) idle() bool { return t.sent.idle() }

// Rate is the deliveries a second of late, over all.
func (h *History) Rate(now time.Time) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now.sent.rate(now.Sub(h.sampled))
}

// SiteRates are the deliveries a second of late of all sites that have any.
func (h *History) SiteRates(now time.Time) map[string]float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	rates := make(map[string]float64, len(h.sites))
	for name, t := range h.sites {
		rates[name] = t.sent.rate(now.Sub(h.sampled))
	}
	return rates
}
