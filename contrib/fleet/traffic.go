package main

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/repeats"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// traffic is what the receivers have seen: each connection, from its start to its end, and each
// message. Times count from the start of the lab, by a clock that nobody sets.
type traffic struct {
	start time.Time

	mu       sync.Mutex
	nodes    map[netip.Addr]string
	conns    map[uint64]*connection
	list     []*connection
	open     map[[2]string]int // by node and receiver
	came     []arrival
	origin   map[[2]string]int // copies that came, by the node that was given them and receiver
	arrivals []repeats.Arrival
	excuses  []excuse
}

// connection is one that a receiver has accepted; one that it turned away counts like the others.
type connection struct {
	node, receiver string
	from, to       time.Duration // to: math.MaxInt64 while it is open
	turnedAway     bool
}

// arrival is one message that a receiver has accepted.
type arrival struct {
	at                     time.Duration
	by, receiver, of, user string // node that brought it, node that was given it
}

// excuse says that connections of a node which were open at a moment, beyond its floor, may stay
// open beside what the others have been granted since: the node stands still, or cannot hear that its
// grant has ended while a transaction is under way.
type excuse struct {
	node string
	at   time.Duration
	// until is when each of them must be gone.
	until time.Duration
}

func newTraffic() *traffic {
	return &traffic{
		start: time.Now(), nodes: make(map[netip.Addr]string), conns: make(map[uint64]*connection),
		open: make(map[[2]string]int), origin: make(map[[2]string]int),
	}
}

func (t *traffic) now() time.Duration { return time.Since(t.start) }

// connection is told of each connection by the receivers.
func (t *traffic) connection(c sink.Connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if x := t.conns[c.Number]; x != nil {
		if c.Ended {
			x.to = now
			t.open[[2]string{x.node, x.receiver}]--
			delete(t.conns, c.Number)
		}
		return
	}
	x := &connection{node: t.nodes[c.Client], receiver: c.Provider, from: now, to: math.MaxInt64, turnedAway: c.TurnedAway != ""}
	t.conns[c.Number] = x
	t.list = append(t.list, x)
	t.open[[2]string{x.node, x.receiver}]++
}

// message is told of each message by the receivers.
func (t *traffic) message(m *sink.Message) {
	id, spool, back := repeats.Read(m)
	user, _, _ := strings.Cut(m.Sender, "@")
	t.mu.Lock()
	defer t.mu.Unlock()
	by := t.nodes[m.Client]
	of, _, _ := strings.Cut(id, "-")
	t.came = append(t.came, arrival{at: t.now(), by: by, receiver: m.Provider, of: of, user: user})
	t.origin[[2]string{of, m.Provider}]++
	for _, r := range m.Recipients {
		// Each node numbers its own spool.
		t.arrivals = append(t.arrivals, repeats.Arrival{Copy: ledger.Copy{ID: id, Recipient: r.Address}, Spool: by + "/" + spool, Back: back})
	}
}

// connections is how many connections a node has open now at a receiver; "" is all of them.
func (t *traffic) connections(node, receiver string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for k, v := range t.open {
		if (node == "" || k[0] == node) && (receiver == "" || k[1] == receiver) {
			n += v
		}
	}
	return n
}

// arrived is how many of the messages that a node was given have come to a receiver.
func (t *traffic) arrived(of, receiver string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.origin[[2]string{of, receiver}]
}

// count counts the arrivals in a time for which f holds.
func (t *traffic) count(from, to time.Duration, f func(*arrival) bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for i := range t.came {
		if a := &t.came[i]; a.at >= from && a.at < to && f(a) {
			n++
		}
	}
	return n
}

// goodput is how many messages a second a receiver has accepted in a time, of all nodes.
func (t *traffic) goodput(receiver string, from, to time.Duration) float64 {
	return float64(t.count(from, to, func(a *arrival) bool { return a.receiver == receiver })) / (to - from).Seconds()
}

// last is when the last arrival came for which f holds; 0: none has.
func (t *traffic) last(f func(*arrival) bool) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.came) - 1; i >= 0; i-- {
		if f(&t.came[i]) {
			return t.came[i].at
		}
	}
	return 0
}

// excuse adds an excuse.
func (t *traffic) excuse(x excuse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.excuses = append(t.excuses, x)
}

// freedLate is how much longer than its client a receiver may take a connection for open: the end is on
// its way, or the receiver, which shares the machine, has not come to read it.
const freedLate = 300 * time.Millisecond

// peak is the most connections of a moment.
type peak struct {
	most     int           // open
	late     int           // the most that were one too many only as others ended within freedLate
	over     int           // the most by which a moment exceeded what is allowed; 0 or less: never
	overAt   time.Duration // that moment
	overWho  string        // who had how many then
	excused  int           // the most that were excused at a moment
	refusals int           // connections that were turned away
}

// peak goes through all moments of a time at which a connection came. Each counts from when it was accepted to
// when its place was free, excused ones and those that were turned away too; allowed are limit, what
// ends within freedLate, and those connections of a stopped or cut node which an excuse names and which
// go beyond the node's floor.
func (t *traffic) peak(receiver string, limit int, from, to time.Duration) peak {
	t.mu.Lock()
	defer t.mu.Unlock()
	var starts []*connection
	for _, c := range t.list {
		if c.receiver == receiver && c.to >= from && c.from <= to {
			starts = append(starts, c)
		}
	}
	slices.SortStableFunc(starts, func(a, b *connection) int { return cmp.Compare(a.from, b.from) })
	var p peak
	floor := limit / fleetSize
	var open []*connection
	for _, c := range starts {
		at := max(c.from, from) // those that are open at its beginning, too
		open = append(slices.DeleteFunc(open, func(x *connection) bool { return x.to <= at }), c)
		if c.turnedAway && c.from >= from {
			p.refusals++
		}
		p.most = max(p.most, len(open))
		ending := 0
		beyond, who := make(map[string]int), make(map[string]int)
		for _, x := range open {
			who[x.node]++
			switch {
			case x != c && x.to <= at+freedLate:
				ending++
			case slices.ContainsFunc(t.excuses, func(e excuse) bool {
				return e.node == x.node && x.from <= e.at && e.at <= at && at <= e.until
			}):
				beyond[x.node]++
			}
		}
		excused := 0
		for _, n := range beyond {
			excused += max(0, n-floor)
		}
		p.excused = max(p.excused, excused)
		p.late = max(p.late, min(ending, len(open)-limit-excused))
		if over := len(open) - limit - excused - ending; over > p.over {
			p.over, p.overAt = over, at
			p.overWho = fmt.Sprint(who)
		}
	}
	return p
}

// csv lists all connections.
func (t *traffic) csv() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := []byte("receiver,node,from,to,turned_away\n")
	for _, c := range t.list {
		to := ""
		if c.to < math.MaxInt64 {
			to = fmt.Sprintf("%.3f", c.to.Seconds())
		}
		b = fmt.Appendf(b, "%s,%s,%.3f,%s,%v\n", c.receiver, c.node, c.from.Seconds(), to, c.turnedAway)
	}
	return b
}
