package sink

import (
	"maps"
	"slices"
	"time"
)

// Stats is how all hosts fared since the start.
type Stats struct {
	Start   time.Time   `json:"start"`
	Lookups int64       `json:"lookups"` // DNS questions
	Hosts   []HostStats `json:"hosts"`   // in the order they were added
}

// HostStats is how one host fared.
type HostStats struct {
	Provider string `json:"provider"`
	Host     string `json:"host"`
	Addr     string `json:"addr"`

	Open        int             `json:"open"`        // connections now, those turned away not counted
	Peak        int             `json:"peak"`        // most of them at a time
	Connections int64           `json:"connections"` // admitted in all
	Refused     map[Cause]int64 `json:"refused"`     // connections, messages and recipients refused, by cause

	Messages   int64    `json:"messages"` // accepted
	Recipients int64    `json:"recipients"`
	Bytes      int64    `json:"bytes"`      // of accepted content
	Replies    [6]int64 `json:"replies"`    // by first digit of the code
	PerSecond  []uint32 `json:"per_second"` // messages accepted in each second since the start; later seconds: none
}

// RefusedConnections is the number of connections turned away.
func (h *HostStats) RefusedConnections() int64 {
	return h.Refused[CauseConnections] + h.Refused[CauseBan]
}

// Stats gives the present state.
func (n *Internet) Stats() Stats {
	st := Stats{Start: n.start, Lookups: n.lookups.Load()}
	n.mu.RLock()
	providers := slices.Clone(n.providers)
	n.mu.RUnlock()
	for _, v := range providers {
		for _, h := range v.hosts {
			st.Hosts = append(st.Hosts, h.stats())
		}
	}
	return st
}

func (h *host) stats() HostStats {
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	st := HostStats{
		Provider: h.provider.name, Host: h.name, Addr: h.addr.String(),
		Open: h.slots.open, Peak: h.slots.peak, Connections: h.admitted, Refused: maps.Clone(h.refused),
		Messages: h.messages, Recipients: h.recipients, Bytes: h.octets, PerSecond: slices.Clone(h.acceptances),
	}
	for i := range h.replies {
		st.Replies[i] = h.replies[i].Load()
	}
	return st
}

// Host gives the statistics of the host of that name.
func (s *Stats) Host(name string) (HostStats, bool) {
	for _, h := range s.Hosts {
		if h.Host == name {
			return h, true
		}
	}
	return HostStats{}, false
}

// Provider sums the statistics of a provider's hosts; Peak is the sum of their
// peaks, and the host's name and address are empty.
func (s *Stats) Provider(name string) HostStats {
	sum := HostStats{Provider: name, Refused: make(map[Cause]int64)}
	for _, h := range s.Hosts {
		if h.Provider != name {
			continue
		}
		sum.Open += h.Open
		sum.Peak += h.Peak
		sum.Connections += h.Connections
		for c, k := range h.Refused {
			sum.Refused[c] += k
		}
		sum.Messages += h.Messages
		sum.Recipients += h.Recipients
		sum.Bytes += h.Bytes
		for i, k := range h.Replies {
			sum.Replies[i] += k
		}
		for i, k := range h.PerSecond {
			if i == len(sum.PerSecond) {
				sum.PerSecond = append(sum.PerSecond, 0)
			}
			sum.PerSecond[i] += k
		}
	}
	return sum
}
