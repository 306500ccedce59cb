package sim

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/hosts"
)

// sender is one source address of the agent: a controller, followed to the
// letter, and around it what package agent and package queue do: hosts that do
// not answer, or refuse where others do not, are tried last, and of the others
// those first to which there are fewer connections; connects that fail hold the
// destination off, sessions take turns under a pace, and so many messages as the
// receiver takes on a connection are learned.
type sender struct {
	*world
	source int
	c      *elastic.Control

	live, opening int
	hanging       int // of opening
	idle          []*session
	pace          bucket
	timer         time.Duration
	timerSet      bool

	hosts    *hosts.Hosts
	holdoff  time.Duration // no connect before
	failures int
	allowed  int // messages on a connection
	ended    int // messages on the last one that the receiver ended

	returning []time.Duration // greylisted messages, by when they may come again
	turnBack  bool

	target elastic.Target
}

// session is a connection that is up.
type session struct {
	at    place
	host  int
	n     int
	began time.Duration
}

func (s *sender) state() string             { return s.c.History()[0].Cause }
func (s *sender) up() int                   { return s.live }
func (s *sender) wanted() int               { return s.target.Sessions }
func (s *sender) hostMail()                 { s.c.HostMail(s.clock.time(), 1) }
func (s *sender) clamp(cl elastic.Clamp)    { s.c.Clamp(s.clock.time(), cl) }
func (s *sender) history() []elastic.Change { return s.c.History() }

const (
	connectTimeout = 30 * time.Second // as agent/smtp's
	hangAfter      = 2 * time.Second  // as queue.HangAfter
)

// holdoffs are as package queue's, for a destination where nothing is up.
var holdoffs = [...]time.Duration{
	5 * time.Second, 15 * time.Second, 45 * time.Second, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
}

// soonest keeps looks at a site apart, as package queue does.
const soonest = 5 * time.Millisecond

// holdoffUp is the same where something is up.
const holdoffUp = time.Second

func newSender(w *world, source int, l elastic.Limits) *sender {
	return &sender{
		world: w, source: source, c: elastic.New(epoch, l),
		hosts: hosts.New(hangAfter), allowed: perConnection,
	}
}

func hostAddr(h int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + h)}) }

func hostName(h int) string { return hostAddr(h).String() }

func (s *sender) signal(k elastic.Kind, host int, began time.Duration) {
	x := elastic.Signal{Kind: k, Host: hostName(host), Began: epoch.Add(began)}
	switch k {
	case elastic.Refused:
		x.Text = "421 too many connections"
	case elastic.RateRefused:
		x.Text = "451 too fast"
	}
	s.c.Observe(s.clock.time(), x)
}

// act does what the target says.
func (s *sender) act() {
	for {
		b := s.backlog
		now := s.clock.now
		load := elastic.Load{Backlog: b, Live: s.live, Opening: s.opening, Hanging: s.hanging}
		t := s.c.Target(s.clock.time(), load)
		s.target = t
		s.check(t, load)
		for s.live > t.Sessions && len(s.idle) > 0 {
			x := s.idle[len(s.idle)-1]
			s.idle = s.idle[:len(s.idle)-1]
			s.quit(x)
		}
		if b > 0 && len(s.idle) > 0 && s.live <= t.Sessions {
			wait := time.Duration(0)
			if t.Pace == 0 {
				s.pace = bucket{at: now}
			} else {
				wait = s.pace.take(now, t.Pace, max(1, t.Pace/10))
			}
			if wait > 0 {
				s.wake(now + max(wait, soonest))
			} else {
				s.send(s.ready(t.Pace > 0))
				continue
			}
		}
		if b > 0 && s.live+s.opening < t.Sessions && s.opening < t.Unproven {
			switch {
			case s.holdoff > now:
				s.wake(s.holdoff)
			case s.failures > 0 && s.opening > 0: // one probe at a time
			default:
				s.open()
				continue
			}
		}
		if n := s.c.Next(); !n.IsZero() {
			s.wake(n.Sub(epoch))
		}
		return
	}
}

// ready takes the session that gets the next message.
func (s *sender) ready(paced bool) *session {
	i := len(s.idle) - 1
	if paced {
		i = 0
	}
	x := s.idle[i]
	s.idle = append(s.idle[:i], s.idle[i+1:]...)
	return x
}

func (s *sender) wake(at time.Duration) {
	if s.timerSet && s.timer <= at && s.timer > s.clock.now {
		return
	}
	s.timerSet, s.timer = true, at
	s.clock.after(at-s.clock.now, func() {
		if s.timer == s.clock.now {
			s.timerSet = false
		}
		s.act()
	})
}

// connect is one that is under way.
type connect struct{ hangs, ended bool }

// over notes that it is not any more.
func (s *sender) over(x *connect) {
	s.opening--
	x.ended = true
	if x.hangs {
		s.hanging--
	}
}

// open begins a connect: it goes from host to host until one answers.
func (s *sender) open() {
	s.opening++
	x := &connect{}
	s.clock.after(hangAfter, func() {
		if !x.ended {
			x.hangs = true
			s.hanging++
			s.act()
		}
	})
	s.connects++
	if s.kind.Suspended.has(s.clock.now) {
		s.quiet++
	}
	order := s.clock.rng.Perm(s.receiver.hosts())
	hosts.Order(s.hosts, order, func(h int) hosts.Key { return hosts.Key{Addr: hostAddr(h)} }, s.clock.time())
	s.call(x, order, nil)
}

