package lease

import (
	"crypto/sha1"
	"fmt"
	"maps"
	"slices"
)

// Milliseconds of the store's time.
const (
	storeLease = 31_000           // what is lent counts as in use; members stop a second before
	turn       = 120_000          // what cannot be divided stays with a member
	days       = 72 * 3600 * 1000 // a day's counts are kept after they were last asked for
)

// Store is the script's twin: the same rules in Go, for tests and simulations, and to be read
// beside it. The zero value is a store that is empty. It does not lock.
type Store struct {
	Run    string        // the server's incarnation
	Unique func() string // never says the same twice; nil: a number
	state  *state
	recs   map[string]rec
	number int
}

type state struct {
	run     string
	epoch   Epoch
	time    int64
	hellos  int
	valid   bool // there is a table
	members []string
	version int
	divisor int
	low     int   // the smallest divisor that a member with a floor may use
	base    int   // the same when the table came, for those who have not called since
	shrink  int64 // since when smaller divisors are made ready, -1: they are not
	nodes   map[string]node
}

// node is what is known of a caller.
type node struct {
	token      string
	n          int64
	called     bool // in this epoch; what follows is of its last call, or was told to it since
	version    string
	divisor    int
	active     bool
	nodes      int
	last       int64 // the time of that call
	ready      bool
	readySince int64 // its floor is kept for it
}

// rec is one limit.
type rec struct {
	epoch string
	last  int64
	parts map[string]part // of leases by node, of counts by ID
}

type part struct {
	want int64 // of a count: used
	hold int64
	end  int64 // of a lease
}

// Clone is a copy that shares nothing, as a backup would be.
func (s *Store) Clone() *Store {
	c := *s
	if s.state != nil {
		st := *s.state
		st.members, st.nodes = slices.Clone(st.members), maps.Clone(st.nodes)
		c.state = &st
	}
	c.recs = make(map[string]rec, len(s.recs))
	for field, r := range s.recs {
		r.parts = maps.Clone(r.parts)
		c.recs[field] = r
	}
	return &c
}

func (st *state) v() string { return fmt.Sprintf("%s/%d", st.epoch.ID, st.version) }

func (st *state) remove(name string) {
	if i := slices.Index(st.members, name); i >= 0 {
		st.members = slices.Delete(st.members, i, i+1)
		st.version++
	}
	delete(st.nodes, name)
}

