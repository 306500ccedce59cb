package lease

import "time"

// grant is what was lent of one limit.
type grant struct {
	limit   int64 // under which it was lent
	granted int64 // may be used
	claim   int64 // of a Count: may have been used, until the node says what was
	end     time.Duration
}

// waits says whether the floors are not used yet, as they may be somebody else's by now: this node
// may have been forgotten while it was off. Without a store it cannot know, and believes its file.
func (m *Member) waits() bool { return m.doubts && m.o.Boot() < m.doubtEnd }

// floor is what may be used of a limit without a lease, once the node does not doubt it.
func (m *Member) floor(limit int64) int64 {
	if !m.active || m.table.Divisor == 0 || m.leaving {
		return 0
	}
	return max(0, limit) / int64(m.table.Divisor)
}

// use is what may be used of a limit now. What was lent under another limit than it has
// now is not: the others' part may be of this one.
func (m *Member) use(l subject, limit int64) int64 {
	var own int64
	if l.kind != Count && !m.waits() {
		own = m.floor(limit)
	}
	if g := m.grants[l]; g != nil && g.limit == limit && m.o.Boot() < g.end {
		own = max(own, g.granted)
	}
	return min(own, max(0, limit))
}

// Sessions says how many of limit sessions this node may have. The answer holds for this
// moment: whoever opens a session asks again.
func (m *Member) Sessions(key string, limit int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int(m.use(subject{Sessions, key, ""}, int64(limit)))
}

// Rate says how much of a rate this node may use.
func (m *Member) Rate(key string, limit float64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return float64(m.use(subject{Rate, key, ""}, thousandths(limit))) / 1000
}

// Bound says up to what this node's own count of a day may go, what it has counted
// already included.
func (m *Member) Bound(key, day string, limit int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int(m.use(subject{Count, key, day}, int64(limit)))
}

// Ends is when the lease of the last answered call ends, by Options.Boot.
func (m *Member) Ends() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends, m.granted
}

// Divisor is that of this node's floors, 0: it uses none.
func (m *Member) Divisor() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.active || m.waits() {
		return 0
	}
	return m.table.Divisor
}
