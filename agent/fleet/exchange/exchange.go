// Package exchange brings the orders of a fleet (package order) to all its nodes: by a store, which
// is Valkey or Redis, and directly from node to node where they can call each other.
//
// The store has a stream, millrace:{fleet}:orders, which each node reads with XREAD BLOCK, so that
// an order is everywhere at once; and a hash, millrace:{fleet}:reports, in which each node says
// every Every what it has (order.Report). From these reports each sees what another lacks, and adds
// that to the stream again: a store that is new, came back as an old copy, or trims its stream, is
// filled by the nodes, and a node that begins anew gets all that stands. Nothing is believed
// because it stands in the store: orders and reports are signed.
//
// The calls: New, then Run until its context ends; Take for what another node sends directly (the
// body of a request), Spread for who has confirmed an order.
package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/agent/fleet/order"
)

const (
	// Every is how often a node reports, and looks at the reports of others.
	Every = 5 * time.Second
	// debounce is how long a change waits for others that come with it.
	debounce = 20 * time.Millisecond
	// firstGap is how long a node must have lacked something by its reports before that is sent
	// again: the report may be older than what is on its way. The gap doubles up to lastGap
	// while that does not help, as with a node that cannot take it.
	firstGap = 4 * time.Second
	lastGap  = 5 * time.Minute
	// most is how many orders are sent at a time.
	most = 200
	// retryAfter is the time between tries while the store is away.
	retryAfter = time.Second
	// sendTimeout bounds a call of another node.
	sendTimeout = 2 * time.Second
	// aloneAfter is how long the store must be away before reports go to the nodes directly.
	aloneAfter = 2 * Every
)

// Options are what an Exchange works with.
type Options struct {
	Log   *order.Log
	Fleet string
	// Client is of the store; nil: orders go from node to node only. A blocking read keeps one
	// of its connections, so its pool must have more than one. Run closes it at its end.
	Client redis.UniversalClient
	Logger *slog.Logger
	// Plain puts an error of the store into one line, with its remedy; nil: it stays as it is.
	Plain func(error) error
	// Position says how far this node's spool is filled (spool.Position); nil: it is not told, and
	// no cancel reaches this node.
	Position func() string
	// Address is where this node answers others; "": nowhere.
	Address string
	// Members are the names of the nodes; nil: those that have reported.
	Members func() []string
	// Send posts a body to another node, whose Take answers; nil: nodes cannot call each other.
	Send func(ctx context.Context, node string, body []byte) (answer []byte, err error)
	now  func() time.Time // nil: time.Now
}

// Exchange carries orders. Its methods may be called by many goroutines.
type Exchange struct {
	o     Options
	store store // nil: none

	mu       sync.Mutex
	inStore  order.Known // what was seen in the stream, or put there, since it was read from its start
	last     string      // id of the entry of the stream that was read last
	lacking  map[string]lack
	sending  map[string]bool
	state    string         // "": the store does all; else as in answered
	away     error          // why it did not answer the last call; nil: it did
	refused  map[call]error // what it last answered to calls that it does not do
	reached  time.Time      // when the store last answered
	direct   time.Time      // when reports last went directly
	starting bool
}

// lack is that of a node, by its reports.
type lack struct {
	since time.Time
	gap   time.Duration
}

// New returns an Exchange.
func New(o Options) *Exchange {
	if o.now == nil {
		o.now = time.Now
	}
	if o.Plain == nil {
		o.Plain = func(err error) error { return err }
	}
	x := &Exchange{o: o, inStore: make(order.Known), last: begin, lacking: make(map[string]lack), sending: make(map[string]bool), refused: make(map[call]error), starting: true}
	if o.Client != nil {
		x.store = &valkey{client: o.Client, orders: "millrace:{" + o.Fleet + "}:orders", reports: "millrace:{" + o.Fleet + "}:reports", check: "millrace:{" + o.Fleet + "}:check"}
	}
	return x
}

// Run carries orders until ctx ends.
func (x *Exchange) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	if x.o.Client != nil {
		// A read that waits for what comes next looks at no context: the end of its connection ends it.
		defer context.AfterFunc(ctx, func() { x.o.Client.Close() })() // it can say only that it was closed
	}
	if x.store != nil {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := x.follow(ctx); err != nil {
					wait(ctx, retryAfter)
				}
			}
		})
	}
	changes := x.o.Log.Changes()
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		x.turn(ctx)
		x.sendAll(ctx, &all)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changes:
			wait(ctx, debounce)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow reads what is new in the stream, and waits for some. A stream that ends before what was
