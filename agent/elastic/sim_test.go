package elastic

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// A discrete simulation of one sender and one receiver in virtual time: the
// sender follows the controller to the letter, the receiver keeps its limits to
// itself.

// receiver is what a site does. Times are those of the simulation.
type receiver struct {
	rtt      time.Duration
	service  time.Duration                  // to accept a message
	noise    float64                        // share of service that is exponentially distributed
	limit    func(at time.Duration) int     // connections; nil: none
	capacity int                            // messages worked on at once at full speed; 0: any number
	lag      time.Duration                  // a slot is freed so much after the close
	rate     func(at time.Duration) float64 // messages a second; nil: none
	ban      time.Duration                  // the n-th refusal shuts the door for n times so long
	shrink   int                            // each refusal takes so many off the limit, down to 1
	forget   time.Duration                  // without refusals, until all is forgiven
	atMail   bool                           // the limit is enforced at MAIL, not at the greeting
	dead     int                            // of 4 hosts, so many refuse the port
	grumpy   int                            // of 4 hosts, so many refuse every connection for being too many
}

const perConnection = 100 // messages, then the sender reconnects

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

type sim struct {
	r       receiver
	c       *Control
	rng     *rand.Rand
	q       events
	seq     int
	now     time.Duration
	backlog func(at time.Duration) int

	live, opening int
	idle          []*simSession
	nextSend      time.Duration
	timer         time.Duration
	timerSet      bool
	hostTurn      int
	hostBad       [4]time.Duration // skip this host until
	hostFails     [4]int

	slots    int // of the receiver
	working  int
	tokens   float64
	tokensAt time.Duration
	shut     time.Duration
	offences int

	hostEvery   time.Duration // mean time between the host's own messages; 0: none
	tell        bool          // the controller hears of them
	hostSent    int
	hostRefused []time.Duration

	sent      int
	done      []time.Duration
	refused   []time.Duration
	connects  int
	suspended time.Duration // until

	bad string
}

type simSession struct {
	n int
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (s *sim) clock() time.Time { return epoch.Add(s.now) }

func newSim(r receiver, l Limits, seed uint64) *sim {
	s := &sim{r: r, rng: rand.New(rand.NewPCG(seed, 1)), backlog: func(time.Duration) int { return 1 << 20 }}
	s.c = New(epoch, l)
	if r.rate != nil {
		s.tokens = max(1, r.rate(0))
	}
	return s
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.q, event{s.now + d, s.seq, do})
}

// hostSends lets the host MTA send a message of its own, on a connection of its
// own, from time to time.
func (s *sim) hostSends() {
	s.after(time.Duration(s.rng.ExpFloat64()*float64(s.hostEvery)), func() {
		s.hostSends()
		s.hostSent++
		if s.tell {
			s.c.HostMail(s.clock(), 1)
		}
		s.after(s.r.rtt*3/2, func() {
			if s.r.limit != nil && s.slots >= s.r.limit(s.now) {
				s.hostRefused = append(s.hostRefused, s.now)
				return
			}
			s.slots++
			s.after(s.r.rtt*5/2+s.r.service+s.r.lag, func() { s.slots-- })
		})
	})
}

func (s *sim) run(until time.Duration) {
	if s.now == 0 && s.hostEvery > 0 {
		s.hostSends()
	}
	s.act()
	for len(s.q) > 0 && s.q[0].at <= until {
		e := heap.Pop(&s.q).(event)
		s.now = e.at
		e.do()
	}
	s.now = until
}

func (s *sim) signal(k Kind, host string, began time.Duration) {
	x := Signal{Kind: k, Host: host, Began: epoch.Add(began)}
	if k == Refused {
		x.Text = "421 too many connections"
	}
	s.c.Observe(s.clock(), x)
}

// act does what the target says.
func (s *sim) act() {
	for {
		b := s.backlog(s.now)
		load := Load{Backlog: b, Live: s.live, Opening: s.opening}
		t := s.c.Target(s.clock(), load)
		s.check(t, load)
		for s.live > t.Sessions && len(s.idle) > 0 {
			s.end(s.idle[len(s.idle)-1])
			s.idle = s.idle[:len(s.idle)-1]
		}
		if b > 0 && len(s.idle) > 0 && s.live <= t.Sessions {
			if t.Pace > 0 && s.nextSend > s.now {
				s.wake(s.nextSend)
			} else {
				if t.Pace > 0 {
					s.nextSend = max(s.nextSend, s.now) + time.Duration(float64(time.Second)/t.Pace)
				}
				x := s.idle[len(s.idle)-1]
				s.idle = s.idle[:len(s.idle)-1]
				s.send(x)
				continue
			}
		}
		if b > 0 && s.live+s.opening < t.Sessions && s.opening < t.Unproven {
			s.open()
			continue
		}
		if n := s.c.Next(); !n.IsZero() {
			s.wake(n.Sub(epoch))
		}
		return
	}
}

