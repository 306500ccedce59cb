package lease

import (
	"cmp"
	"slices"
	"time"
)

// Want replaces what the next call asks for, and what was used is as it was at some moment after
// Done last returned. Every count must be in it of which this node
// has used any on a day that may still go on somewhere, wanted or not, as the store may have
// lost it; and before Want was called the first time there is no call.
func (m *Member) Want(list []Demand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wants, m.wanted = slices.Clone(list), true
	for i := range m.wants {
		d := &m.wants[i]
		l := subject{d.Kind, d.Key, d.Day}
		lim, want := d.whole()
		g := m.grants[l]
		switch {
		case d.Kind == Count:
			if g == nil {
				g = &grant{}
				m.grants[l] = g
			}
			m.soon = m.soon || !m.asked[l]
			// A bound that fell did so before this was counted: the count does not pass it any more.
			g.claim = max(g.granted, want)
		case want > m.floor(lim) && !m.asked[l]:
			m.soon, m.rising = true, 4
		}
	}
}

// Soon has the next call made earlier: something is waiting for it.
func (m *Member) Soon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.soon = true
}

// Due is when the next call should be made, by Options.Boot.
func (m *Member) Due() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.sent == 0 && m.n == 0:
		return 0
	case m.failed:
		return m.sent + Interval/5
	case m.soon:
		return m.sent + min(Interval, Shortest+time.Duration(m.asks)*forEach)
	}
	if m.rising > 0 {
		return m.sent + Interval/2
	}
	return m.sent + Interval
}

// Call is the next call, nil while one is under way, once this node has left, and while its
// state file cannot be written.
func (m *Member) Call() *Call {
	m.turn.Lock()
	defer m.turn.Unlock()
	if m.unsure {
		m.mu.Lock()
		f := m.file()
		m.mu.Unlock()
		if m.persist(f) != nil {
			m.mu.Lock()
			m.sent, m.failed = m.o.Boot(), true
			m.mu.Unlock()
			return nil
		}
	}
	return m.next()
}

func (m *Member) next() *Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.call != nil || !m.wanted || m.left {
		return nil
	}
	now := m.o.Boot()
	m.n++
	if !m.active || m.said.Version == "" || m.said.Divisor >= m.table.Divisor || !m.outlived() {
		m.said = m.table
	}
	c := &Call{Fleet: m.o.Fleet, Node: m.o.Node, ID: m.id, Token: m.token, N: m.n, Answered: m.answered, Epoch: m.epoch,
		Table: m.said, Active: m.active, Nodes: m.o.Nodes, Leave: m.leaving, Found: m.found, Doubt: m.waits()}
	if !m.soon && m.rising > 0 {
		m.rising--
	}
	m.call, m.soon = c, false
	if f := m.forget; f != nil && now < f.end {
		c.Forget, c.Off = f.node, f.seq
	} else {
		m.endForget(ErrNotSaid)
	}
	if m.token != "" {
		c.Seq, c.Time, c.Clock = m.last.Seq, m.last.Time, m.last.Clock
		c.Since = (now - m.arrived).Milliseconds()
		if m.found {
			m.foundIn = m.epoch
		}
		if !m.leaving {
			m.ask(c, now)
		}
	}
	// The last thing read is the clock: what the call claims was true before.
	c.sent = m.o.Boot()
	m.sent = c.sent
	return c
}

// outlived says whether sessions are up that were begun under a greater floor than this node has now.
func (m *Member) outlived() bool {
	return slices.ContainsFunc(m.wants, func(d Demand) bool {
		return d.Kind == Sessions && d.Used > m.floor(int64(d.Limit))
	})
}

// ask says what this node wants and what it may be using. Where it wants less than it holds, or
// holds it of another limit, it lets go of that first.
func (m *Member) ask(c *Call, now time.Duration) {
	m.asked = make(map[subject]bool, len(m.wants))
	c.Asks, c.subjects = make([]Ask, 0, m.asks), make([]subject, 0, m.asks) // about as many as the last time
	add := func(l subject, lim, want, used int64) {
		g := m.grants[l]
		m.asked[l] = false
		a := Ask{Field: l.field(), Count: l.kind == Count, Limit: lim, Want: want}
		said := true
		if l.kind == Count {
			a.Claim = max(g.claim, want)
		} else {
			if g != nil && g.limit != lim {
				delete(m.grants, l)
				g = nil
			}
			own := m.floor(lim)
			// A session that was begun under a greater part ends by itself. Until then the store, which has
			// counted it since, must not lend its place; unless the lease ended meanwhile, when it may have.
			if l.kind != Sessions || now >= m.ends {
				used = 0
			}
			if g == nil && want <= own && used <= own {
				if _, told := m.waited[l]; !told {
					return
				}
				said = false // no more than before: a new demand is one
			}
			a.Claim = max(own, used)
			if g != nil && now < g.end {
				g.granted = min(g.granted, want)
				a.Claim = max(a.Claim, g.granted)
			}
			a.used = used
		}
		m.asked[l] = said
		c.Asks, c.subjects = append(c.Asks, a), append(c.subjects, l)
	}
	for i := range m.wants {
		d := &m.wants[i]
		l := subject{d.Kind, d.Key, d.Day}
		if _, again := m.asked[l]; !again {
			lim, want := d.whole()
			add(l, lim, want, d.Used)
		}
	}
	var rest []subject
	for l, g := range m.grants {
		if _, said := m.asked[l]; said {
			continue
		}
		if now >= g.end {
			delete(m.grants, l)
			continue
		}
		rest = append(rest, l)
	}
	// Who wanted more and was lent nothing says once that it does not any more: until then, or for a
	// lease time, the store keeps its turn for it.
	for l := range m.waited {
		if _, said := m.asked[l]; !said && m.grants[l] == nil {
			rest = append(rest, l)
		}
	}
	slices.SortFunc(rest, func(a, b subject) int { return cmp.Compare(a.field(), b.field()) })
	for _, l := range rest {
		g := m.grants[l]
		switch {
		case g == nil:
			add(l, m.waited[l], 0, 0)
		case l.kind == Count: // nobody says how much of it was used
			add(l, g.limit, g.claim, 0)
		default:
			add(l, g.limit, 0, 0)
		}
	}
	m.asks = len(c.Asks)
}

