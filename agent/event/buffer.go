package event

import (
	"log/slog"
	"sync"
	"time"
)

// BufferSize is how many octets of events wait for a disk that stalls: some 30,000 lines
// of the event file, a minute at 500 a second, or 80,000 records of package eventlog.
const BufferSize = 16 << 20

// Buffer is what stands between those who have events, who never wait, and the one goroutine
// that writes them. They call Add. The writer, woken by Wake, moves what waits to itself with
// Take, and tells with Wrote how it fares. While too much waits events are lost, counted, and told of
// by a gap that stands in their place.
type Buffer struct {
	log         *slog.Logger
	what        string // is written, in words: "the event file"
	key         string // of the place in lines of the log
	appendGap   func(b []byte, from, until time.Time, lost uint64) []byte
	wake        chan struct{}
	mu          sync.Mutex
	place       string
	buf         []byte // whole events, not yet taken by the writer
	count       uint64 // of these
	held        int    // octets that the writer has taken and not yet written
	lost        uint64 // events since the buffer was full, not yet told by a gap
	from, until time.Time
	gone        uint64 // events lost ever
	trouble     string // why nothing is written; "" if all is well
}

// NewBuffer returns an empty Buffer. The log names what is written, and its place under
// the key. appendGap adds an event that stands where others were lost.
func NewBuffer(log *slog.Logger, what, key, place string, appendGap func(b []byte, from, until time.Time, lost uint64) []byte) *Buffer {
	return &Buffer{log: log, what: what, key: key, place: place, appendGap: appendGap, wake: make(chan struct{}, 1)}
}

// Add adds an event of a time, which put appends to what waits.
func (b *Buffer) Add(at time.Time, put func([]byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Once one was lost all are until the gap is told, so that it stands in its place.
	if b.lost > 0 || len(b.buf)+b.held >= BufferSize {
		if b.lost == 0 {
			b.from = at
			b.log.Error("events are lost: the disk of "+b.what+" does not keep up", b.key, b.place)
		}
		b.lost++
		b.gone++
		b.until = at
		return
	}
	if len(b.buf) == 0 {
		b.Nudge()
	}
	b.buf = put(b.buf)
	b.count++
}

// Wake is readable when the writer has something to do.
func (b *Buffer) Wake() <-chan struct{} { return b.wake }

// Nudge wakes the writer.
func (b *Buffer) Nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Take appends what waits to what the writer has already, and says how many events that are.
// If there is a gap it comes last: once all that the writer had is written, for until then it may
// grow.
func (b *Buffer) Take(pending []byte) (_ []byte, events uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	over := len(pending) == 0
	if over && cap(pending) > BufferSize/8 {
		pending = nil // a stall is over; do not keep its memory
	}
	pending, events = append(pending, b.buf...), b.count
	b.buf, b.count = b.buf[:0], 0
	if cap(b.buf) > BufferSize/8 {
		b.buf = nil
	}
	if b.lost > 0 && over {
		pending = b.appendGap(pending, b.from, b.until, b.lost)
		events++
		b.log.Error("events were lost", b.key, b.place, "events", b.lost, "from", b.from, "until", b.until)
		b.lost = 0
	}
	b.held = len(pending)
	return pending, events
}

// Wrote tells how many octets the writer still holds, and how it fares.
func (b *Buffer) Wrote(held int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = held
	if held == 0 && b.lost > 0 {
		b.Nudge() // nobody else may come to have the gap told
	}
	before := b.trouble
	b.trouble = ""
	if err != nil {
		b.trouble = err.Error()
	}
	switch {
	case err != nil && before == "":
		b.log.Error("cannot write "+b.what+"; events wait in memory", b.key, b.place, "err", err)
	case err == nil && before != "":
		b.log.Info(b.what+" is written again", b.key, b.place)
	}
}

// Move names another place; "" is none, and what waits is dropped.
func (b *Buffer) Move(place string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.place = place; place == "" {
		b.buf, b.count, b.lost = b.buf[:0], 0, 0
	}
	b.Nudge()
}

// Waiting is how many events wait that the writer has not taken, with those of a gap.
func (b *Buffer) Waiting() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count + b.lost
}

// Lost is how many events were lost, since the start, for want of memory.
func (b *Buffer) Lost() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gone
}

// Trouble says why no events can be written, "" if they can.
func (b *Buffer) Trouble() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trouble
}
