// Package manners remembers how single hosts must be spoken to, where that is not as they
// announce it: a host whose TLS breaks, that announces CHUNKING and does not know BDAT, or
// PIPELINING and does not answer each command of a group, or that takes fewer recipients in
// a transaction than it says.
//
// A Memory owns what was found, host by host, for a while. Before a connect Of gives the
// host's Manner, which the caller follows. What it meets then it reports: TLSFailed gives
// the manner to try next, in the same connect, TLSWorked, TLSBroke, NoChunking, NoPipelining
// and TooMany note what was found.
//
// Nothing outlives the process, what is remembered is bounded, and no method waits or calls
// out. A host is known by name and address: a handshake may fail for the name alone (SNI),
// and whoever has a name of his own lead to another's address must not take that one's TLS
// away. The terms are explained in agent/doc.go.
package manners

import (
	"net/netip"
	"sync"
	"time"
)

// Endpoint is a host as a domain's mail finds it: the name that its MX record or
// the relay gives, "" for an address literal, at one of its addresses.
type Endpoint struct {
	Name string
	Addr netip.AddrPort
}

// TLS says what opportunistic TLS does without at a host, each more than the one before.
type TLS uint8

// What TLS does without.
const (
	Whole         TLS = iota // nothing
	NoCertificate            // our client certificate
	SmallHello               // and whatever makes a ClientHello larger than a packet
	Clear                    // and all the rest: there is none
)

// String says how it is spoken, for logs.
func (t TLS) String() string {
	switch t {
	case NoCertificate:
		return "without the client certificate"
	case SmallHello:
		return "with a small ClientHello"
	case Clear:
		return "without TLS"
	}
	return "with all of it"
}

// Manner is how to speak to a host; the zero Manner: as it announces.
type Manner struct {
	TLS        TLS
	ByData     bool // no BDAT
	Stepwise   bool // no group of commands: each waits for its reply
	Recipients int  // of a transaction at most; 0: nothing was found
}

const (
	// tlsFor is how long a host is spoken to with less TLS than it offers.
	tlsFor = 15 * time.Minute
	// workedFor is how long a host where TLS worked counts as one whose trouble passes. It is
	// spoken to in the clear only when the trouble has lasted trustFor, which is Postfix's
	// minimal_backoff_time: smtp(8) goes to plain text when the message is that old.
	workedFor = 7 * 24 * time.Hour
	trustFor  = 5 * time.Minute
	// troubleFor is how long after a failure the next one counts as the same trouble.
	troubleFor = time.Hour
	// byDataFor is long: BDAT saves a flight, and to find out again may cost ten minutes.
	byDataFor = 24 * time.Hour
	// stepwiseFor is as long: to find out again costs a transaction.
	stepwiseFor = 24 * time.Hour
	// recipientsFor is short: to find out again costs one reply.
	recipientsFor = time.Hour
	// maxStates and maxWorked bound the memories.
	maxStates = 10_000
	maxWorked = 50_000
)

// Memory remembers manners. Its methods may be called by many goroutines.
type Memory struct {
	mu     sync.Mutex
	states map[Endpoint]*state    // those with anything odd
	worked map[Endpoint]time.Time // when TLS last worked
}

// state is what was found of a host, each part with its end.
type state struct {
	tls             TLS
	tlsUntil        time.Time
	trouble         time.Time // when TLS began to fail; zero: it does not
	failed          time.Time // when it last did
	breaks          time.Time // when connections through TLS began to break; zero: they do not
	broke           time.Time // when one last did
	byDataUntil     time.Time
	stepwiseUntil   time.Time
	recipients      int
	recipientsUntil time.Time
}

// over says whether nothing of it counts any more.
func (s *state) over(now time.Time) bool {
	return now.After(s.tlsUntil) && now.After(s.failed.Add(troubleFor)) && now.After(s.broke.Add(troubleFor)) && now.After(s.byDataUntil) && now.After(s.stepwiseUntil) && now.After(s.recipientsUntil)
}

// New returns a Memory of nothing.
func New() *Memory {
	return &Memory{states: make(map[Endpoint]*state), worked: make(map[Endpoint]time.Time)}
}

// Of gives a host's manner.
func (m *Memory) Of(at Endpoint, now time.Time) Manner {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[at]
	if s == nil {
		return Manner{}
	}
	if s.over(now) {
		delete(m.states, at)
		return Manner{}
	}
	x := Manner{ByData: now.Before(s.byDataUntil), Stepwise: now.Before(s.stepwiseUntil)}
	if now.Before(s.tlsUntil) {
		x.TLS = s.tls
	}
	if now.Before(s.recipientsUntil) {
		x.Recipients = s.recipients
	}
	return x
}

