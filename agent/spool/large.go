package spool

import "sync"

// largeEnvelopes keeps envelopes of many recipients as they were decoded last: each
// transaction of such a message takes a few of its recipients, and to decode all of them for
// each is work by the square of their number. What it returns is shared and must not be
// changed.
type largeEnvelopes struct {
	mu     sync.Mutex
	list   []largeEnvelope // the last one was used last
	octets int
}

type largeEnvelope struct {
	id     ID
	env    *Envelope
	octets int
}

const (
	// largeFrom is how many recipients make an envelope a large one: some five kilobytes.
	largeFrom = 100
	// maxLargeOctets bounds what is kept; one envelope is, however large. A hundred thousand
	// recipients take some 8 MB.
	maxLargeOctets = 32 << 20
)

func (l *largeEnvelopes) get(id ID, recipients uint32) *Envelope {
	if recipients < largeFrom {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, x := range l.list {
		if x.id == id {
			copy(l.list[i:], l.list[i+1:])
			l.list[len(l.list)-1] = x
			return x.env
		}
	}
	return nil
}

// put keeps an envelope of so many octets when it is encoded.
func (l *largeEnvelopes) put(id ID, e *Envelope, encoded int) {
	if len(e.Recipients) < largeFrom {
		return
	}
	x := largeEnvelope{id, e, encoded + 48*len(e.Recipients)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(id) // two may have decoded it at once
	l.list = append(l.list, x)
	l.octets += x.octets
	for l.octets > maxLargeOctets && len(l.list) > 1 {
		l.remove(l.list[0].id)
	}
}

// drop forgets a message that is done.
func (l *largeEnvelopes) drop(id ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(id)
}

func (l *largeEnvelopes) remove(id ID) {
	for i, x := range l.list {
		if x.id == id {
			l.octets -= x.octets
			copy(l.list[i:], l.list[i+1:])
			l.list[len(l.list)-1] = largeEnvelope{}
			l.list = l.list[:len(l.list)-1]
			return
		}
	}
}
