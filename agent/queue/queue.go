// Package queue owns the waiting: which recipients wait for which destination,
// which sessions wait for work, and when a deferred recipient is due again. It
// does no I/O and no DNS; everything happens under one mutex, in memory.
//
// # Words
//
// A recipient waits in a lane, first in, first out, for one (stream, domain, from): from.go
// says what the last is.
// A domain that has been routed belongs to a destination (one MX set, port, TLS
// policy and source address), and so do its lanes; when the route of a domain
// changes, its lanes move, not their entries. A destination belongs to a site,
// the unit of limits, which has one elastic.Site while anything is known of it. An address
// has one row in the table of slots, whoever's mail leads there. Streams share a destination
// by deficit round robin.
//
// # The sequence of calls
//
// Add brings a message in. For a domain not seen before the queue calls
// Options.Resolve, which must return at once; some time later the answer comes
// with Routed, or the domain's mail is taken out with Claim and settled, or Unrouted asks for
// a later try. When a site wants one more session the queue calls
// Options.Launch, which starts a goroutine and returns. That goroutine connects
// without holding any mail, says Opened, and then calls Step again and again:
// each call settles the last transaction and returns the next, or stands on the
// destination's ready list until there is one. Every session ends with Leave,
// also one that never came up; what it had taken and not settled goes back to the
// head of its lane. A session whose connect takes long asks MayKeepConnecting
// whether it may go on. An outcome that takes longer does not hold the session up: the
// owner settles the recipient as Pending for now, and says more with Settle. Close makes
// every Step return ErrClosed.
//
// Where no session comes up, Overdue takes out what a failed look-up or connect found
// past its age. One that failed for reasons of our own does not count: Unasked says so in
// place of Unrouted, and Session.Untried before Leave.
//
// An admin's hand: List shows what waits, Take takes some of it out to be settled
// otherwise, Hasten makes it due. EachSite lists the sites by pages, as every look at all of
// something goes (walk.go), and says of each whether it gets less than it could, and why
// (heldback.go); Explain tells all of one. SetPauses stops what goes somewhere or belongs to a
// stream, lane by lane; Pause stops single messages. SetPriority and SetLimits
// change how fast the rest goes.
//
// Memory: messages and recipients are pointer-free records in slabs, about 64
// bytes for a message with one recipient; addresses and content stay on disk.
package queue

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/slots"
	"github.com/millrace/millrace/agent/spool"
)

// Options are what a queue needs from its owner.
type Options struct {
	// Resolve is called when the route to a domain is wanted (RouteName), with the mutex
	// held: it must not block and not call the queue.
	Resolve func(name string)
	// Launch is called for each new session, with the mutex held, likewise.
	Launch func(*Session)
	// From says what the mail to a recipient leaves from, where the journal does not: a
	// pools.From, or "". It is called with the mutex held, likewise; nil says nothing.
	From func(e *spool.Envelope, recipient int, domain string) string
	// Known says whether all recipients of a message took mail from this host before. It is
	// called without the mutex, and must not wait; nil: nobody knows.
	Known func(e *spool.Envelope) bool
	// Relay is the pseudo domain (RelayDomain of the hand-back relay) where
	// reports and handed-back recipients wait.
	Relay string
	// MaxSessions bounds the sessions of all sites together.
	MaxSessions int
	// Lender bounds limits that are shared with other nodes; nil: this host is of no fleet, and
	// they are its own. Shared names the limit that a route's site shares, "": none; it is called
	// with the mutex held, likewise.
	Lender Lender
	Shared func(*Route) string
	// Idle is how long a session stands on the ready list before it is closed; 0: 10 s.
	Idle time.Duration
}

// RelayDomain names the lanes of mail that goes to a fixed relay ("host:port", or
// "unix:/path" of a socket) instead of its own domain's hosts. No real domain has a colon.
func RelayDomain(relay string) string { return "relay:" + relay }

// Errors of Step.
var (
	// ErrRetire tells a session to say QUIT and Leave: it is idle, or one too
	// many, or has sent its share.
	ErrRetire = errors.New("session is not needed any more")
	// ErrClosed: the agent stops.
	ErrClosed = errors.New("queue is closed")
)

