package lease

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

// Lengths of time by the member's own clock (Options.Boot).
const (
	Lease    = 30 * time.Second       // a grant's, from when its call was sent
	Interval = 5 * time.Second        // between calls
	Shortest = 200 * time.Millisecond // between calls that something is waiting for, and forEach besides
	forEach  = time.Millisecond       // limit of the last call, for which that took some 4 us of processor time here and 7 us at the store
	Doubt    = 10 * time.Second       // after a start, for the store to say whether the floors of the file are this node's yet
	dayLease = 35 * time.Hour         // of a count's bound: less than after which the store lends what was lost
)

// Kind is what a limit bounds.
type Kind int

const (
	Sessions Kind = iota // at one time
	Rate                 // a second
	Count                // on a day
)

// Demand is what this node could use of a limit.
type Demand struct {
	Key   string
	Kind  Kind
	Day   string // of a Count
	Limit float64
	Want  float64 // what is in use and what could be besides; not for a Count
	Used  int64   // of a Count: all that this node has counted on that day, what is under way included; of Sessions: those up or opening but idle ones, beyond what may be used too
}

// Options are a member's surroundings.
type Options struct {
	Fleet, Node string
	Nodes       int                  // at least as many as there will ever be, the same on all; 0: unknown
	Boot        func() time.Duration // CLOCK_BOOTTIME: goes on while the host sleeps or the process is stopped
	Log         *slog.Logger
}

// Status is what an admin may want to know.
type Status struct {
	Active   bool          // this node has floors
	Doubts   bool          // and does not use them yet: it was started, and the store has not confirmed them
	Forgot   bool          // its floors were given away while it was off, and it has none again yet
	Left     bool          // it left, and the store knows
	Table    Table         // as persisted
	Why      string        // of the last reply: why nothing new is lent; "": all is well
	Answered bool          // a call was answered and its lease runs
	Ends     time.Duration // the end of that, by Options.Boot
	Limits   int           // of which more than the floor is held
	Waiting  int           // of which more is wanted than may be used
	Less     []Less        // of the last call: limits that are smaller with others
}

type subject struct {
	kind     Kind
	key, day string
}

func (l subject) field() string {
	switch l.kind {
	case Sessions:
		return "s:" + l.key
	case Rate:
		return "r:" + l.key
	}
	return "c:" + l.day + ":" + l.key
}

// grant is what was lent of one limit.
type grant struct {
	limit   int64 // under which it was lent
	granted int64 // may be used
	claim   int64 // of a Count: may have been used, until the node says what was
	end     time.Duration
}

// Member is a node's side. Its methods may be called by several goroutines.
type Member struct {
	o       Options
	path    string
	replace func(path string, content []byte) error // durable.Replace

	turn   sync.Mutex // one call, one file; never locked by those who only ask
	unsure bool       // with turn: the file may be of before or after a writing that failed

	mu       sync.Mutex
	id       string
	table    Table
	said     Table // in the last call: table, or one of before it while sessions are up that were begun under its floors
	active   bool
	places   map[string]string // where other members answer; never changed, but replaced
	leaving  bool
	left     bool
	grants   map[subject]*grant
	asked    map[subject]bool // in the last call; false: within the floor
	asks     int              // of the last call
	wants    []Demand
	wanted   bool          // Want was called
	doubts   bool          // the store has not confirmed the floors of the file
	doubtEnd time.Duration // they are used from then on
	forgot   bool          // they were given away
	less     []Less
	forget   *forget
	found    bool
	foundIn  Epoch // in which the store may have heard that
	call     *Call // under way
	token    string
	n        int64
	answered int64
	epoch    Epoch
	last     Reply         // of which seq, time and clock are sent back
	arrived  time.Duration // that reply
	sent     time.Duration // the last call
	ends     time.Duration // of the last lease
	granted  bool          // there was one
	why      string
	soon     bool              // the next call has something to say
	waited   map[subject]int64 // limits of which more was wanted than the floor and nothing lent, as the store remembers until it is told otherwise
	rising   int               // calls to come twice as often, as a demand is new: others first have to hear of it
	failed   bool              // the last one was not answered
}

// file is what a member persists.
type file struct {
	Fleet, Node, ID string
	Active          bool
	Table           Table
	Addresses       map[string]string `json:",omitempty"` // where other members answer, host:port by node
}

// Open reads the member's state from path. Without that file, or where it is of another
// fleet or node or cannot be understood, the node is a new one, which has no floors: 0, or
// limit/Nodes. The file must not be brought back from a backup: remove it instead.
func Open(path string, o Options) (*Member, error) {
	if o.Fleet == "" || o.Node == "" || strings.ContainsAny(o.Node, ", ") {
		return nil, fmt.Errorf("a member needs the names of its fleet and node: %q, %q", o.Fleet, o.Node)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the state of this member of the fleet: %w", err)
	}
	return begin(path, text, o), nil
}

