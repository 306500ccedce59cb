package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/millrace/millrace/agent/durable"
)

// Cursor is a place in the log, between two events. The zero Cursor is the beginning of
// what is there. Cursors are ordered by Segment, then Offset.
type Cursor struct {
	Segment uint64
	Offset  int64
	Seq     uint64 // sequence number of the event that comes next
}

// Before reports whether c stands before o.
func (c Cursor) Before(o Cursor) bool {
	return c.Segment < o.Segment || c.Segment == o.Segment && c.Offset < o.Offset
}

// End is the place behind all that is written now: before what comes after the next Flush.
func (l *Log) End() Cursor {
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	if len(l.segments) == 0 { // not the zero Cursor: what is dropped from here on is missed
		return Cursor{Segment: l.o.After + 1, Seq: l.nextSeq}
	}
	s := l.segments[len(l.segments)-1]
	return Cursor{s.number, s.size, l.nextSeq}
}

// Start is the place of the oldest event that is there, or End.
func (l *Log) Start() Cursor {
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	if len(l.segments) == 0 {
		return Cursor{Segment: l.o.After + 1, Seq: l.nextSeq}
	}
	s := l.segments[0]
	return Cursor{s.number, headerSize, s.first}
}

// Batch is what Read returns.
type Batch struct {
	Records []Record
	Places  []Cursor // of each record: where it begins
	Next    Cursor   // after the last one
	Lost    uint64   // events before the first one that are gone, unread
	Damaged bool     // of Lost: a segment could not be read to its end
	More    bool     // there may be more

	buf []byte // what was read last; its room is used again
}

// chunk is the most that Read reads at once: some 5,000 events.
const chunk = 1 << 20

// Read returns events after a cursor, at most so many. Erased ones, and those of a later
// form, are left out.
func (l *Log) Read(from Cursor, most int, into *Batch) error {
	into.Records, into.Places = into.Records[:0], into.Places[:0]
	into.Next, into.Lost, into.Damaged, into.More = from, 0, false, false
	for {
		s, ok := l.after(into.Next.Segment)
		if !ok {
			return nil
		}
		if s.number != into.Next.Segment || into.Next.Offset < headerSize {
			if into.Next != (Cursor{}) && s.first > into.Next.Seq {
				if len(into.Records) > 0 {
					into.More = true // what is lost is told before the records that follow it
					return nil
				}
				into.Lost += s.first - into.Next.Seq
			}
			into.Next = Cursor{s.number, headerSize, s.first}
		}
		if into.Next.Offset < s.size {
			whole, err := l.read(s, most-len(into.Records), into)
			switch {
			case err != nil && !errors.Is(err, fs.ErrNotExist): // else it is gone by now
				return err
			case err == nil && whole && len(into.Records) >= most:
				into.More = true
				return nil
			case err == nil && whole:
				continue
			}
			into.Damaged = true
			l.spoiled.Store(s.number)
		}
		if l.newest(s.number) {
			return nil // what comes next will stand there, or in a segment after it
		}
		into.Next.Segment, into.Next.Offset = s.number+1, 0
	}
}

// read adds records of one segment. It returns false where there is no whole record.
func (l *Log) read(s segment, most int, into *Batch) (whole bool, err error) {
	f, err := os.Open(l.path(s.number))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at := into.Next.Offset
	into.buf = slices.Grow(into.buf[:0], int(min(s.size-at, chunk)))
	n, err := f.ReadAt(into.buf[:min(s.size-at, chunk)], at)
	if err != nil && err != io.EOF {
		return false, err
	}
	b := into.buf[:n]
	text := string(b)
	used := 0
	for ; most > 0; most-- {
		payload, size, err := next(b[used:])
		if err != nil || size == 0 {
			break
		}
		place := into.Next
		from := used + frameSize
		used += size
		into.Next.Offset += int64(size)
		into.Next.Seq++
		into.Records = append(into.Records, Record{})
		r := &into.Records[len(into.Records)-1]
		if decode(payload, text[from:from+len(payload)], r) != nil || r.Event == erased {
			into.Records = into.Records[:len(into.Records)-1]
			continue
		}
		into.Places = append(into.Places, place)
	}
	return used > 0, nil
}

// Erase makes records unreadable that match, and returns how many. Those that were
// written before it was called are looked at. A segment is replaced as a whole by one that is
// the same but for them, synced before it takes the name, so that a crash leaves one or
// the other; cursors stay what they are.
func (l *Log) Erase(ctx context.Context, match func(*Record) bool) (erased int, err error) {
	err = l.order(ctx, func(w *writer) error {
		if err := w.work(); err != nil {
			return err
		}
		w.close() // so that no segment is written to
		l.filesMu.Lock()
		list := append([]segment(nil), l.segments...)
		l.filesMu.Unlock()
		for _, s := range list {
			n, err := l.erase(s, match)
			if erased += n; err != nil {
				return err
			}
		}
		return nil
	})
	return erased, err
}

func (l *Log) erase(s segment, match func(*Record) bool) (n int, err error) {
	b, err := os.ReadFile(l.path(s.number))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var r Record
	for at := headerSize; at < len(b); {
		payload, size, err := next(b[at:])
		if err != nil || size == 0 {
			// What cannot be read may have it. Nobody reads further than this.
			clear(b[at:])
			b = bytes.Clone(b[:at])
			n++
			break
		}
		if decode(payload, string(payload), &r) == nil && match(&r) {
			blank(b[at : at+size])
			n++
		}
		at += size
	}
	if n == 0 {
		return 0, nil
	}
	if err := durable.Replace(l.path(s.number), b); err != nil {
		return 0, fmt.Errorf("erasing events: %w", err)
	}
	return n, nil
}
