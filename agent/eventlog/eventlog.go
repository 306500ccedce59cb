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
	buffer  *event.Buffer
	to      atomic.Pointer[Recipients]
	spoiled atomic.Uint64 // number of a segment that a reader could not read to its end

	filesMu  sync.Mutex
	segments []segment // oldest first; the last one is written to, if it is open
	nextSeq  uint64    // sequence number of the event that is written next

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
		o: o, buffer: event.NewBuffer(o.Log, "the log of events", "directory", o.Dir, appendGap),
		orders: make(chan func(*writer)), stop: stop, stopped: make(chan struct{}),
	}
	l.Use(o.Recipients)
	w := &writer{log: l}
	if err := w.begin(); err != nil {
		l.buffer.Wrote(0, err)
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
		Simulated: d.Simulated, FeedbackType: d.FeedbackType, Reporter: d.Reporter, Uncounted: d.Uncounted,
	}
	if d.Source.IsValid() {
		r.Source = d.Source.String()
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
	l.buffer.Add(r.Time, func(b []byte) []byte { return appendRecord(b, r) })
}

func appendGap(b []byte, from, until time.Time, lost uint64) []byte {
	return appendRecord(b, &Record{Time: from, Event: Gap, Due: until, Lost: lost})
}

// Lost is how many events were lost, since the start, for want of memory.
func (l *Log) Lost() uint64 { return l.buffer.Lost() }

// Trouble says why no events can be written, "" if they can.
func (l *Log) Trouble() string { return l.buffer.Trouble() }

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
