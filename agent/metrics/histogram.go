package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds of the buckets, in seconds: from a warm connection nearby to the days
// that deferred mail waits.
var bounds = [...]float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}

// histogram counts times.
type histogram struct {
	buckets [len(bounds)]uint64 // not cumulative
	count   uint64
	sum     float64 // seconds
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	h.count++
	h.sum += s
	for i := range bounds {
		if s <= bounds[i] {
			h.buckets[i]++
			return
		}
	}
}

func (h *histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	upto := make(map[float64]uint64, len(bounds))
	n := uint64(0)
	for i, b := range h.buckets {
		n += b
		upto[bounds[i]] = n
	}
	return prometheus.MustNewConstHistogram(desc, h.count, h.sum, upto, labels...)
}
