// Package metrics tells Prometheus what the agent does.
//
// There are two kinds of numbers. What happens is counted when it happens: Delivery
// and Connect add to counters of our own under one mutex, which costs some tens of
// nanoseconds and no memory. What is (backlog, sessions, room) is asked for when
// somebody scrapes: New takes a function for that. Handler serves both, with those of
// the Go runtime and the process.
//
// # Labels are bounded
//
// A host has thousands of sites and, over time, any number of streams, and each value
// of a label costs the monitoring forever. So queues, sites and streams are
// ranked (ranked.go): the busiest have a series of their own, all others share the
// one called "other". No counter ever goes backwards by that: what was counted stays
// where it was counted. When something gets a series of its own it begins at 0, and
// its past remains in "other"; when it loses it, the series ends, and what
// happens from then on is added to "other". A sum over all series thus grows with
// each event by one, and rate() is right for each; only what a series held at its end
// is missing from the sum's absolute value.
package metrics

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/outcome"
)

// How many queues, sites and streams have series of their own. With every place
// taken an exposition is about 1 MB.
const (
	maxQueues  = 100
	maxSites   = 100
	maxStreams = 50
)

// Metrics counts. Its methods may be called by many goroutines.
type Metrics struct {
	registry *prometheus.Registry
	state    func() State
	began    time.Time
	journal  atomic.Uint64 // errors

	mu      sync.Mutex
	queues  ranked[queueCounts]
	sites   ranked[siteCounts]
	streams ranked[streamCounts]
	stages  [stages]histogram // of what was sent
}

// The parts of a delivery's delay.
const (
	stageQueue = iota
	stageConnect
	stageTransmit
	stages
)

var stageNames = [stages]string{"queue", "connect", "transmit"}

// queueCounts are those of a domain queue.
type queueCounts struct {
	status   statusCounts
	bounced  classCounts
	deferred classCounts
	connects [len(connectResults)]uint64
	octets   uint64    // of what was sent
	delay    histogram // of what was sent
}

// siteCounts are those of a site.
type siteCounts struct {
	status   statusCounts
	refusals uint64 // connects and transactions that were one too many, or too fast
}

// streamCounts are those of a stream.
type streamCounts struct {
	status  statusCounts
	bounced classCounts
}

// statuses have a series each; others are counted together.
var statuses = [...]event.Status{
	event.Sent, event.Deferred, event.Bounced, event.HandedBack, event.Returned, event.Returning, event.Stuck,
	event.Cancelled, event.Suppressed, event.Damaged, event.LateBounce, event.Complaint, event.Feedback, event.Moved,
}

// statusCounts are counts by status; the last one is of statuses that are not listed.
type statusCounts [len(statuses) + 1]uint64

func (c *statusCounts) add(s event.Status) {
	for i := range statuses {
		if statuses[i] == s {
			c[i]++
			return
		}
	}
	c[len(statuses)]++
}

// statusLabel is the i-th status as a label's value.
func statusLabel(i int) string {
	if i == len(statuses) {
		return other
	}
	return strings.ReplaceAll(string(statuses[i]), " ", "_")
}

// classCounts are counts by outcome.Class.
type classCounts [outcome.Classes]uint64

func (c *classCounts) add(class outcome.Class) {
	if class >= outcome.Classes {
		class = outcome.ClassUndefined
	}
	c[class]++
}

// connectResults are how a connect ends.
var connectResults = [...]string{"up", "refused", "failed"}

// New returns metrics. state is called once for each scrape, by several at the same
// time if there are; what it takes, the scrape takes.
func New(version string, state func() State) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(), state: state, began: time.Now(),
		queues: newRanked[queueCounts](maxQueues), sites: newRanked[siteCounts](maxSites), streams: newRanked[streamCounts](maxStreams),
	}
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "millrace_build_info", Help: "Version of the agent; always 1.", ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
	m.registry.MustRegister(m, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the exposition. Trouble with a part of it goes to the log, and
// the rest is served.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
	})
}

// Delivery counts a delivery attempt.
func (m *Metrics) Delivery(d *event.Delivery) {
	if d.Uncounted != "" && d.Status != event.Feedback {
		return // anybody who has seen a message could raise it; reports_total has it
	}
	stream := ""
	if d.Envelope != nil {
		stream = d.Envelope.Stream
	}
	stream = maillog.WithoutLocalParts(stream) // who scrapes may be anybody
	total, queued, connect, transmit := d.Delay()
	m.mu.Lock()
	defer m.mu.Unlock()
	q, st := m.queues.at(d.Queue, d.Time), m.streams.at(stream, d.Time)
	q.status.add(d.Status)
	st.status.add(d.Status)
	switch d.Status {
	case event.Sent:
		q.delay.observe(total)
		m.stages[stageQueue].observe(queued)
		if connect > 0 {
			m.stages[stageConnect].observe(connect)
		}
		m.stages[stageTransmit].observe(transmit)
		if d.Envelope != nil {
			q.octets += uint64(d.Envelope.Size)
		}
	case event.Deferred:
		q.deferred.add(d.Class)
	case event.Bounced:
		q.bounced.add(d.Class)
		st.bounced.add(d.Class)
	}
	if d.Site != "" {
		s := m.sites.at(d.Site, d.Time)
		s.status.add(d.Status)
		if d.Code != 0 && (d.Class == outcome.ClassRateLimited || d.Class == outcome.ClassConnections) {
			s.refusals++
		}
	}
}

// Connect counts a connect to a host of a site, by what it tells the controller.
func (m *Metrics) Connect(queue, site string, now time.Time, kind elastic.Kind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues.at(queue, now)
	switch kind {
	case elastic.Up:
		q.connects[0]++
	case elastic.Refused, elastic.RateRefused:
		q.connects[1]++
		m.sites.at(site, now).refusals++
	default:
		q.connects[2]++
	}
}

// JournalError counts an outcome that could not be written.
func (m *Metrics) JournalError() { m.journal.Add(1) }