// Do executes a call.
func (s *Store) Do(c *Call) *Reply {
	st := s.state
	var m node
	known := false
	if st != nil {
		m, known = st.nodes[c.Node]
	}
	if st == nil || st.run != s.Run || c.Epoch.N > st.epoch.N || c.Epoch.N == st.epoch.N && c.Epoch.ID != st.epoch.ID ||
		known && m.token == c.Token && m.n < c.Answered {
		n := c.Epoch.N + 1
		if st != nil {
			n = max(st.epoch.N, c.Epoch.N) + 1
		}
		st = &state{run: s.Run, epoch: Epoch{n, fmt.Sprintf("%d.%.8s.%s", n, s.Run, s.unique())}, shrink: -1, nodes: make(map[string]node)}
		s.state, known, m = st, false, node{}
		if s.recs == nil {
			s.recs = make(map[string]rec)
		}
	}
	r := &Reply{Epoch: st.epoch, Time: st.time}
	if !known || m.token != c.Token {
		st.hellos++
		m.token, m.n = fmt.Sprintf("%s:%d", st.epoch.ID, st.hellos), 0
		st.nodes[c.Node] = m
		r.Why, r.Token = Hello, m.token
		return r
	}
	r.Token = m.token
	if c.N <= m.n {
		r.Why = Late
		return r
	}
	m.n = c.N
	st.time = max(st.time, c.Time+c.Since)
	now := st.time
	r.Time = now

	if c.Leave {
		if !st.valid {
			st.nodes[c.Node] = m
			r.Why = Unknown
			return r
		}
		st.remove(c.Node)
		r.Why = Left
		return r
	}

	m.called, m.version, m.divisor, m.active, m.nodes, m.last = true, c.Table.Version, c.Table.Divisor, c.Active, c.Nodes, now
	st.nodes[c.Node] = m
	nodes, called := 0, 0
	for _, x := range st.nodes {
		if x.called {
			nodes, called = max(nodes, x.nodes), called+1
		}
	}

	if !st.valid {
		switch {
		case c.Active && c.Table.Version != "":
			st.valid, st.members, st.divisor = true, slices.Clone(c.Table.Members), c.Table.Divisor
			st.low = min(c.Table.Low, len(st.members), st.divisor)
			st.base = st.low
			st.version++
		case c.Found, nodes > 0 && called >= nodes:
			st.valid = true
			st.version++
		}
	}
	t := terms{state: st, call: c, now: now, nodes: nodes, serving: st.valid && now >= storeLease}
	if st.valid {
		t.members(&m)
		st.nodes[c.Node] = m
		r.Active = m.active
		r.Table = Table{st.v(), slices.Clone(st.members), st.divisor, st.low}
	}
	switch {
	case !st.valid:
		r.Why = Unknown
	case !t.serving:
		r.Why = Recovery
	}
	t.divisors()
	for _, a := range c.Asks {
		rc, had := s.recs[a.Field]
		if !had {
			rc = rec{epoch: st.epoch.ID, parts: make(map[string]part)}
		}
		var grant int64
		if a.Count {
			grant = t.count(&rc, a)
		} else {
			grant = t.lease(&rc, a)
		}
		if len(rc.parts) > 0 {
			s.recs[a.Field] = rc
		} else {
			delete(s.recs, a.Field)
		}
		r.Grants = append(r.Grants, grant)
	}
	return r
}

func (s *Store) unique() string {
	if s.Unique != nil {
		return s.Unique()
	}
	s.number++
	return fmt.Sprint(s.number)
}

// terms are those on which limits are lent in one call.
type terms struct {
	state    *state
	call     *Call
	now      int64
	nodes    int  // the greatest that callers expect
	serving  bool // more than was claimed may be lent
	all      bool // members have called in this epoch
	reserved int  // no floor has a smaller divisor, now or soon
	div      []int64
}

// members changes the table, or the caller's part in it.
func (t *terms) members(m *node) {
	st, c, now := t.state, t.call, t.now
	if f := c.Forget; f != "" && f != c.Node && now >= storeLease && slices.Contains(st.members, f) {
		if x := st.nodes[f]; !x.called || x.last+storeLease <= now {
			st.remove(f)
		}
	}
	if !slices.Contains(st.members, c.Node) {
		st.members = append(st.members, c.Node)
		slices.Sort(st.members)
		st.version++
	}
	least := max(len(st.members), t.nodes)
	if least > st.divisor {
		if st.divisor == 0 {
			st.low = least
		}
		st.divisor = least
		st.version++
	}

	settled := true
	t.all = true
	for _, name := range st.members {
		x := st.nodes[name]
		t.all = t.all && x.called
		settled = settled && x.called && x.version == st.v()
	}
	if settled {
		st.low = st.divisor
	}
	switch {
	case !settled || least >= st.divisor:
		st.shrink = -1
	case st.shrink < 0:
		st.shrink = now
	case now >= st.shrink+storeLease:
		st.divisor, st.low, st.shrink = least, least, -1
		st.version++
	}
	t.reserved = st.divisor
	if st.shrink >= 0 {
		t.reserved = least
	}

	if m.active {
		m.divisor = min(m.divisor, st.divisor)
		return
	}
	ready := true
	for _, name := range st.members {
		x := st.nodes[name]
		if name != c.Node && (!x.called || x.active && x.version != st.v()) {
			ready = false
		}
	}
	switch {
	case !ready:
		m.ready = false
	case !m.ready:
		m.ready, m.readySince = true, now
	case now >= m.readySince+storeLease:
		m.active, m.divisor = true, st.divisor
	}
}