// Done takes the answer to a call, or the error instead of one; whatever comes later for
// that call must be thrown away. Answers to other calls than the one under way are. The table is
// persisted before it is used or acknowledged.
func (m *Member) Done(c *Call, r *Reply, err error) {
	m.turn.Lock()
	defer m.turn.Unlock()
	m.mu.Lock()
	if c == nil || c != m.call {
		m.mu.Unlock()
		return
	}
	m.call = nil
	m.failed = err != nil || r == nil
	if m.failed {
		m.soon = true
		m.mu.Unlock()
		return
	}
	if r.Epoch != m.epoch {
		m.endForget(ErrUnknown)
	}
	now := m.o.Boot()
	m.why, m.epoch, m.arrived = r.Why, r.Epoch, now
	m.last.Seq, m.last.Time, m.last.Clock = r.Seq, r.Time, r.Clock
	switch r.Why {
	case Hello:
		// What was said of one life of the store may not be so in the next.
		m.found = m.found && (m.foundIn == Epoch{} || m.foundIn == r.Epoch)
		m.token, m.n, m.answered, m.soon = r.Token, 0, 0, true
	case Left:
		m.left = true
	}
	if r.Why == Hello || r.Why == Left || m.leaving {
		m.mu.Unlock()
		return
	}
	m.answered = c.N
	if c.Forget != "" && m.forget != nil && c.Off == m.forget.seq {
		switch {
		case r.Table.Version == "" || r.Why != "" && slices.Contains(r.Table.Members, c.Forget):
			m.endForget(ErrUnknown)
		case slices.Contains(r.Table.Members, c.Forget):
			m.endForget(ErrCalls)
		default:
			m.endForget(nil)
		}
	}
	old := m.file()
	if r.Table.Version != "" {
		m.found = false
		m.doubts = m.doubts && r.Active && r.Why != "" // a lease of the store's former life may have what this node has not
		if old.Active && !r.Active {
			m.forgot = true
			m.o.Log.Warn("this node was forgotten (millrace fleet forget) while it was off, and its floors were given away: it joins the fleet anew, and has none until all others have smaller ones", "file", m.path)
		}
		m.forgot = m.forgot && !r.Active
	}
	m.mu.Unlock()

	f := old
	if t := r.Table; t.Version != "" && (t.Version != old.Table.Version || r.Active != old.Active) {
		f.Active, f.Table = r.Active, t
		if err := m.persist(f); err != nil {
			m.o.Log.Error("the state of this member of the fleet cannot be written: it keeps its floors as they were", "file", m.path, "err", err)
			f = old
			f.Active = old.Active && r.Active // what was given away is not used, whatever the file says
		}
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if f.Table.Version != old.Table.Version || f.Active != old.Active {
		m.soon = true // to acknowledge it
	}
	m.table, m.active = f.Table, f.Active
	m.granted, m.ends, m.less = true, c.sent+Lease, r.Less
	m.waited = make(map[subject]int64)
	for i, l := range c.subjects {
		if i >= len(r.Grants) {
			break
		}
		a := &c.Asks[i]
		m.take(l, *a, r.Grants[i], c.sent)
		if l.kind != Count && m.grants[l] == nil && max(a.Want, a.used) > m.floor(a.Limit) {
			m.waited[l] = a.Limit
		}
	}
}

func (m *Member) take(l subject, a Ask, granted int64, sent time.Duration) {
	g := m.grants[l]
	if l.kind != Count && m.said.Divisor < m.table.Divisor {
		granted = min(granted, m.floor(a.Limit)) // the store took the floor that it was told for this node's
	}
	if l.kind != Count && granted <= m.floor(a.Limit) {
		if a.Claim > max(granted, a.used) && g != nil {
			m.soon = true
		}
		delete(m.grants, l)
		return
	}
	if g == nil {
		g = &grant{}
		m.grants[l] = g
	}
	g.limit, g.granted = a.Limit, granted
	if l.kind == Count {
		g.claim, g.end = max(a.Claim, granted), sent+dayLease
		return
	}
	g.end = sent + Lease
	if max(granted, a.used) < a.Claim {
		m.soon = true // so that others have the difference at once
	}
}
