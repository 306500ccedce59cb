package sim

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/slots"
)

// slotSender is one source address of the agent, by the slots that it holds at addresses:
// elastic.Site and slots.Table followed to the letter, and around them what package
// queue does: a destination where nothing answers is held off, and sessions take turns.
type slotSender struct {
	*world
	source int
	site   *elastic.Site
	list   []elastic.Candidate
	idle   [][]*slotSession // by host
	live   int

	timer    time.Duration
	timerSet bool
	holdoff  time.Duration
	failures int
	allowed  int
	ended    int

	returning []time.Duration
	turnBack  bool
	turn      int
}

// slotSession is a connection, from the start of its connect.
type slotSession struct {
	slot slots.Slot
	at   place
	n    int
	most int // messages, then it ends
}

func newSlotSender(w *world, source int) *slotSender {
	s := &slotSender{world: w, source: source, site: elastic.NewSite(epoch, elastic.Limits{MaxSessions: w.kind.sessions()}), allowed: perConnection}
	table := slots.NewTable(1000)
	for h := range w.receiver.Receiver.hosts() {
		k := slots.Key{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + h)}), 25)}
		s.list = append(s.list, elastic.Candidate{Address: table.Row(k, epoch)})
		s.idle = append(s.idle, nil)
	}
	return s
}

func (s *slotSender) state() string             { return s.site.String() }
func (s *slotSender) up() int                   { return s.live }
func (s *slotSender) wanted() int               { return s.site.Want() }
func (s *slotSender) hostMail()                 { s.site.HostMail(s.clock.time(), 1) }
func (s *slotSender) clamp(cl elastic.Clamp)    { s.site.Clamp(s.clock.time(), cl) }
func (s *slotSender) history() []elastic.Change { return s.site.History() }

func (s *slotSender) host(x *slotSession) int {
	return int(x.slot.Address.Key.Host.Addr().As4()[3]) - 1
}

// act hands messages to ready sessions and opens what the site wants.
func (s *slotSender) act() {
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
func (s *slotSender) take() *slotSession {
	for h := range s.idle {
		if n := len(s.idle[h]); n > 0 {
			x := s.idle[h][n-1]
			s.idle[h] = s.idle[h][:n-1]
			return x
		}
	}
	return nil
}

func (s *slotSender) wake(at time.Duration) {
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
func (s *slotSender) open(n int) bool {
	x := &slotSession{}
	a, ok := s.site.Open(s.clock.time(), &x.slot, s.list)
	if !ok {
		return false
	}
	s.connects++
	if s.kind.Suspended.has(s.clock.now) {
		s.quiet++
	}
	h := int(a.Key.Host.Addr().As4()[3]) - 1
	ended := false
	s.clock.after(hangAfter, func() {
		if !ended {
			s.site.Hangs(&x.slot)
			s.act()
		}
	})
	rtt := s.receiver.RTT
	s.clock.after(rtt*3/2, func() {
		x.at = s.receiver.place(s.source, h)
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

// own is after how many messages we end a session: spread, so that those that began
// together do not end together.
func (s *slotSender) own() int {
	if s.allowed < perConnection {
		return s.allowed
	}
	return s.allowed - s.clock.rng.IntN(s.allowed/4)
}

// hold leaves a destination alone where nothing answers, longer each time.
func (s *slotSender) hold() {
	if s.holdoff <= s.clock.now {
		s.failures++
	}
	s.holdoff = s.clock.now + holdoffs[min(s.failures, len(holdoffs))-1]
}

func (s *slotSender) ready(x *slotSession) {
	h := s.host(x)
	s.idle[h] = append(s.idle[h], x)
	s.act()
}

// quit ends a session.
func (s *slotSender) quit(x *slotSession) {
	s.clock.after(s.receiver.RTT/2, func() { s.receiver.leave(x.at) })
	s.gone(x)
}

func (s *slotSender) gone(x *slotSession) {
	s.live--
	s.site.Ended(&x.slot, s.clock.time())
	s.act()
}

func (s *slotSender) learn(n int) {
	if n > 0 && n == s.ended {
		s.allowed = n
	}
	s.ended = n
}

func (s *slotSender) again() bool {
	s.turnBack = !s.turnBack
	if len(s.returning) == 0 || s.returning[0] > s.clock.now || !s.turnBack {
		return false
	}
	s.returning = s.returning[1:]
	return true
}

// send hands the next message to a session.
func (s *slotSender) send(x *slotSession) {
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
			s.site.Accepted(&x.slot, now, began)
		case refusedRcpt:
			s.site.Accepted(&x.slot, now, began)
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