func (s *sim) check(t Target, l Load) {
	switch {
	case t.Sessions > s.c.limits.MaxSessions:
		s.bad = "above the limit"
	case l.Backlog > 0 && t.Sessions < 1 && s.now >= s.suspended:
		s.bad = "no session for a backlog"
	case s.c.limits.MaxRate > 0 && (t.Pace == 0 || t.Pace > s.c.limits.MaxRate):
		s.bad = "faster than allowed"
	}
}

func (s *sim) wake(at time.Duration) {
	if s.timerSet && s.timer <= at && s.timer > s.now {
		return
	}
	s.timerSet, s.timer = true, at
	s.after(max(0, at-s.now), func() {
		if s.timer == s.now {
			s.timerSet = false
		}
		s.act()
	})
}

func (s *sim) end(x *simSession) {
	s.live--
	s.after(s.r.rtt/2+s.r.lag, func() { s.slots-- })
	s.signal(Closed, "", s.now)
}

// full says whether the receiver refuses one more, and punishes that if it does.
func (s *sim) full() bool {
	if s.r.limit == nil {
		return false
	}
	if n := len(s.refused); n > 0 && s.now > s.shut && s.now-s.refused[n-1] > s.r.forget {
		s.offences = 0
	}
	no := s.now < s.shut || s.slots >= max(1, s.r.limit(s.now)-s.offences*s.r.shrink)
	if no {
		s.offences++
		s.shut = s.now + time.Duration(s.offences)*s.r.ban
	}
	return no
}

func (s *sim) open() {
	s.opening++
	s.connects++
	began := s.now
	h := s.hostTurn % 4
	for i := 0; i < 4 && s.hostBad[h] > s.now; i++ {
		s.hostTurn++
		h = s.hostTurn % 4
	}
	s.hostTurn++
	host := "192.0.2." + string(rune('1'+h))
	rtt := s.r.rtt
	if h < s.r.dead {
		s.after(rtt, func() {
			s.opening--
			s.avoid(h)
			s.signal(Failed, host, began)
			s.act()
		})
		return
	}
	s.after(rtt*3/2, func() { // SYN, SYN+ACK, ACK
		if h >= 4-s.r.grumpy || !s.r.atMail && s.full() {
			s.after(rtt/2, func() {
				s.opening--
				if h >= 4-s.r.grumpy {
					s.avoid(h)
				}
				s.refused = append(s.refused, s.now)
				s.signal(Refused, host, began)
				s.act()
			})
			return
		}
		s.slots++
		s.after(rtt*3/2, func() { // greeting, EHLO, its reply
			s.opening--
			s.live++
			s.signal(Up, host, began)
			s.idle = append(s.idle, &simSession{})
			s.act()
		})
	})
}

// avoid skips a host for a while, as a caller with several hosts does.
func (s *sim) avoid(h int) {
	s.hostBad[h] = s.now + time.Minute<<s.hostFails[h]
	s.hostFails[h]++
}

func (s *sim) send(x *simSession) {
	s.sent++
	began := s.now
	if s.r.atMail && x.n == 0 && s.slots > s.r.limit(s.now) {
		s.after(s.r.rtt, func() {
			s.refused = append(s.refused, s.now)
			s.signal(Refused, "192.0.2.1", began)
			s.end(x)
			s.act()
		})
		return
	}
	s.working++
	d := float64(s.r.service)
	d *= 1 - s.r.noise + s.r.noise*s.rng.ExpFloat64()
	if s.r.capacity > 0 && s.working > s.r.capacity {
		d *= float64(s.working) / float64(s.r.capacity)
	}
	tooFast := false
	if s.r.rate != nil {
		r := s.r.rate(s.now)
		s.tokens = min(max(1, r), s.tokens+r*(s.now-s.tokensAt).Seconds())
		s.tokensAt = s.now
		if tooFast = s.tokens < 1; tooFast {
			d = 0
		} else {
			s.tokens--
		}
	}
	s.after(s.r.rtt+time.Duration(d), func() {
		s.working--
		x.n++
		if tooFast {
			s.refused = append(s.refused, s.now)
			s.signal(RateRefused, "192.0.2.1", began)
		} else {
			s.done = append(s.done, s.now)
			s.signal(Accepted, "192.0.2.1", began)
		}
		if x.n >= perConnection {
			s.end(x)
		} else {
			s.idle = append(s.idle, x)
		}
		s.act()
	})
}

func count(at []time.Duration, from, to time.Duration) int {
	n := 0
	for _, t := range at {
		if t >= from && t < to {
			n++
		}
	}
	return n
}

// reached is when the goodput first was the given rate over some transactions.
func (s *sim) reached(rate float64) time.Duration {
	k := int(math.Max(10, rate*s.transaction().Seconds()))
	for i := 0; i+k < len(s.done); i++ {
		if float64(k)/(s.done[i+k]-s.done[i]).Seconds() >= rate {
			return s.done[i]
		}
	}
	return math.MaxInt64
}

func (s *sim) transaction() time.Duration { return s.r.rtt + s.r.service }