// Queue holds everything that waits. All methods may be called concurrently.
type Queue struct {
	o Options

	mu      sync.Mutex
	closed  bool
	drained chan struct{} // closed when the last session has left a closed queue
	pulses  chan chan struct{}

	messages   slab[message]
	recipients slab[recipient]
	streams    names
	priorities map[string]int // of streams that have any
	pauses     []Pause
	limited    []*limited // streams
	coldGates  *limited   // where mail waits that no [[stream]] limits, at addresses that warm up
	overflowed []Job      // taken, for the host MTA
	knocking   []*limited // of these, where flows have come to a gate
	limits     []Limit
	reasons    names
	domains    map[string]*domain
	froms      map[string][]*domain // by their domain, those of which it is said what they leave from
	lanes      map[laneKey]*lane
	expected   map[spool.ID]struct{}
	laneByNo   slab[*lane]
	domainByNo slab[*domain]
	dests      map[string]*destination
	destByNo   slab[*destination]
	sites      map[string]*site
	receivers  map[string]*receiverSites
	loans      map[string]*loan
	borrowing  []*loan // that want, or have, more than their floor
	siteByNo   slab[*site]
	table      *slots.Table               // of the addresses
	crowds     map[*slots.Address][]*site // that wait for a slot there which another site holds
	recalled   map[string]LearnedSite     // of sites that have had no mail since the start
	likeAll    *elastic.Site              // of newcomer
	strangers  map[*slots.Address]*strangers
	holders    map[*slots.Address]*site // that goes there from a source of the pool, or began the last connect
	sources    []netip.Addr             // of these
	spare      *Session                 // for the next connect
	scratch    []elastic.Candidate

	timers         timers
	due            map[uint32]*bucket // unix second / bucketSeconds -> deferred recipients
	kick           chan struct{}      // has Run look at the timers again
	idle           ring[*Session]     // all ready sessions, longest waiting first
	changed        []*lane            // that got mail in this turn under the mutex
	waitingForSlot ring[*site]        // sites where something was up, and which wanted a session when max_sessions was reached
	quick          connectBudget      // to sites where nothing is known to be up
	slow           connectBudget      // to those of them whose last connect hung

	sessions int // opening and live, all sites
	retiring int // told to retire, not yet gone
	deferred int // recipients in buckets
	waiting  int // recipients in lanes
	active   int // recipients taken by a session or Claim
	stuck    int // recipients that the hand-back relay refused, wherever they are
	held     int // recipients on hold or paused
}

// message is one message with recipients that are not done.
type message struct {
	id      spool.ID
	size    uint32 // octets, saturated
	born    uint32 // unix seconds
	pending uint32 // recipients not final
	stream  uint16 // in Queue.streams, which has fewer
	paused  bool   // what is not on its way home stays parked
	known   bool   // Options.Known
}

// recipient is one recipient that is not done, or a place left behind by one
// that was taken out of the middle of a list.
type recipient struct {
	message uint32 // 0: a place left behind
	ordinal uint32
	next    uint32 // in its lane, its bucket or the free list
	lane    uint32
	due     uint32 // unix seconds; past when it is not deferred: in a lane, since when it waits there
	reason  uint32
	tries   uint16
	stuck   bool // counted in Queue.stuck
	state   place
}

// place says which list a recipient is on.
type place uint8

const (
	inLane   place = iota
	inBucket       // deferred
	taken          // by a session or Claim
	onHold         // on no list, until an admin releases it
	parked         // on no list, as its message is paused
)

// Handle names a recipient inside the queue while it is taken.
type Handle uint32

// Item is one recipient of a job.
type Item struct {
	Handle  Handle
	Ordinal uint32 // index in spool.Envelope.Recipients
	Tries   int    // transactions before this one
}

// Job is one transaction: recipients of one message in one domain (or for one relay).
type Job struct {
	ID     spool.ID
	Domain string
	From   string // what they leave from, as far as that is told (from.go)
	Born   time.Time
	Items  []Item // valid until the next call of Step or Leave by the same session
}

// Settled is what became of one item of a job.
type Settled struct {
	Handle Handle
	How    How
	// State is the outcome, as the journal has it, if it is Decided or ToHost: final, or
	// queued again for Due. For FromElsewhere From alone counts.
	State spool.State
}

// How says what a recipient is to do in the queue.
type How uint8

