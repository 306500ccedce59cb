package sim

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/slots"
)

const connectTimeout = 30 * time.Second // as agent/smtp's

// holdoffs are as package queue's, for a destination where nothing is up.
var holdoffs = [...]time.Duration{
	5 * time.Second, 15 * time.Second, 45 * time.Second, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
}

// soonest keeps looks at a site apart, as package queue does.
const soonest = 5 * time.Millisecond

// sender is one source address of the agent: elastic.Site and slots.Table as they are, and
// around them what package queue does: a destination where nothing answers is held off,
// sessions take turns, and so many messages as the receiver takes on a connection are
// learned.
type sender struct {
	*world
	source int
	site   *elastic.Site
	list   []elastic.Candidate
	idle   [][]*session // by host
	live   int

	timer    time.Duration
	timerSet bool
	holdoff  time.Duration // no connect before
	failures int
	allowed  int // messages on a connection
	ended    int // messages on the last one that the receiver ended

	returning []time.Duration // greylisted messages, by when they may come again
	turnBack  bool
	turn      int
}

// session is a connection, from the start of its connect.
type session struct {
	connection
	slot slots.Slot
	most int // messages, then it ends
}

func newSender(w *world, source int) agent {
	s := &sender{world: w, source: source, site: elastic.NewSite(epoch, elastic.Limits{MaxSessions: w.kind.sessions()}), allowed: perConnection}
	table := slots.NewTable(1000)
	for h := range w.receiver.Receiver.hosts() {
		k := slots.Key{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + h)}), 25)}
		s.list = append(s.list, elastic.Candidate{Address: table.Row(k, epoch)})
		s.idle = append(s.idle, nil)
	}
	return s
}

func (s *sender) state() string             { return s.site.String() }
func (s *sender) up() int                   { return s.live }
func (s *sender) wanted() int               { return s.site.Want() }
func (s *sender) hostMail()                 { s.site.HostMail(s.clock.time(), 1) }
func (s *sender) clamp(cl elastic.Clamp)    { s.site.Clamp(s.clock.time(), cl) }
func (s *sender) history() []elastic.Change { return s.site.History() }

// act hands messages to ready sessions and opens what the site wants.
func (s *sender) act() {
	now := s.clock.time()
	for n := s.site.Surplus(now); n > 0; n-- {
		if x := s.take(); x != nil {
			s.quit(x)
		}
	}
	if s.backlog == 0 {
		return
	}
	s.turn++
	for i := range s.idle {
		h := (i + s.turn) % len(s.idle)
		for len(s.idle[h]) > 0 {
			x := s.idle[h][0]
			if wait := s.site.MayBegin(&x.slot, now); wait > 0 {
				s.wake(s.clock.now + max(wait, soonest))
				break
			}
			s.idle[h] = s.idle[h][1:]
			s.send(x)
		}
	}
	for {
		if s.holdoff > s.clock.now {
			s.wake(s.holdoff)
			return
		}
		if !s.open(1) {
			break
		}
	}
	if n := s.site.Next(); !n.IsZero() {
		s.wake(max(n.Sub(epoch), s.clock.now+soonest))
	}
}

// take takes an idle session.
func (s *sender) take() *session {
	for h := range s.idle {
		if n := len(s.idle[h]); n > 0 {
			x := s.idle[h][n-1]
			s.idle[h] = s.idle[h][:n-1]
			return x
		}
	}
	return nil
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

// open begins a connect, the n-th in a row for one session, if one is wanted.
func (s *sender) open(n int) bool {
	x := &session{}
	a, ok := s.site.Open(s.clock.time(), &x.slot, s.list)
	if !ok {
		return false
	}
	s.check()
	s.connects++
	if s.kind.Suspended.has(s.clock.now) {
		s.quiet++
	}
	x.host = int(a.Key.Host.Addr().As4()[3]) - 1
	ended := false
	s.clock.after(slots.HangAfter, func() {
		if ended {
			return
		}
		if ended = s.site.Hangs(&x.slot, s.clock.time()); ended {
			s.refusedNow(false)
			s.site.Refused(&x.slot, s.clock.time(), "no answer")
		}
		s.act()
	})
	rtt := s.receiver.RTT
	s.clock.after(rtt*3/2, func() {
		x.at = s.receiver.place(s.source, x.host)
		answer := s.receiver.called(x.at)
		wait := rtt / 2
		switch answer {
		case yes:
			s.receiver.enter(x.at)
			wait = rtt * 3 / 2
		case noPort:
			wait = 0
		case silence:
			wait = connectTimeout
		}
		s.clock.after(wait, func() {
			if ended {
				return
			}
			ended = true
			now := s.clock.time()
			switch answer {
			case yes:
				s.site.CameUp(&x.slot, now)
				s.live++
				s.failures, s.holdoff = 0, 0
				x.most = s.own()
				s.ready(x)
				return
			case refusal:
				s.refusedNow(false)
				s.site.Refused(&x.slot, now, "421 too many connections")
			case reset:
				s.refusedNow(false)
				s.site.Failed(&x.slot, now, true)
			default:
				s.site.Failed(&x.slot, now, false)
				if s.live == 0 && !s.open(n+1) {
					s.hold()
				}
			}
			s.act()
		})
	})
	return true
}

// check holds the controller to what package elastic promises.
func (s *sender) check() {
	if s.site.Held() > s.kind.sessions() {
		s.bad = "more slots than the limit"
	}
}

// own is after how many messages we end a session: spread, so that those that began
// together do not end together.
func (s *sender) own() int {
	if s.allowed < perConnection {
		return s.allowed
	}
	return s.allowed - s.clock.rng.IntN(s.allowed/4)
}

// hold leaves a destination alone where nothing answers, longer each time.
func (s *sender) hold() {
	if s.holdoff <= s.clock.now {
		s.failures++
	}
	s.holdoff = s.clock.now + holdoffs[min(s.failures, len(holdoffs))-1]
}

// ready puts a session among the idle ones.
func (s *sender) ready(x *session) {
	s.idle[x.host] = append(s.idle[x.host], x)
	s.act()
}

// quit ends a session.
func (s *sender) quit(x *session) {
	s.clock.after(s.receiver.RTT/2, func() { s.receiver.leave(x.at) })
	s.gone(x)
}

// gone is for a session that has ended.
func (s *sender) gone(x *session) {
	s.live--
	s.site.Ended(&x.slot, s.clock.time())
	s.act()
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
	began, r := s.clock.time(), s.receiver
	x.n++
	answer, d := r.offered(x.at, x.n, s.again())
	s.clock.after(d, func() {
		now := s.clock.time()
		switch answer {
		case taken, takenEnd:
			r.done()
			s.delivered()
			s.perSource[s.source]++
			s.site.Accepted(&x.slot, now, began)
		case later:
			s.returning = append(s.returning, s.clock.now+r.Greylist)
			s.site.Vain(&x.slot, now, began)
		case refusedRcpt:
			s.site.Vain(&x.slot, now, began)
		case tooFast, tooFastEnd:
			s.refusedNow(true)
			s.site.TooFast(&x.slot, now, began, "450 too fast")
		case tooMany:
			s.refusedNow(false)
			r.leave(x.at)
			s.live--
			s.site.Refused(&x.slot, now, "421 too many connections")
			s.act()
			return
		case lost:
			r.done()
		case enough:
			x.n--
		}
		switch answer {
		case takenEnd, enough:
			s.learn(x.n)
			fallthrough
		case lost, tooFastEnd:
			r.leave(x.at)
			s.gone(x)
		default:
			if x.n >= x.most {
				s.quit(x)
				return
			}
			s.ready(x)
		}
	})
}