// divisors are those of each member's floor, 0 where it has none.
func (t *terms) divisors() {
	t.div = make([]int64, len(t.state.members))
	for i, name := range t.state.members {
		switch x := t.state.nodes[name]; {
		case !x.called:
			t.div[i] = int64(min(t.state.base, t.reserved))
		case x.active:
			t.div[i] = int64(min(x.divisor, t.reserved))
		case x.ready:
			t.div[i] = int64(t.reserved)
		}
	}
}

// lease says what the caller may use of a limit until its lease ends.
func (t *terms) lease(rc *rec, a Ask) int64 {
	me, now := t.call.Node, t.now
	if rc.epoch != t.state.epoch.ID {
		*rc = rec{epoch: t.state.epoch.ID, parts: make(map[string]part)}
	}
	delete(rc.parts, me)
	var taken, own int64
	if t.nodes > 0 {
		taken = int64(max(0, t.nodes-len(t.state.members))) * (a.Limit / int64(t.nodes))
	}
	left := a.Limit - taken // for those who ask
	type asking struct {
		name        string
		want, floor int64
	}
	var list []asking
	for i, name := range t.state.members {
		var f int64
		if t.div[i] > 0 {
			f = a.Limit / t.div[i]
		}
		x, ok := rc.parts[name]
		switch {
		case name == me:
			own = f
			list = append(list, asking{name, a.Want, f})
		case ok && x.end > now:
			taken += max(f, x.hold)
			list = append(list, asking{name, x.want, f})
		default:
			taken += f
			left -= f
		}
	}
	for name, x := range rc.parts {
		if x.end <= now {
			delete(rc.parts, name)
		} else if !slices.Contains(t.state.members, name) {
			taken += x.hold
			left -= x.hold
		}
	}

	filled := func(level int64) (sum int64) {
		for _, x := range list {
			sum += max(x.floor, min(x.want, level))
		}
		return sum
	}
	low, high := int64(0), max(0, a.Limit)
	if filled(high) <= left {
		low = high
	}
	for low < high {
		if mid := (low + high + 1) / 2; filled(mid) <= left {
			low = mid
		} else {
			high = mid - 1
		}
	}
	target := max(own, min(a.Want, low))
	if rest := left - filled(low); a.Want > low && own <= low && rest > 0 {
		var n, rank int64
		for _, x := range list {
			if x.want > low && x.floor <= low {
				if x.name == me {
					rank = n
				}
				n++
			}
		}
		sum := sha1.Sum([]byte(a.Field))
		start := now/turn + int64(sum[0])<<16 + int64(sum[1])<<8 + int64(sum[2])
		if ((rank-start)%n+n)%n < rest {
			target++
		}
	}

	grant := max(0, min(target, a.Limit-taken))
	if !t.serving {
		grant = min(grant, a.Claim)
	}
	if hold := max(a.Claim, grant); a.Want > own || hold > own {
		rc.parts[me] = part{a.Want, hold, now + storeLease}
	}
	return grant
}

// count says how far the caller's count of a day may go.
func (t *terms) count(rc *rec, a Ask) int64 {
	taken, spent := int64(0), a.Want
	for id, x := range rc.parts {
		if id != t.call.ID {
			taken += x.hold
			spent += x.want
		}
	}
	grant := a.Claim
	if t.state.valid && (t.all || t.now >= days/2) && t.call.Active && t.call.Table.Version != "" {
		n := int64(2 * len(t.state.members))
		ahead := (max(0, a.Limit-spent) + n - 1) / n
		grant = max(0, min(a.Want+ahead, a.Limit-taken))
	}
	rc.parts[t.call.ID] = part{want: a.Want, hold: max(a.Claim, grant)}
	rc.epoch, rc.last = t.state.epoch.ID, t.now
	return grant
}