// What a settled recipient does.
const (
	Decided       How = iota // it leaves, or waits for its next try, as State says
	ToHost                   // it waits in the lane of the hand-back relay
	Pending                  // it stays taken: the owner says more by Settle
	Untried                  // it goes back to the head of its lane, uncounted
	FromElsewhere            // it goes into the lane of what it leaves from by now, uncounted
	Held                     // it stays on hold until it is settled with Released, uncounted
	Released                 // it goes back where it was, or would be if it had not been held, uncounted
)

// New returns an empty queue. Run must be running for deferred mail and paced
// sites to move.
func New(o Options) *Queue {
	if o.Idle == 0 {
		o.Idle = 10 * time.Second
	}
	q := &Queue{
		o:        o,
		domains:  make(map[string]*domain),
		froms:    make(map[string][]*domain),
		lanes:    make(map[laneKey]*lane),
		expected: make(map[spool.ID]struct{}),

		priorities: make(map[string]int),
		dests:      make(map[string]*destination),
		sites:      make(map[string]*site),
		receivers:  make(map[string]*receiverSites),
		loans:      make(map[string]*loan),
		table:      slots.NewTable(maxRows),
		crowds:     make(map[*slots.Address][]*site),
		strangers:  make(map[*slots.Address]*strangers),
		holders:    make(map[*slots.Address]*site),
		recalled:   make(map[string]LearnedSite),
		due:        make(map[uint32]*bucket),
		kick:       make(chan struct{}, 1),
		drained:    make(chan struct{}),
		pulses:     make(chan chan struct{}),
		reasons:    names{limit: maxReasons},
	}
	q.coldGates = &limited{gates: make(map[gateKey]*gate)}
	q.streams = names{limit: maxStreams, pastLimit: q.sharedStream}
	return q
}

// maxRows is how many addresses are remembered beside those in use.
const maxRows = 10_000

// Run serves the timers (retries, probes, pace) until ctx ends.
func (q *Queue) Run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var asked chan struct{}
	for {
		q.mu.Lock()
		next := q.runTimers(time.Now())
		q.mu.Unlock()
		if asked != nil {
			close(asked)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-q.kick:
			asked = nil
		case <-timer.C:
			asked = nil
		case asked = <-q.pulses:
		}
	}
}

// Pulse waits until the timers have been gone through once more: the mutex is free
// then, and the timer goroutine lives. The error is that of ctx.
func (q *Queue) Pulse(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case q.pulses <- done:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return nil
	}
}

// Expect tells of a message that is in the spool and that Add will bring. It
// counts as waiting until then, as one recipient: whoever asks whether all mail
// has left must not be told yes in between.
func (q *Queue) Expect(id spool.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expected[id] = struct{}{}
}

// Add takes a message in: those of its recipients whose state is not final.
// domains[i] is the domain of recipient i, lower case, or "" for the relay;
// states may be nil (all fresh). A paused message is one that Pause would be called for.
func (q *Queue) Add(id spool.ID, e *spool.Envelope, domains []string, states []spool.State, paused bool) {
	now := time.Now()
	known := q.o.Known != nil && q.o.Known(e)
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.expected, id)
	m, msg := q.messages.take()
	*msg = message{
		id:     id,
		size:   uint32(min(e.Size, 1<<32-1)),
		born:   seconds(e.Arrived),
		stream: uint16(q.streams.ref(e.Stream)),
		paused: paused,
		known:  known,
	}
	for i := range e.Recipients {
		var st spool.State
		if states != nil {
			st = states[i]
		}
		if st.Status.Final() {
			continue
		}
		name := domains[i]
		if name == "" || st.Handback || e.Origin == spool.Report {
			name = q.o.Relay
		}
		if name != q.o.Relay {
			from := st.From
			if from == "" && q.o.From != nil {
				from = q.o.From(e, i, name)
			}
			name = RouteName(name, from)
		}
		l := q.lane(uint32(msg.stream), name, now)
		r, rec := q.recipients.take()
		*rec = recipient{
			message: m, ordinal: uint32(i), lane: l.no,
			tries: st.Tries, due: seconds(st.Due), reason: q.reasons.ref(st.Reply),
		}
		q.setStuck(rec, st.Stuck)
		l.refs++
		msg.pending++
		if st.Held {
			q.park(rec, onHold)
		} else {
			q.put(r, rec, st.Due, now)
		}
	}
	if msg.pending == 0 {
		q.streams.unref(uint32(msg.stream))
		q.messages.free(m)
	}
	q.serveChanged(now)
}

