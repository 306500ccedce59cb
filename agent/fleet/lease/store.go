package lease

import (
	"crypto/sha1"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Milliseconds of the store's time.
const (
	storeLease = 31_000           // what is lent counts as in use; members stop a second before
	turn       = 120_000          // what cannot be divided stays with a member
	markEvery  = 1000             // of a member's calls
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
	seq     int64 // of the last call that was executed
	dead    int64 // a lease time has passed since the call of that seq, and all before
	hellos  int
	valid   bool // there is a table
	members []string
	version int
	divisor int
	low     int   // the smallest divisor that a member with a floor may use
	base    int   // the same when the table came, for those who have not called since
	shrink  int64 // seq since when smaller divisors are made ready, -1: they are not
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
	last       int64 // the seq of that call
	marks      []mark
	named      bool // in the table of all: with Nodes a member has floors before that
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
	want  int64 // of a count: used
	hold  int64
	seq   int64 // of the call, for a lease
	limit int64 // that its node has, for a lease
}

// mark is a call that was answered, by the clock that its member's calls make up.
type mark struct{ seq, clock int64 }

// witness notes how much time has certainly passed. A call says how long ago the reply to
// an earlier one arrived, so that long at least lies between the two executions. Such times are added
// up member by member, as they follow each other there, and never across members,
// where they overlap.
func (st *state) witness(c *Call, m *node) (clock int64) {
	clock = c.Clock + c.Since
	if n := len(m.marks); n == 0 || c.Clock-m.marks[n-1].clock >= markEvery {
		m.marks = append(slices.Clone(m.marks), mark{c.Seq, c.Clock})
	}
	for len(m.marks) > 0 && clock-m.marks[0].clock >= storeLease {
		st.dead = max(st.dead, m.marks[0].seq)
		m.marks = m.marks[1:]
	}
	st.time = max(st.time, c.Time+c.Since)
	st.seq++
	return clock
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
		st = &state{run: s.Run, epoch: Epoch{n, fmt.Sprintf("%d.%.8s.%s", n, s.Run, s.unique())}, dead: -1, shrink: -1, nodes: make(map[string]node)}
		s.state, known, m = st, false, node{}
		if s.recs == nil {
			s.recs = make(map[string]rec)
		}
	}
	r := &Reply{Epoch: st.epoch, Time: st.time, Seq: st.seq}
	// Also who comes late: what it claims may be less than it uses by now.
	if !known || m.token != c.Token || c.N <= m.n {
		st.hellos++
		m.token, m.n, m.marks = fmt.Sprintf("%s:%d", st.epoch.ID, st.hellos), 0, nil
		st.nodes[c.Node] = m
		r.Why, r.Token = Hello, m.token
		return r
	}
	r.Token = m.token
	m.n = c.N
	r.Clock = st.witness(c, &m)
	r.Time, r.Seq = st.time, st.seq

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

	stale := st.valid && c.Active && c.Table.Version != "" && c.Nodes == 0 && (!slices.Contains(st.members, c.Node) || m.called && !m.active)
	m.called, m.version, m.divisor, m.active, m.nodes, m.last = true, c.Table.Version, c.Table.Divisor, c.Active && !stale, c.Nodes, st.seq
	st.nodes[c.Node] = m
	nodes, called := 0, 0
	for _, x := range st.nodes {
		if x.called {
			nodes, called = max(nodes, x.nodes), called+1
		}
	}

	if !st.valid {
		switch {
		case c.Active && c.Table.Version != "" && !c.Doubt:
			st.valid, st.members, st.divisor = true, slices.Clone(c.Table.Members), c.Table.Divisor
			st.low = min(c.Table.Low, len(st.members), st.divisor)
			st.base = st.low
			st.version++
		case c.Found, nodes > 0 && called >= nodes:
			st.valid = true
			st.version++
		}
	}
	t := terms{state: st, call: c, nodes: nodes, serving: st.valid && st.dead >= 0}
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
	r.Less = t.less
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
	nodes    int  // the greatest that callers expect
	serving  bool // more than was claimed may be lent
	reserved int  // no floor has a smaller divisor, now or soon
	div      []int64
	less     []Less // limits that are smaller with others
}