// read last is another one: it is read from its start, and what it lacks of ours is added.
func (x *Exchange) follow(ctx context.Context) error {
	x.mu.Lock()
	after := x.last
	x.mu.Unlock()
	lines, last, err := x.store.read(ctx, after)
	if x.answered(ctx, callRead, err); err != nil {
		return err
	}
	if len(lines) == 0 {
		end, err := x.store.end(ctx)
		if x.answered(ctx, callEnd, err); err != nil {
			return err
		}
		if before(end, after) {
			x.mu.Lock()
			x.last, x.inStore = begin, make(order.Known)
			x.mu.Unlock()
			x.publish(ctx)
		}
		return nil
	}
	// Disk trouble is in Log.Trouble; the orders are in force.
	_, _ = x.o.Log.TakeAll(lines)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = last
	for _, line := range lines {
		if id, ok := order.IDOf(line); ok && x.o.Log.Has(id) { // not what a store makes up
			x.inStore.Add(id)
		}
	}
	return nil
}

// turn adds to the stream what it lacks, reports, and sees to what others lack by their reports.
func (x *Exchange) turn(ctx context.Context) {
	if x.store == nil {
		x.o.Log.Expire()
		return
	}
	ctx, done := context.WithTimeout(ctx, Every)
	defer done()
	for _, step := range []func(context.Context) error{x.publish, x.mayAdd, x.report, x.pull} {
		if step(ctx) != nil && !x.answers() {
			return // a store that refuses one may do the others
		}
	}
	for node, r := range x.o.Log.Reports() {
		if lines := x.due(node, r); len(lines) > 0 {
			if x.add(ctx, lines) != nil {
				return
			}
		}
	}
}

// mayAdd asks whether the store lets this node add: an admin must hear that it does not before there
// is an order, and of its end when there is none any more.
func (x *Exchange) mayAdd(ctx context.Context) error { return x.add(ctx, nil) }

// publish adds our own orders to the stream that were not seen there.
func (x *Exchange) publish(ctx context.Context) error {
	for {
		x.mu.Lock()
		lines := x.o.Log.Lacking(&order.Report{Known: x.inStore}, true, most)
		x.mu.Unlock()
		if len(lines) == 0 {
			return nil
		}
		if err := x.add(ctx, lines); err != nil {
			return err
		}
	}
}

func (x *Exchange) add(ctx context.Context, lines [][]byte) error {
	err := x.store.add(ctx, lines)
	if x.answered(ctx, callAdd, err); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, line := range lines {
		if id, ok := order.IDOf(line); ok && x.o.Log.Has(id) { // not what a store makes up
			x.inStore.Add(id)
		}
	}
	return nil
}

func (x *Exchange) report(ctx context.Context) error {
	line, err := x.ownReport()
	if err == nil {
		err = x.store.report(ctx, x.o.Log.Node(), line)
		x.answered(ctx, callReport, err)
	}
	return err
}

func (x *Exchange) ownReport() ([]byte, error) {
	position := ""
	if x.o.Position != nil {
		position = x.o.Position()
	}
	return x.o.Log.Report(position, x.o.Address)
}

// pull takes the reports of the others.
func (x *Exchange) pull(ctx context.Context) error {
	list, err := x.store.list(ctx)
	x.answered(ctx, callList, err)
	for _, line := range list {
		_ = x.o.Log.TakeReport(line) // counted and told
	}
	return err
}

// due is what a node has lacked for so long that it is sent again.
func (x *Exchange) due(node string, r *order.Report) [][]byte {
	lines := x.o.Log.Lacking(r, false, most)
	now := x.o.now()
	x.mu.Lock()
	defer x.mu.Unlock()
	l, is := x.lacking[node]
	switch {
	case len(lines) == 0:
		delete(x.lacking, node)
	case !is:
		x.lacking[node] = lack{now, firstGap}
	case now.Sub(l.since) >= l.gap:
		x.lacking[node] = lack{now, min(2*l.gap, lastGap)}
		return lines
	}
	return nil
}

