package sink

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/contrib/lab/sockets"
)

// provider is a provider at work. Its mutex guards everything that is counted
// for it and its hosts; nothing waits under it.
type provider struct {
	name      string
	internet  *Internet
	domains   map[string]struct{}
	patterns  []string
	hosts     []*host
	behaviour atomic.Pointer[Behaviour] // for the DNS; the hosts have their own
	working   atomic.Int64              // messages between their final dot and its reply

	mu    sync.Mutex
	gate  gate
	tries map[uint64]try      // greylisting and temp_times
	known map[netip.Addr]bool // clients that were screened
}

// try is what is remembered of a recipient that was deferred.
type try struct {
	first time.Time
	count int
}

// host is one receiver.
type host struct {
	name       string
	addr       netip.Addr
	preference uint16
	provider   *provider
	place      int // in the ledger
	behaviour  atomic.Pointer[Behaviour]

	connects, mails, datas, dots, drops, droppedAccepts turn

	replies [6]atomic.Int64 // by first digit

	// Guarded by provider.mu:
	slots       slots
	backends    []*slots // each one's, if the host has any
	chance      *rand.Rand
	bucket      bucket
	listener    net.Listener
	filler      net.Conn // fills the queue of the listener of an unreachable host
	sessions    map[*session]struct{}
	admitted    int64
	refused     map[Cause]int64
	messages    int64
	recipients  int64
	octets      int64
	acceptances []uint32 // by second since the start
}

// turn deals out a share exactly: after n calls floor(n*share) of them hit.
type turn struct{ n atomic.Int64 }

func (t *turn) hits(share float64) bool {
	if share == 0 {
		return false
	}
	const slip = 1e-9 // 100*0.29 is a little less than 29
	n := float64(t.n.Add(1))
	return math.Floor(n*share+slip) > math.Floor((n-1)*share+slip)
}

