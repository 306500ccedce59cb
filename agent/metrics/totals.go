package metrics

import (
	"cmp"
	"slices"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
)

// of is the count of a status that is listed.
func (c *statusCounts) of(s event.Status) int { return int(c[slices.Index(statuses[:], s)]) }

// Totals are the counts by queue, and those by class of all queues. Queues that have no
// series of their own are counted as "other".
func (m *Metrics) Totals() control.Totals {
	t := control.Totals{Since: m.began, Bounces: make(map[string]int), Deferrals: make(map[string]int)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queues.each(func(name string, c *queueCounts) {
		if c.status == (statusCounts{}) {
			return // of the others, most often
		}
		t.Queues = append(t.Queues, control.QueueTotals{
			Name: name, Sent: c.status.of(event.Sent), Deferred: c.status.of(event.Deferred), Bounced: c.status.of(event.Bounced),
			HandedBack: c.status.of(event.HandedBack), Cancelled: c.status.of(event.Cancelled),
			Suppressed: c.status.of(event.Suppressed), Damaged: c.status.of(event.Damaged), Moved: c.status.of(event.Moved),
		})
		c.bounced.sum(t.Bounces)
		c.deferred.sum(t.Deferrals)
	})
	slices.SortFunc(t.Queues, func(a, b control.QueueTotals) int { return cmp.Compare(a.Name, b.Name) })
	return t
}

// sum adds what was counted to counts by the name of the class.
func (c *classCounts) sum(counts map[string]int) {
	for class, n := range c {
		if n > 0 {
			counts[outcome.Class(class).String()] += int(n)
		}
	}
}