// sendAll calls the other nodes: with our orders that they lack, at once; with those of others
// after a time; with a report alone where the store is away.
func (x *Exchange) sendAll(ctx context.Context, all *sync.WaitGroup) {
	if x.o.Send == nil {
		return
	}
	now := x.o.now()
	x.mu.Lock()
	alone := x.starting || now.Sub(x.reached) > aloneAfter && now.Sub(x.direct) > aloneAfter
	if alone {
		x.direct, x.starting = now, false
	}
	x.mu.Unlock()
	reports := x.o.Log.Reports()
	for _, node := range x.members() {
		r := reports[node]
		if r == nil {
			r = &order.Report{}
		}
		lines := x.o.Log.Lacking(r, true, most)
		if x.store == nil || alone {
			lines = x.o.Log.Lacking(r, false, most)
		}
		if len(lines) == 0 && !alone {
			continue
		}
		x.mu.Lock()
		busy := x.sending[node]
		x.sending[node] = true
		x.mu.Unlock()
		if busy {
			continue
		}
		all.Go(func() {
			x.send(ctx, node, lines)
			x.mu.Lock()
			defer x.mu.Unlock()
			delete(x.sending, node)
		})
	}
}

// send calls one node. Whether it was reached is seen by its report.
func (x *Exchange) send(ctx context.Context, node string, lines [][]byte) {
	ctx, done := context.WithTimeout(ctx, sendTimeout)
	defer done()
	report, err := x.ownReport()
	if err != nil {
		return
	}
	body, err := json.Marshal(message{Orders: raw(lines), Report: report})
	if err != nil {
		return
	}
	answer, err := x.o.Send(ctx, node, body)
	if err != nil {
		x.o.Logger.Debug("fleet: an order could not be brought directly", "node", node, "err", err)
		return
	}
	_ = x.o.Log.TakeReport(answer) // counted and told
}

// message is what a node sends to another.
type message struct {
	Orders []json.RawMessage `json:"orders"`
	Report json.RawMessage   `json:"report"`
}

func raw(lines [][]byte) (list []json.RawMessage) {
	for _, line := range lines {
		list = append(list, line)
	}
	return list
}

// MaxMessage bounds the octets of what a node sends to another.
const MaxMessage = most*order.MaxSize + 4<<20

// Take takes what another node has sent directly, and returns the answer: the report of this node.
// Who has sent it need not be known, as all of it is signed; but only members should be let in.
func (x *Exchange) Take(body []byte) (answer []byte, err error) {
	var m message
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	var lines [][]byte
	for _, line := range m.Orders {
		lines = append(lines, line)
	}
	_, _ = x.o.Log.TakeAll(lines) // disk trouble is in Log.Trouble; the orders are in force
	if len(m.Report) > 0 {
		_ = x.o.Log.TakeReport(m.Report)
	}
	return x.ownReport()
}

// members are the other nodes.
func (x *Exchange) members() (list []string) {
	if x.o.Members != nil {
		list = slices.Clone(x.o.Members())
	} else {
		for node := range x.o.Log.Reports() {
			list = append(list, node)
		}
	}
	list = slices.DeleteFunc(list, func(node string) bool { return node == x.o.Log.Node() })
	slices.Sort(list)
	return list
}

// IsMember reports whether a node belongs to the fleet now: by its certificate alone, if nobody says
// who the members are.
func (x *Exchange) IsMember(node string) bool {
	return x.o.Members == nil || node == x.o.Log.Node() || slices.Contains(x.o.Members(), node)
}

// Spread is who has an order.
type Spread struct {
	Confirmed []string // this node too
	Missing   []string
}

// Spread waits until all nodes have said that they have all orders that this node has issued up
// to now, or ctx ends, and says who has.
func (x *Exchange) Spread(ctx context.Context) (s Spread) {
	for {
		s = Spread{Confirmed: []string{x.o.Log.Node()}}
		reports := x.o.Log.Reports()
		for _, node := range x.members() {
			if r := reports[node]; r != nil && len(x.o.Log.Lacking(r, true, 1)) == 0 {
				s.Confirmed = append(s.Confirmed, node)
			} else {
				s.Missing = append(s.Missing, node)
			}
		}
		if len(s.Missing) == 0 || ctx.Err() != nil {
			return s
		}
		wait(ctx, 50*time.Millisecond)
		if x.store != nil && ctx.Err() == nil {
			_ = x.pull(ctx) // told
		}
	}
}