// next is the next host to try: one that is not off, or, if all are and none was
// tried, one of these.
func (s *sender) next(order []int, tried bool) (h int, rest []int, ok bool) {
	for _, alone := range []bool{false, true} {
		for i, h := range order {
			if !s.hosts.Acquire(hostAddr(h), s.clock.time(), alone) {
				continue
			}
			if alone {
				i = len(order) - 1 // one of those that are off is enough
			}
			return h, order[i+1:], true
		}
		if tried {
			break
		}
	}
	return 0, nil, false
}

// call tries the hosts in their order. failed are the signals of those before.
func (s *sender) call(x *connect, order []int, failed []func()) {
	h, rest, ok := s.next(order, len(failed) > 0)
	if !ok {
		s.clock.after(0, func() { s.notUp(x, failed) })
		return
	}
	began, from := s.clock.now, s.clock.time()
	rtt := s.receiver.RTT
	s.clock.after(rtt*3/2, func() { // SYN, SYN+ACK, ACK
		at := s.receiver.place(s.source, h)
		a := s.receiver.called(at)
		switch a {
		case noPort, silence, reset:
			wait := time.Duration(0)
			switch a {
			case silence:
				wait = connectTimeout
			case reset:
				wait = rtt / 2
				s.refusedNow(false)
			}
			s.clock.after(wait, func() {
				s.hosts.Failed(hostAddr(h), from, s.clock.time())
				s.call(x, rest, append(failed, func() { s.signal(elastic.Failed, h, began) }))
			})
		case refusal:
			s.clock.after(rtt/2, func() {
				s.refusedNow(false)
				s.hosts.Refused(hostAddr(h), from, s.clock.time())
				s.notUp(x, append(failed, func() { s.signal(elastic.Refused, h, began) }))
			})
		case yes:
			s.receiver.enter(at)
			s.clock.after(rtt*3/2, func() { // greeting, EHLO, its reply
				s.over(x)
				s.live++
				s.hosts.Connected(hostAddr(h), s.clock.time())
				s.failures, s.holdoff = 0, 0
				for _, f := range failed {
					f()
				}
				s.signal(elastic.Up, h, began)
				s.idle = append(s.idle, &session{at: at, host: h, began: s.clock.now})
				s.act()
			})
		}
	})
}

// notUp ends a connect that no host let in.
func (s *sender) notUp(x *connect, signals []func()) {
	s.over(x)
	for _, f := range signals {
		f()
	}
	wait := holdoffUp
	if s.live == 0 {
		if s.holdoff <= s.clock.now {
			s.failures++
		}
		wait = holdoffs[min(max(s.failures, 1), len(holdoffs))-1]
	}
	s.holdoff = max(s.holdoff, s.clock.now+wait)
	s.act()
}

// quit ends a session.
func (s *sender) quit(x *session) {
	s.clock.after(s.receiver.RTT/2, func() { s.receiver.leave(x.at) })
	s.closed(x)
}

// closed is for a session that the receiver has ended already.
func (s *sender) closed(x *session) {
	s.live--
	s.hosts.Disconnected(hostAddr(x.host))
	s.signal(elastic.Closed, x.host, x.began)
}

// learn notes that the receiver ended a connection after n messages: two at the
// same place are its limit.
func (s *sender) learn(n int) {
	if n > 0 && n == s.ended {
		s.allowed = n
	}
	s.ended = n
}

// again takes a greylisted message whose time has come; new ones and those take turns.
func (s *sender) again() bool {
	s.turnBack = !s.turnBack
	if len(s.returning) == 0 || s.returning[0] > s.clock.now || !s.turnBack {
		return false
	}
	s.returning = s.returning[1:]
	return true
}

// send hands the next message to a session.
func (s *sender) send(x *session) {
	began, r := s.clock.now, s.receiver
	x.n++
	answer, d := r.offered(x.at, x.n, s.again())
	s.clock.after(d, func() {
		ended := false
		switch answer {
		case taken, takenEnd:
			r.done()
			s.delivered()
			s.perSource[s.source]++
			s.signal(elastic.Accepted, x.host, began)
			ended = answer == takenEnd
		case later:
			s.returning = append(s.returning, s.clock.now+r.Greylist)
			s.signal(elastic.Accepted, x.host, began)
		case refusedRcpt:
			s.signal(elastic.Accepted, x.host, began)
		case lost:
			r.done()
			r.leave(x.at)
			s.live--
			s.hosts.Disconnected(hostAddr(x.host))
			s.signal(elastic.Lost, x.host, began)
			s.act()
			return
		case tooFast, tooFastEnd:
			s.refusedNow(true)
			s.signal(elastic.RateRefused, x.host, began)
			ended = answer == tooFastEnd
		case tooMany:
			s.refusedNow(false)
			s.signal(elastic.Refused, x.host, began)
			ended = true
		case enough:
			x.n--
			ended = true
		}
		switch {
		case ended:
			if answer != tooMany && answer != tooFastEnd {
				s.learn(x.n)
			}
			r.leave(x.at)
			s.closed(x)
		case x.n >= s.allowed:
			s.quit(x)
		default:
			s.idle = append(s.idle, x)
		}
		s.act()
	})
}
