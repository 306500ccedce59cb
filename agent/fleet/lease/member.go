package lease

import (
	"log/slog"
	"slices"
	"sync"
	"time"
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
	soon     bool // the next call has something to say
	// waited are limits of which more was wanted than the floor and nothing was lent, as the store
	// remembers until it is told otherwise.
	waited map[subject]int64
	rising int  // calls to come twice as often, as a demand is new: others first have to hear of it
	failed bool // the last one was not answered
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

// Members are the names of the members, as persisted.
func (m *Member) Members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.table.Members)
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
