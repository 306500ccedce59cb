// Package ledger keeps the books of a mail test: the mail that an injector was told is
// accepted, and the mail that a receiver did accept.
//
// A [Ledger] is an append-only log of messages. Each side of a test fills one:
// the injector with [Ledger.Add] when the final dot of a message is answered
// with 250, the receiver just before it gives that answer. A [Digest] turns
// the content of a message into its id and hash on both sides, so that trace
// headers added on the way do not count. At the end [Compare] says which
// recipients are lost, served twice, altered, or were never sent, and
// [Latencies] how long the mail was on its way. [Ledger.WriteJSON] and
// [ReadJSON] carry a ledger from one process to another.
//
// The log is held encoded, without pointers: about 40 octets a message and the
// length of its id and addresses, so a million entries cost some 100 MB.
// All methods may be called from any goroutine.
package ledger

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"
)

// Hash is the first half of the SHA-256 of what a message's client sent.
type Hash [16]byte

// String gives the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText gives the hash in hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads a hash from hex.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("ledger: hash of %d digits", len(text))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// Place is where a message was accepted.
type Place struct {
	Provider string
	Host     string
}

// Message is one accepted transaction, as written into a ledger.
type Message struct {
	ID         []byte   // see [Digest]
	Sender     []byte   // envelope sender, without brackets; empty: the null sender
	Recipients [][]byte // envelope recipients, without brackets
	Hash       Hash
	Time       time.Time // injector: when the content went out; receiver: when it was accepted
	Place      int       // from [Ledger.Place]; 0: none
	Conn       uint64    // number of the connection
	Size       int64     // octets of content, dots unstuffed
	Above      int64     // octets of trace headers above what the client sent
	Unanswered bool      // accepted, or perhaps so, but the answer to the final dot never came
}

// Record is one recipient's copy of a message, as read from a ledger.
type Record struct {
	ID         string    `json:"id"`
	Recipient  string    `json:"rcpt"`
	Sender     string    `json:"from"`
	Hash       Hash      `json:"hash"`
	Time       time.Time `json:"time"`
	Provider   string    `json:"provider,omitempty"`
	Host       string    `json:"host,omitempty"`
	Conn       uint64    `json:"conn,omitempty"`
	Size       int64     `json:"size"`
	Above      int64     `json:"above,omitempty"`
	Unanswered bool      `json:"unanswered,omitempty"`
}

const chunkSize = 1 << 20

// Ledger is a log of messages. The zero value is an empty ledger.
type Ledger struct {
	mu       sync.Mutex
	places   []Place // the first is place 1
	chunks   [][]byte
	messages int
	records  int
	refused  map[string]struct{}
	waiters  map[*waiter]struct{}
}

type waiter struct {
	records int
	reached chan struct{}
}

// Place gives the number of a place for use in [Message].
func (l *Ledger) Place(provider, host string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := Place{provider, host}
	for i, have := range l.places {
		if have == p {
			return i + 1
		}
	}
	l.places = append(l.places, p)
	return len(l.places)
}

// Add writes a message; m and its slices may be reused afterwards.
func (l *Ledger) Add(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	need := 16 + 8 + 1 + 7*binary.MaxVarintLen64 + len(m.ID) + len(m.Sender)
	for _, r := range m.Recipients {
		need += binary.MaxVarintLen64 + len(r)
	}
	last := len(l.chunks) - 1
	if last < 0 || cap(l.chunks[last])-len(l.chunks[last]) < need {
		l.chunks = append(l.chunks, make([]byte, 0, max(chunkSize, need)))
		last++
	}
	// The chunk never moves, so a reader of its older octets needs no lock.
	l.chunks[last] = m.encode(l.chunks[last])
	l.messages++
	l.records += len(m.Recipients)
	for w := range l.waiters {
		if l.records >= w.records {
			close(w.reached)
			delete(l.waiters, w)
		}
	}
}

