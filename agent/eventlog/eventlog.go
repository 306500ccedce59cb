// Package eventlog is the agent's own log of events: what became of each recipient in
// each attempt, kept for those who read it later in this program, above all for package
// outcomes. It is apart from the file of [events], which is the admin's.
//
// A Log owns a directory of numbered segments. Delivery appends an event to memory and
// never waits; one goroutine writes. A Cursor is a place in the log. Read returns what
// comes after one, and its reader keeps the Cursor wherever it keeps what it made of the
// events, so that both are written at once or not at all.
//
// # The files
//
// A segment is called 00000000000000a1.log, by its number in hexadecimal. It begins with
// a header: the magic "mrevent1", its number, the sequence number of its first event
// (8 octets each, little endian) and a CRC-32C of these (4). Then come records: the
// length of the payload and its CRC-32C (4 octets each), and the payload (record.go). Numbers
// are never used twice, not even when all segments are gone: Options.After tells
// the highest one that a reader remembers.
//
// # Order of writes and syncs
//
// An event is in the journal of the spool before it comes here. It waits in memory for
// at most a tenth of a second, then it is written, and not synced: who reads the log wants to
// know what became of mail, and nothing that decides about mail does. So kill -9 loses a
// tenth of a second of events (more only while the disk stalls), power loss about the last
// half minute. Of a new segment the header is synced, and its name, before an event is
// written to it: a number that a reader has seen outlives power loss.
//
// A program that starts begins a segment of its own. It never goes on in an old one,
// since a reader's cursor, which is synced, may be beyond what power loss has left of it.
// Of the old one a torn tail is cut. A segment that ends early, or has a record
// that cannot be read, or is not there any more, is left at that place, and the reader goes
// on with the next one; by the sequence numbers it knows how many events it has missed. If
// that is the one which is written to, the writer begins another one.
//
// # Bounds
//
// Segments go, the oldest first, once all of them take more than MaxSize or one was
// written for the last time MaxAge ago, read or not. When memory is full, because the disk stalls
// or is full, events are lost and counted, and a record of the kind Gap stands in their
// place.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/spool"
)

const (
	// bufferSize is how many octets wait for a disk that stalls: some 80,000 events.
	bufferSize = 16 << 20
	// writeEvery is the time from one write to the next. Woken for each event, the writer
	// would cost as much as the event itself.
	writeEvery = 100 * time.Millisecond
	// retryEvery is the time between tries to write what could not be written.
	retryEvery = time.Second

	// DefaultSegmentSize and DefaultMaxSize are in octets: of a segment, and of all. An
	// event takes some 200, so the log reaches back more than a million of them.
	DefaultSegmentSize = 16 << 20
	DefaultMaxSize     = 256 << 20
	// DefaultMaxAge is long enough to make a day's outcomes anew.
	DefaultMaxAge = 48 * time.Hour
)

// Recipients says how addresses of recipients stand in the log.
type Recipients struct {
	// Hash is the keyed hash of an address; nil: addresses stand there as they are.
	Hash func(address string) int64
	// None leaves them out.
	None bool
}

// Options are what a Log works with.
type Options struct {
	Dir string // made if need be
	Log *slog.Logger
	// After is the highest number of a segment that a reader remembers.
	After      uint64
	Recipients Recipients

	SegmentSize, MaxSize int64         // octets; 0: the defaults
	MaxAge               time.Duration // 0: the default

	// Room returns an error when the file system is to have no more of us; nil: it may have.
	// Without room no segment is begun, and the oldest go.
	Room func() error
}

// Log is open for events until Close. Its methods may be called by many goroutines.
type Log struct {
	o       Options
	to      atomic.Pointer[Recipients]
	spoiled atomic.Uint64 // number of a segment that a reader could not read to its end

	mu      sync.Mutex
	buf     []byte // whole records, not yet taken by the writer
	count   uint64 // of these
	held    int    // octets that the writer has taken and not yet written
	lost    uint64 // events since the buffer was full, not yet told by a gap
	from    time.Time
	until   time.Time
	gone    uint64 // events lost ever
	trouble string // why nothing is written; "" if all is well

	filesMu  sync.Mutex
	segments []segment // oldest first; the last one is written to, if it is open

	wake    chan struct{}
	orders  chan func(*writer) // run by the writer, between two writes
	stop    context.CancelFunc
	stopped chan struct{}
}

