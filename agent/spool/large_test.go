package spool

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestLargeEnvelopeIsDecodedOnce takes a message of many recipients again and again, as its
// transactions do. Not parallel: allocations are counted.
func TestLargeEnvelopeIsDecodedOnce(t *testing.T) {
	const recipients = 20_000
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	e := &Envelope{Sender: "n@news.example", Arrived: time.Now()}
	for i := range recipients {
		e.Recipients = append(e.Recipients, Recipient{Address: fmt.Sprintf("r%d@far.example", i), Args: []string{"NOTIFY=NEVER"}})
	}
	r, err := w.Append(t.Context(), e, strings.NewReader("Subject: x\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	release(t, r)
	w.Close()
	s := openStore(t, dir, smallStore(t, nil))
	newSeen().load(t, s)
	take := func() {
		got, c, err := s.Message(r.ID())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Recipients) != recipients || got.Recipients[recipients-1].Address != e.Recipients[recipients-1].Address || got.Size == 0 {
			t.Fatalf("%d recipients, %d octets", len(got.Recipients), got.Size)
		}
		c.Close()
	}
	take()
	if n := testing.AllocsPerRun(20, take); n > 100 {
		t.Errorf("%.0f allocations for a transaction", n)
	}
	for i := range recipients {
		if err := s.Record(Event{ID: r.ID(), Recipient: uint32(i), State: State{Status: Delivered}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.large.list); n != 0 || s.large.octets != 0 {
		t.Errorf("%d are kept of messages that are done, %d octets", n, s.large.octets)
	}
}

// TestLargeEnvelopesAreBounded keeps those that were used last, and one however large.
func TestLargeEnvelopesAreBounded(t *testing.T) {
	t.Parallel()
	var l largeEnvelopes
	e := &Envelope{Recipients: make([]Recipient, largeFrom)}
	for i := range ID(20) {
		l.put(i, e, maxLargeOctets/8)
		l.get(0, largeFrom)
		if l.octets > maxLargeOctets {
			t.Fatalf("%d octets", l.octets)
		}
	}
	if l.get(0, largeFrom) == nil || l.get(19, largeFrom) == nil || l.get(1, largeFrom) != nil || l.get(19, largeFrom-1) != nil {
		t.Errorf("%d are kept", len(l.list))
	}
	l.put(99, e, 2*maxLargeOctets)
	if l.get(99, largeFrom) == nil || len(l.list) != 1 {
		t.Errorf("of one that is larger than all, %d are kept", len(l.list))
	}
	l.drop(99)
	if l.octets != 0 || len(l.list) != 0 {
		t.Errorf("%d octets", l.octets)
	}
}