// at is what is remembered of a host.
func (m *Memory) at(at Endpoint, now time.Time) *state {
	s := m.states[at]
	if s == nil {
		makeRoom(m.states, maxStates, func(s *state) bool { return s.over(now) })
		s = &state{}
		m.states[at] = s
	}
	return s
}

// TLSFailed notes that opportunistic TLS did not come about, tried in a way, and gives the
// way to try next. ok is false where there is none for now: it was in the clear already,
// or TLS has worked at the host lately, and its trouble may pass. certificate says that there
// is a client certificate to do without.
func (m *Memory) TLSFailed(at Endpoint, tried TLS, certificate bool, now time.Time) (next TLS, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.at(at, now)
	if s.trouble.IsZero() || now.Sub(s.failed) > troubleFor {
		s.trouble = now
	}
	s.failed = now
	next = tried + 1
	if next == NoCertificate && !certificate {
		next = SmallHello
	}
	if next > Clear {
		return tried, false
	}
	if now.Before(s.tlsUntil) && s.tls == Clear {
		return Clear, true
	}
	if worked, known := m.worked[at]; next == Clear && known && now.Sub(worked) < workedFor && now.Sub(s.trouble) < trustFor {
		return tried, false
	}
	if now.Before(s.tlsUntil) {
		s.tls = max(s.tls, next) // another connect may know more
	} else {
		s.tls, s.tlsUntil = next, now.Add(tlsFor)
	}
	return s.tls, true
}

// TLSWorked notes that TLS came about, in a way.
func (m *Memory) TLSWorked(at Endpoint, way TLS, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.worked[at]; !known {
		makeRoom(m.worked, maxWorked, func(t time.Time) bool { return now.Sub(t) >= workedFor })
	}
	m.worked[at] = now
	if s := m.states[at]; s != nil && way == Whole {
		s.tls, s.tlsUntil, s.trouble = Whole, time.Time{}, time.Time{}
	}
}

// TLSBroke notes that a connection through opportunistic TLS was lost in its first transaction,
// with no reply, and says whether the next ones go in the clear: when that has been so
// for as long as smtp(8) waits. A receiver may be in trouble for other reasons.
func (m *Memory) TLSBroke(at Endpoint, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.at(at, now)
	if s.breaks.IsZero() || now.Sub(s.broke) > troubleFor {
		s.breaks = now
	}
	s.broke = now
	if now.Sub(s.breaks) < trustFor {
		return false
	}
	s.tls, s.tlsUntil = Clear, now.Add(tlsFor)
	return true
}

// TLSHeld notes that a transaction through TLS had its replies.
func (m *Memory) TLSHeld(at Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.states[at]; s != nil {
		s.breaks = time.Time{}
	}
}

// TLSWanted forgets that TLS failed, at a host that takes no mail without it, and says
// whether it was spoken to in the clear.
func (m *Memory) TLSWanted(at Endpoint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[at]
	if s == nil || s.tls != Clear {
		return false
	}
	s.tls, s.tlsUntil, s.trouble, s.breaks = Whole, time.Time{}, time.Time{}, time.Time{}
	return true
}

// NoChunking notes that a host does not know BDAT.
func (m *Memory) NoChunking(at Endpoint, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at(at, now).byDataUntil = now.Add(byDataFor)
}

// NoPipelining notes that a host does not answer each command of a group with a reply.
func (m *Memory) NoPipelining(at Endpoint, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at(at, now).stepwiseUntil = now.Add(stepwiseFor)
}

// TooMany notes that a host took so many recipients in a transaction, at least 1, and no
// more.
func (m *Memory) TooMany(at Endpoint, took int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.at(at, now)
	s.recipients, s.recipientsUntil = took, now.Add(recipientsFor)
}

// makeRoom keeps a memory below its bound: when it is full what is over goes, and then any,
// a quarter of all, so that it is gone through seldom.
func makeRoom[V any](m map[Endpoint]V, most int, over func(V) bool) {
	if len(m) < most {
		return
	}
	for at, v := range m {
		if over(v) {
			delete(m, at)
		}
	}
	for at := range m {
		if len(m) <= most*3/4 {
			return
		}
		delete(m, at)
	}
}