func (v *provider) setDomains(domains []string) error {
	if len(domains) == 0 {
		return errors.New("no domains")
	}
	v.domains = make(map[string]struct{})
	for _, d := range domains {
		d = strings.ToLower(strings.TrimSuffix(d, "."))
		if !strings.ContainsAny(d, `*?[\`) {
			v.domains[d] = struct{}{}
			continue
		}
		if _, err := path.Match(d, ""); err != nil {
			return fmt.Errorf("domain pattern %q: %w", d, err)
		}
		v.patterns = append(v.patterns, d)
	}
	return nil
}

func (v *provider) matches(domain string) bool {
	for _, p := range v.patterns {
		if ok, _ := path.Match(p, domain); ok {
			return true
		}
	}
	return false
}

// takes says whether the provider has the mail domain. The conversion in the
// map lookup does not allocate.
func (v *provider) takes(domain []byte) bool {
	if _, ok := v.domains[string(domain)]; ok {
		return true
	}
	return len(v.patterns) > 0 && v.matches(string(domain))
}

// presence is what stands at a host's port.
type presence uint8

const (
	listening presence = iota
	nothing
	unanswered
)

func (b *Behaviour) presence() presence {
	switch {
	case b.Down:
		return nothing
	case b.Unreachable:
		return unanswered
	}
	return listening
}

// appear puts at the host's port what its behaviour wants there.
func (h *host) appear(b *Behaviour) error {
	if h.provider.internet.options.Offline {
		return nil
	}
	var err error
	switch b.presence() {
	case listening:
		err = h.listen()
	case unanswered:
		err = h.ignore()
	}
	if err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

// listen starts the receiver's listener.
func (h *host) listen() error {
	n := h.provider.internet
	ln, err := sockets.Listen(netip.AddrPortFrom(h.addr, n.Port()).String())
	if err != nil {
		return err
	}
	h.provider.mu.Lock()
	h.listener = ln
	h.provider.mu.Unlock()
	n.work.Go(func() { h.accept(ln) })
	return nil
}

// cut closes the listener and resets all connections.
func (h *host) cut() {
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	if h.listener != nil {
		h.listener.Close()
		h.listener = nil
	}
	if h.filler != nil {
		h.filler.Close()
		h.filler = nil
	}
	for s := range h.sessions {
		reset(s.tcp)
	}
}

// reset closes a connection by a TCP reset.
func reset(c stream) {
	c.SetLinger(0)
	c.Close()
}

func (h *host) accept(ln sockets.Listener) {
	n := h.provider.internet
	for {
		c, err := ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely
			n.log.Warn("accept failed", "host", h.name, "err", err)
			pause(n.closed, 50*time.Millisecond)
			continue
		}
		s, ok := h.admit(c, ln)
		if !ok {
			reset(c)
			continue
		}
		n.work.Go(s.run)
	}
}

// admit decides on a new connection; false resets it.
func (h *host) admit(c stream, ln net.Listener) (*session, bool) {
	v, b := h.provider, h.behaviour.Load()
	s := newSession(h, c)
	v.mu.Lock()
	defer v.mu.Unlock()
	if h.listener != ln { // cut since
		return nil, false
	}
	s.place = h.seat(b)
	s.turnedAway = v.gate.enter(time.Now(), b, s.place)
	if s.turnedAway == "" {
		if s.place != &h.slots {
			h.slots.take()
		}
		h.admitted++
		s.holds = true
	} else {
		h.refused[s.turnedAway]++
		if b.OverLimit == ByReset {
			h.tell(s, false)
			h.tell(s, true)
			return nil, false
		}
	}
	h.tell(s, false)
	h.sessions[s] = struct{}{}
	return s, true
}

// leave gives the place of a connection back, if it has one.
func (h *host) leave(s *session) {
	v := h.provider
	v.mu.Lock()
	defer v.mu.Unlock()
	h.tell(s, true)
	if s.holds {
		s.holds = false
		b := h.behaviour.Load()
		now, lag := time.Now(), h.lag(b)
		v.gate.leave(now, lag, s.place)
		if s.place != &h.slots {
			h.slots.give(now, lag)
		}
	}
}

// tell says to who wants to know that a connection came, or has ended.
func (h *host) tell(s *session, ended bool) {
	if f := h.provider.internet.options.Connection; f != nil {
		f(Connection{Provider: h.provider.name, Number: s.number, Client: s.client(), TurnedAway: s.turnedAway, Ended: ended})
	}
}

// forget ends the host's knowledge of a session.
func (h *host) forget(s *session) {
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	delete(h.sessions, s)
}

// begin asks whether a connection may begin its first message.
func (h *host) begin(s *session, b *Behaviour) Cause {
	if b.OverLimit != AtFirstMail || s.turnedAway != "" {
		return ""
	}
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	return h.provider.gate.begin(time.Now(), b, s.place)
}

// rated asks for one message by the rate limit.
func (h *host) rated(b *Behaviour) Cause {
	if b.Rate == 0 {
		return ""
	}
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	return h.provider.gate.message(time.Now(), b, &h.bucket)
}

func (h *host) countRefusal(c Cause) {
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	h.refused[c]++
}

// tried remembers a try of what key stands for and gives what is known of it,
// this try included.
func (v *provider) tried(key uint64, now time.Time) try {
	v.mu.Lock()
	defer v.mu.Unlock()
	t, ok := v.tries[key]
	if !ok {
		t.first = now
	}
	t.count++
	v.tries[key] = t
	return t
}

// restart makes a try the first one.
func (v *provider) restart(key uint64, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tries[key]
	t.first = now
	v.tries[key] = t
}

// knows says whether a client was screened before.
func (v *provider) knows(client netip.Addr) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[client]
}

// learn notes that a client was screened.
func (v *provider) learn(client netip.Addr) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil {
		v.known = make(map[netip.Addr]bool)
	}
	v.known[client] = true
}

// accepted counts a message.
func (h *host) accepted(now time.Time, recipients int, octets int64) {
	second := int(now.Sub(h.provider.internet.start) / time.Second)
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	h.messages++
	h.recipients += int64(recipients)
	h.octets += octets
	for len(h.acceptances) <= second {
		h.acceptances = append(h.acceptances, 0)
	}
	h.acceptances[second]++
}