// members changes the table, or the caller's part in it.
func (t *terms) members(m *node) {
	st, c := t.state, t.call
	if f := c.Forget; f != "" && f != c.Node && t.serving && slices.Contains(st.members, f) {
		if x := st.nodes[f]; !x.called || x.last <= st.dead && x.last <= c.Off {
			st.remove(f)
		}
	}
	if !slices.Contains(st.members, c.Node) {
		st.members = append(st.members, c.Node)
		slices.Sort(st.members)
		st.version++
	}
	// A table of a former epoch that came later may have the greater divisor: floors must
	// not grow by what the store has forgotten.
	least := max(len(st.members), t.nodes)
	grown := least
	if m.active && !strings.HasPrefix(c.Table.Version, st.epoch.ID+"/") {
		grown = max(least, c.Table.Divisor)
	}
	if grown > st.divisor {
		if st.divisor == 0 {
			st.low = grown
		}
		st.divisor = grown
		st.version++
	}

	settled := true
	for _, name := range st.members {
		x := st.nodes[name]
		settled = settled && x.called && x.version == st.v()
	}
	if settled {
		st.low = st.divisor
		for _, name := range st.members {
			x := st.nodes[name]
			x.named = true
			st.nodes[name] = x
		}
		m.named = true
	}
	switch {
	case !settled || least >= st.divisor:
		st.shrink = -1
	case st.shrink < 0:
		st.shrink = st.seq
	case st.dead >= st.shrink:
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
		m.ready, m.readySince = true, st.seq
	case st.dead >= m.readySince:
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
	me, dead := t.call.Node, t.state.dead
	if rc.epoch != t.state.epoch.ID {
		*rc = rec{epoch: t.state.epoch.ID, parts: make(map[string]part)}
	}
	delete(rc.parts, me)
	mine, less := a.Limit, ""
	for name, x := range rc.parts {
		if x.seq <= dead {
			delete(rc.parts, name)
		} else if x.limit < a.Limit || less != "" && x.limit == a.Limit && name < less {
			a.Limit, less = x.limit, name
		}
	}
	if less != "" && len(t.less) < 5 {
		t.less = append(t.less, Less{a.Field, a.Limit, less})
	}
	a.Want = min(a.Want, a.Limit)
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
		case ok:
			taken += max(f, x.hold)
			list = append(list, asking{name, x.want, f})
		default:
			taken += f
			left -= f
		}
	}
	for name, x := range rc.parts {
		if !slices.Contains(t.state.members, name) {
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
		start := t.state.time/turn + int64(sum[0])<<16 + int64(sum[1])<<8 + int64(sum[2])
		if ((rank-start)%n+n)%n < rest {
			target++
		}
	}

	grant := max(0, min(target, a.Limit-taken))
	if !t.serving {
		grant = min(grant, a.Claim)
	}
	// The floor that it has is enough to know, the one that is made ready is not.
	sure := int64(0)
	if x := t.state.nodes[me]; x.active {
		sure = mine / int64(x.divisor)
	}
	if hold := max(a.Claim, grant); a.Want > sure || hold > sure {
		rc.parts[me] = part{a.Want, hold, t.state.seq, mine}
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
	if t.state.valid && t.state.nodes[t.call.Node].named {
		n := int64(2 * len(t.state.members))
		ahead := (max(0, a.Limit-spent) + n - 1) / n
		grant = max(0, min(a.Want+ahead, a.Limit-taken))
	}
	rc.parts[t.call.ID] = part{want: a.Want, hold: max(a.Claim, grant)}
	rc.epoch, rc.last = t.state.epoch.ID, t.state.time
	return grant
}
