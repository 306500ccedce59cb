package settings

import (
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/quotas"
)

// Quotas are all quotas of a configuration by the keys of their counts.
func Quotas(c *config.Config) map[quotas.Key]quotas.Quota {
	all := make(map[quotas.Key]quotas.Quota)
	for i := range c.Streams {
		st := &c.Streams[i]
		add := func(provider string, list []config.Quota) {
			for _, q := range list {
				all[quotas.Key{Stream: st.Name, Provider: provider, Day: q.Day}] = quotas.Quota{Limit: q.N, Zone: st.Location}
			}
		}
		add("", st.Quotas)
		for j := range c.Queues {
			add(c.Queues[j].Name, st.ProviderQuotas)
		}
	}
	return all
}

// StreamLimits are the [[stream]]s of a configuration in the queue's terms. The book has its
// quotas in force.
func StreamLimits(c *config.Config, book *quotas.Book) (list []queue.StreamLimits) {
	for i := range c.Streams {
		st := &c.Streams[i]
		counters := func(provider string, quotaList []config.Quota) (found []*quotas.Counter) {
			for _, q := range quotaList {
				if n := book.Counter(quotas.Key{Stream: st.Name, Provider: provider, Day: q.Day}); n != nil {
					found = append(found, n)
				}
			}
			return found
		}
		x := queue.StreamLimits{
			Name: st.Name, Fits: func(stream string) bool { return config.MatchesAny(st.Streams, stream) },
			Priority: int(st.Priority), Rate: float64(st.MaxMessageRate), Shared: c.Fleet.On() && st.Shared, Window: st.Open,
			Expire: st.Expire, ExpireAlways: st.ExpireAlways,
			Quotas: counters("", st.Quotas),
		}
		if len(st.ProviderQuotas) > 0 {
			x.ByQueue = make(map[string][]*quotas.Counter)
			for j := range c.Queues {
				name := c.Queues[j].Name
				x.ByQueue[name] = counters(name, st.ProviderQuotas)
			}
		}
		list = append(list, x)
	}
	return list
}

// PolicyOf is what a queue says about retries of a stream's mail, whose expire counts before the
// queue's.
func (s *Settings) PolicyOf(q *config.Queue, stream string) outcome.Policy {
	p := s.RetryPolicy(q)
	if st := s.StreamOf(stream); st != nil && st.Expire > 0 {
		p.Expire = st.Expire
	}
	return p
}

// BornOf is when a stream's mail was born as far as its age goes: the time outside of the
// stream's window does not count, unless the configuration says so.
func (s *Settings) BornOf(stream string, born, now time.Time) time.Time {
	st := s.StreamOf(stream)
	if st == nil || st.ExpireAlways || st.Open.Zero() || born.IsZero() {
		return born
	}
	return now.Add(-st.Open.Within(born, now))
}
