// Package history remembers the last hours of the agent's work, in memory and in
// bounded space, for the status page: time series, counts of bounces and deferrals
// by class, what became of each stream, and the last failures in full.
//
// The agent calls Delivery for each delivery attempt, which costs one short lock and
// a few additions, and Sample every Step with what the queue counts. Everybody else
// reads. Nothing survives a restart by itself; SetPast gives the series of the whole what
// package outcomes has counted before, for months.
//
// There is a series for the whole, for each of the maxQueues busiest queues and the
// maxSites busiest sites, and one for all other sites together. A series takes 60 kB
// once it is Span long, all of them 1.5 MB.
package history

import (
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
)

const (
	// Step is the time between two samples.
	Step = 10 * time.Second
	// Span is how far back the series reach.
	Span = 6 * time.Hour

	points     = int(Span / Step)
	maxQueues  = 8
	maxSites   = 15
	maxStreams = 1000
	maxRecent  = 100
	maxReason  = 500 // octets of a reply that are kept
)

// History is safe for use by several goroutines.
type History struct {
	mu      sync.Mutex
	began   time.Time
	sampled time.Time // the last time
	samples int       // ever
	at      []int64   // times of the samples, in nanoseconds; a ring like those of the series

	now     tally
	sites   map[string]*tally // those with attempts in the last steps
	streams map[string]*stream
	classes classes

	past   []Moment // of the whole, before what total has; oldest first
	total  series
	queues group
	places group // sites

	recent [maxRecent]Failure
	failed int // failures ever
}

// Failure is one delivery attempt that did not succeed. It holds addresses.
type Failure struct {
	Time              time.Time
	ID                spool.ID
	QueueID           string // of the host MTA
	Sender, Recipient string
	Stream, Site      string
	Relay             string
	Status            event.Status
	Class             outcome.Class
	Reason            string
	Due               time.Time // of the next attempt; zero: none
}

// New starts a history.
func New(now time.Time) *History {
	return &History{
		began: now, sampled: now,
		sites: make(map[string]*tally), streams: make(map[string]*stream),
		queues: newGroup(maxQueues), places: newGroup(maxSites),
	}
}

// Delivery takes an attempt to account.
func (h *History) Delivery(d *event.Delivery) {
	var f Failure
	failure := false
	switch d.Status {
	case event.Returned:
		return // it was no attempt
	case event.Deferred, event.Bounced, event.Stuck, event.Damaged:
		f, failure = failed(d), true
	}
	stream := ""
	if d.Envelope != nil {
		stream = d.Envelope.Stream
	}
	took := bucket(d.Transmit)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.count(d, took)
	if d.Site != "" {
		t := h.sites[d.Site]
		if t == nil {
			t = new(tally)
			h.sites[strings.Clone(d.Site)] = t
		}
		t.count(d, took)
	}
	if s := h.stream(stream, d.Time); s != nil {
		s.count(d)
	}
	if failure {
		h.classes.count(d)
		h.recent[h.failed%maxRecent] = f
		h.failed++
	}
}

// failed describes a failure in memory of its own.
func failed(d *event.Delivery) Failure {
	f := Failure{
		Time: d.Time, ID: d.ID, Site: strings.Clone(d.Site), Relay: strings.Clone(d.Relay),
		Status: d.Status, Class: d.Class, Reason: strings.Clone(d.Reason[:min(len(d.Reason), maxReason)]), Due: d.Due,
	}
	if e := d.Envelope; e != nil {
		f.QueueID, f.Sender, f.Stream = strings.Clone(e.QueueID), strings.Clone(e.Sender), strings.Clone(e.Stream)
		f.Recipient = strings.Clone(d.Recipient())
	}
	return f
}

// Recent returns the last failures, newest first.
func (h *History) Recent() []Failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Failure
	for i := h.failed - 1; i >= max(0, h.failed-maxRecent); i-- {
		list = append(list, h.recent[i%maxRecent])
	}
	return list
}

// Sample is what the queue counts at a moment.
type Sample struct {
	Time     time.Time
	Waiting  int // recipients ready to go
	Deferred int // recipients that wait for a later attempt
	Sessions int // established
	Sites    []Site
}

// Site is a site in a Sample.
type Site struct {
	Name, Queue       string
	Waiting, Sessions int
}

// Sample ends a step.
func (h *History) Sample(s Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	took := s.Time.Sub(h.sampled)
	if took <= 0 {
		return
	}
	if h.samples < points {
		h.at = append(h.at, 0)
	}
	h.at[h.samples%points] = s.Time.UnixNano()

	p := h.now.point(took)
	p.Waiting, p.Deferred, p.Sessions = float32(s.Waiting), float32(s.Deferred), float32(s.Sessions)
	h.total.add(h.samples, p)
	queues, sites := make(map[string]Point), make(map[string]Point, len(s.Sites))
	for _, x := range s.Sites {
		var p Point
		if t := h.sites[x.Name]; t != nil {
			p = t.point(took)
		}
		p.Waiting, p.Sessions = float32(x.Waiting), float32(x.Sessions)
		sites[x.Name] = p
		queues[x.Queue] = queues[x.Queue].plus(p)
	}
	h.queues.add(h.samples, queues)
	h.places.add(h.samples, sites)

	h.now.step(took)
	for name, t := range h.sites {
		if t.step(took); t.idle() {
			delete(h.sites, name)
		}
	}
	h.stepStreams(took)
	h.samples++
	h.sampled = s.Time
	h.classes.step(h.samples)
}