// Refuse notes a recipient the receiver refuses for good, so that [Compare]
// does not take it for lost.
func (l *Ledger) Refuse(recipient []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused == nil {
		l.refused = make(map[string]struct{})
	}
	l.refused[string(recipient)] = struct{}{}
}

// Len is the number of records: recipients of all messages.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records
}

// Messages is the number of messages.
func (l *Ledger) Messages() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages
}

// Wait returns once the ledger has at least so many records, or with the
// context's error.
func (l *Ledger) Wait(ctx context.Context, records int) error {
	l.mu.Lock()
	if l.records >= records {
		l.mu.Unlock()
		return nil
	}
	w := &waiter{records, make(chan struct{})}
	if l.waiters == nil {
		l.waiters = make(map[*waiter]struct{})
	}
	l.waiters[w] = struct{}{}
	l.mu.Unlock()
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiters, w)
	if l.records >= records {
		return nil
	}
	return fmt.Errorf("ledger: %d of %d records: %w", l.records, records, context.Cause(ctx))
}

// Records goes through the records that are there when it starts, in the order
// they were written.
func (l *Ledger) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		messages := l.all()
		places := l.snapshotPlaces() // after the messages, so that it has all they name
		for m := range messages {
			var p Place
			if m.Place > 0 {
				p = places[m.Place-1]
			}
			r := Record{
				ID: string(m.ID), Sender: string(m.Sender), Hash: m.Hash, Time: m.Time,
				Provider: p.Provider, Host: p.Host, Conn: m.Conn, Size: m.Size, Above: m.Above, Unanswered: m.Unanswered,
			}
			for _, rcpt := range m.Recipients {
				r.Recipient = string(rcpt)
				if !yield(r) {
					return
				}
			}
		}
	}
}

// all goes through the messages; the message is overwritten by the next one.
func (l *Ledger) all() iter.Seq[*Message] {
	l.mu.Lock()
	chunks := append([][]byte(nil), l.chunks...)
	l.mu.Unlock()
	return func(yield func(*Message) bool) {
		var m Message
		for _, c := range chunks {
			for len(c) > 0 {
				c = m.decode(c)
				if !yield(&m) {
					return
				}
			}
		}
	}
}

func (l *Ledger) snapshotPlaces() []Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places[:len(l.places):len(l.places)]
}

func (l *Ledger) snapshotRefused() map[string]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.refused)
}

func (m *Message) encode(b []byte) []byte {
	b = append(b, m.Hash[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Time.UnixNano()))
	if m.Unanswered {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(m.Place))
	b = binary.AppendUvarint(b, m.Conn)
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = binary.AppendUvarint(b, uint64(m.Above))
	b = appendBytes(b, m.ID)
	b = appendBytes(b, m.Sender)
	b = binary.AppendUvarint(b, uint64(len(m.Recipients)))
	for _, r := range m.Recipients {
		b = appendBytes(b, r)
	}
	return b
}

// decode reads what encode wrote; the slices of m point into b.
func (m *Message) decode(b []byte) []byte {
	b = b[copy(m.Hash[:], b):]
	m.Time = time.Unix(0, int64(binary.LittleEndian.Uint64(b)))
	m.Unanswered = b[8] == 1
	b = b[9:]
	var place, size, above, rcpts uint64
	place, b = takeUvarint(b)
	m.Conn, b = takeUvarint(b)
	size, b = takeUvarint(b)
	above, b = takeUvarint(b)
	m.Place, m.Size, m.Above = int(place), int64(size), int64(above)
	m.ID, b = takeBytes(b)
	m.Sender, b = takeBytes(b)
	rcpts, b = takeUvarint(b)
	m.Recipients = m.Recipients[:0]
	for range rcpts {
		var r []byte
		r, b = takeBytes(b)
		m.Recipients = append(m.Recipients, r)
	}
	return b
}

func appendBytes(b, p []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}

func takeUvarint(b []byte) (uint64, []byte) {
	v, n := binary.Uvarint(b)
	return v, b[n:]
}

func takeBytes(b []byte) (p, rest []byte) {
	n, b := takeUvarint(b)
	return b[:n:n], b[n:]
}