// Open starts the writer. A directory that cannot be used is told by Trouble, and tried
// again: no mail waits for it.
func Open(o Options) *Log {
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.MaxAge == 0 {
		o.MaxAge = DefaultMaxAge
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Log{
		o: o, wake: make(chan struct{}, 1), orders: make(chan func(*writer)), stop: stop, stopped: make(chan struct{}),
	}
	l.Use(o.Recipients)
	w := &writer{log: l}
	if err := w.begin(); err != nil {
		l.wrote(0, err)
	}
	go w.run(ctx)
	return l
}

// Use says how recipients of later events stand in the log.
func (l *Log) Use(r Recipients) { l.to.Store(&r) }

// Delivery implements event.Listener.
func (l *Log) Delivery(d *event.Delivery) {
	word := d.Status.Event()
	if word == "" {
		return // nothing was tried
	}
	r := Record{
		Time: d.Time, Event: word, ID: d.ID, Ordinal: d.Ordinal, Recipient: d.Recipient(), Domain: d.Domain, Queue: d.Queue, Site: d.Site,
		Tries: d.Tries, Class: d.Class.String(), Hard: d.Hard, Rule: d.Rule, Code: d.Code, Enhanced: d.Enhanced, Reply: d.Reason, Due: d.Due,
	}
	if d.Relay != "none" {
		r.Relay = d.Relay
	}
	if e := d.Envelope; e != nil {
		r.QueueID, r.Stream, r.Report = e.QueueID, e.Stream, e.Origin == spool.Report
	}
	l.Add(&r)
}

// Add appends an event of any kind; Recipient is the plain address. Add never waits. When the
// buffer is full the event is lost, counted, and told of by a gap.
func (l *Log) Add(r *Record) {
	switch to := l.to.Load(); {
	case r.Recipient == "":
	case to.None:
		r.Reply = maillog.HiddenIn(r.Reply, r.Recipient)
		r.Recipient = ""
	case to.Hash != nil:
		r.Reply = maillog.HiddenIn(r.Reply, r.Recipient)
		r.Recipient, r.Hash = "", to.Hash(r.Recipient)
	}
	r.Reply = r.Reply[:min(len(r.Reply), maxReply)]
	l.mu.Lock()
	defer l.mu.Unlock()
	// Once one was lost all are until the gap is told, so that it stands in its place.
	if l.lost > 0 || len(l.buf)+l.held >= bufferSize {
		if l.lost == 0 {
			l.from = r.Time
			l.o.Log.Error("events of outcomes are lost: the disk does not keep up", "directory", l.o.Dir)
		}
		l.lost++
		l.gone++
		l.until = r.Time
		return
	}
	first := len(l.buf) == 0
	l.buf = appendRecord(l.buf, r)
	l.count++
	if first {
		l.nudge()
	}
}

// nudge wakes the writer. Callers hold mu.
func (l *Log) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take moves what waits to the writer. If there is a gap its record comes last: once all
// that the writer had is written, for until then the gap may grow.
func (l *Log) take(pending []byte) (_ []byte, count uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := len(pending) == 0
	pending = append(pending, l.buf...)
	count = l.count
	l.buf, l.count = l.buf[:0], 0
	if cap(l.buf) > bufferSize/8 {
		l.buf = nil // a stall is over; do not keep its memory
	}
	if l.lost > 0 && over {
		pending = appendRecord(pending, &Record{Time: l.from, Event: Gap, Due: l.until, Lost: l.lost})
		count++
		l.o.Log.Error("events of outcomes were lost", "directory", l.o.Dir, "events", l.lost, "from", l.from, "until", l.until)
		l.lost = 0
	}
	l.held = len(pending)
	return pending, count
}

// wrote tells how many octets the writer still holds, and how it fares.
func (l *Log) wrote(held int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	if held == 0 && l.lost > 0 {
		l.nudge() // nobody else may come to have the gap told
	}
	before := l.trouble
	l.trouble = ""
	if err != nil {
		l.trouble = err.Error()
	}
	switch {
	case err != nil && before == "":
		l.o.Log.Error("cannot write the log of events; they wait in memory", "directory", l.o.Dir, "err", err)
	case err == nil && before != "":
		l.o.Log.Info("the log of events is written again", "directory", l.o.Dir)
	}
}

// Lost is how many events were lost, since the start, for want of memory.
func (l *Log) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// Trouble says why no events can be written, "" if they can.
func (l *Log) Trouble() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// Size is how many octets the segments take.
func (l *Log) Size() (n int64) {
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	for i := range l.segments {
		n += l.segments[i].size
	}
	return n
}

// Flush has all events that came before written; it returns when they are, or cannot be.
func (l *Log) Flush(ctx context.Context) error {
	return l.order(ctx, func(w *writer) error { return w.work() })
}

// order has the writer run f, and waits for it.
func (l *Log) order(ctx context.Context, f func(*writer) error) error {
	done := make(chan error, 1)
	select {
	case l.orders <- func(w *writer) { done <- f(w) }:
	case <-l.stopped:
		return errors.New("the log of events is closed")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close writes what waits, and gives up when ctx ends: a disk that stalls cannot be
// interrupted.
func (l *Log) Close(ctx context.Context) error {
	l.stop()
	select {
	case <-l.stopped:
		if why := l.Trouble(); why != "" {
			return fmt.Errorf("log of events: the last ones are not written: %s", why)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("log of events: the disk stalls; events in memory are not written: %w", context.Cause(ctx))
	}
}