// begin is a member with the state file's content, which may be nothing.
func begin(path string, text []byte, o Options) *Member {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Member{o: o, path: path, replace: durable.Replace, id: rand.Text(), grants: make(map[subject]*grant)}
	if o.Nodes > 0 {
		m.table, m.active = Table{Divisor: o.Nodes}, true
	}
	if len(text) == 0 {
		return m
	}
	var f file
	switch err := json.Unmarshal(text, &f); {
	case err != nil:
		o.Log.Warn("the state of this member of the fleet cannot be read: it counts as a new one", "file", path, "err", err)
	case f.Fleet == "" && f.Node == "": // Leave wrote it
	case f.Fleet != o.Fleet || f.Node != o.Node:
		o.Log.Warn("the state of this member of the fleet is of another one: it counts as a new one", "file", path, "fleet", f.Fleet, "node", f.Node)
	case f.ID != "" && f.Table.Version != "":
		m.id, m.table, m.active, m.places = f.ID, f.Table, f.Active, f.Addresses
		m.table.Divisor = max(m.table.Divisor, o.Nodes)
		m.doubts, m.doubtEnd = m.active && o.Nodes == 0, o.Boot()+Doubt
	}
	return m
}

// HasPart says whether the state file at path is that of a member with floors, which it did not
// leave. One that is not there or cannot be read is not.
func HasPart(path string) bool {
	text, err := os.ReadFile(path)
	var f file
	return err == nil && json.Unmarshal(text, &f) == nil && f.Active && f.Table.Version != ""
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

func thousandths(x float64) int64 { return int64(min(math.Floor(x*1000), 1e14)) }

// whole are limit and demand in the store's units.
func (d *Demand) whole() (limit, want int64) {
	switch d.Kind {
	case Rate:
		return thousandths(d.Limit), thousandths(d.Want)
	case Count:
		return int64(d.Limit), d.Used
	}
	return int64(d.Limit), int64(d.Want)
}

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

// Found has the calls say, until this node is a member or the store has lost its data again,
// that no node of the fleet has been granted anything, which the admin must know: a store that
// is empty does not.
func (m *Member) Found() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.found, m.foundIn, m.soon = true, Epoch{}, true
}

// Leave gives everything up, for good and durably, and returns the call that says so, as
// Call does from then on until the store has answered with Left.
func (m *Member) Leave() (*Call, error) {
	m.turn.Lock()
	defer m.turn.Unlock()
	// First the file, so that a crash cannot bring the floors back once others may have them.
	if err := m.persist(file{}); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.leaving, m.active, m.table = true, false, Table{}
	clear(m.grants)
	m.mu.Unlock()
	return m.next(), nil
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

func (m *Member) file() file {
	return file{m.o.Fleet, m.o.Node, m.id, m.active, m.table, m.places}
}

// persist replaces the state file. Where that fails a crash may still bring up the new one, and
// a call would claim only what the old one allows: there is none until one of them is surely there.
func (m *Member) persist(f file) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	err = m.replace(m.path, text)
	m.unsure = err != nil
	return err
}

// Ends is when the lease of the last answered call ends, by Options.Boot.
func (m *Member) Ends() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends, m.granted
}

// Keep has the state file say where other members answer, as at gives it (host:port; "": as
// before), so that they are found after a restart without a store. Trouble with the file shows when
// it is next written.
func (m *Member) Keep(at func(node string) string) {
	m.turn.Lock()
	defer m.turn.Unlock()
	m.mu.Lock()
	places := make(map[string]string)
	for _, node := range m.table.Members {
		if a := cmp.Or(at(node), m.places[node]); a != "" {
			places[node] = a
		}
	}
	same := m.leaving || m.table.Version == "" || maps.Equal(places, m.places)
	if !same {
		m.places = places
	}
	f := m.file()
	m.mu.Unlock()
	if !same {
		_ = m.persist(f) // Call tries it again
	}
}

// Address is where another member answers, as Keep heard; "": it is not known.
func (m *Member) Address(node string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.places[node]
}

// Members are the names of the members, as persisted.
func (m *Member) Members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.table.Members)
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

// Less are limits of the last call that are smaller with others, the first five.
func (m *Member) Less() []Less {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.less)
}

// Status tells how things are. It looks at all that was wanted and lent.
func (m *Member) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Active: m.active, Left: m.left, Table: m.table, Why: m.why, Ends: m.ends, Answered: m.granted && m.o.Boot() < m.ends,
		Doubts: m.active && m.waits(), Forgot: m.forgot, Less: slices.Clone(m.less)}
	s.Table.Members = slices.Clone(s.Table.Members)
	now := m.o.Boot()
	for l, g := range m.grants {
		if l.kind != Count && now < g.end {
			s.Limits++
		}
	}
	for i := range m.wants {
		d := &m.wants[i]
		if lim, want := d.whole(); d.Kind != Count && want > m.use(subject{d.Kind, d.Key, ""}, lim) {
			s.Waiting++
		}
	}
	return s
}