// settle applies one outcome. The recipient must be taken.
func (q *Queue) settle(s Settled, now time.Time) {
	if s.How == Pending {
		return // the owner may have settled it already: its place may be another's
	}
	rec := q.recipients.at(uint32(s.Handle))
	if rec.state != taken {
		return // settled twice: the first one counts
	}
	q.active--
	switch s.How {
	case Held:
		q.park(rec, onHold)
		return
	case Released:
		q.put(uint32(s.Handle), rec, moment(rec.due), now)
		return
	case Untried:
		if q.isPaused(rec) {
			q.park(rec, parked)
		} else {
			q.pushFront(*q.laneByNo.at(rec.lane), uint32(s.Handle), rec)
		}
		return
	}
	st := &s.State
	if s.How == FromElsewhere {
		q.moveLane(rec, RouteName((*q.laneByNo.at(rec.lane)).domain.domain(), st.From), now)
		q.put(uint32(s.Handle), rec, now, now)
		return
	}
	if st.Status.Final() {
		q.remove(uint32(s.Handle), rec)
		return
	}
	q.reasons.unref(rec.reason)
	rec.reason = q.reasons.ref(st.Reply)
	q.setStuck(rec, st.Stuck)
	if rec.tries < 1<<16-1 {
		rec.tries++
	}
	if s.How == ToHost {
		q.moveLane(rec, q.o.Relay, now)
		rec.tries = 0
	} else {
		q.leaveFrom(rec, st.From, now)
	}
	rec.due = seconds(st.Due)
	q.put(uint32(s.Handle), rec, st.Due, now)
}

// moveLane gives a taken recipient to the lane of its stream and another route.
func (q *Queue) moveLane(rec *recipient, name string, now time.Time) {
	old := *q.laneByNo.at(rec.lane)
	l := q.lane(uint32(q.messages.at(rec.message).stream), name, now)
	l.refs++
	rec.lane = l.no
	q.unref(old)
}

// put gives a recipient that is on no list its place. A lane it comes to is
// served with the touched ones.
func (q *Queue) put(r uint32, rec *recipient, due, now time.Time) {
	switch {
	case q.isPaused(rec):
		q.park(rec, parked)
	case due.After(now):
		q.postpone(r, rec, due, now)
	default:
		l := *q.laneByNo.at(rec.lane)
		q.push(l, r, rec, now)
		q.markChanged(l)
	}
}

// park parks a recipient that is on no list.
func (q *Queue) park(rec *recipient, p place) {
	rec.state, rec.next = p, 0
	q.held++
}

func (q *Queue) setStuck(rec *recipient, stuck bool) {
	if stuck && !rec.stuck {
		q.stuck++
	} else if rec.stuck && !stuck {
		q.stuck--
	}
	rec.stuck = stuck
}

// remove forgets a recipient that is done.
func (q *Queue) remove(r uint32, rec *recipient) {
	q.setStuck(rec, false)
	l := *q.laneByNo.at(rec.lane)
	q.reasons.unref(rec.reason)
	m := rec.message
	q.recipients.free(r)
	q.unref(l)
	msg := q.messages.at(m)
	msg.pending--
	if msg.pending == 0 {
		q.streams.unref(uint32(msg.stream))
		q.messages.free(m)
	}
}

// Settle applies outcomes of a job from Claim, Take or Overdue, or of recipients
// that were kept.
func (q *Queue) Settle(done []Settled) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range done {
		q.settle(s, now)
	}
	q.serveChanged(now)
}

// Queued returns the number of recipients that are not done.
func (q *Queue) Queued() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int64(q.waiting + q.deferred + q.active + q.held)
}

// Close makes every Step return ErrClosed, once its transaction is settled, and
// waits until every session has left or ctx ends.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		for s, ok := q.idle.first(); ok; s, ok = q.idle.first() {
			q.unready(s)
			q.retire(s)
			s.wake <- wakeClosed
		}
		if q.sessions == 0 {
			close(q.drained)
		}
	}
	q.mu.Unlock()
	select {
	case <-q.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func seconds(t time.Time) uint32 { return uint32(max(t.Unix(), 0)) }

func moment(s uint32) time.Time { return time.Unix(int64(s), 0) }
